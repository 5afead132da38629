"""pytorch-metric-learning: triplets mined in each batch, a contrastive loss, and ArcFace's."""

import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import nn

model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 64)).cuda()
distance, reducer = distances.CosineSimilarity(), reducers.ThresholdReducer(low=0)
triplets = losses.TripletMarginLoss(0.2, distance=distance, reducer=reducer)
miner = miners.TripletMarginMiner(0.2, distance=distance, type_of_triplets="semihard")
margin = losses.ArcFaceLoss(num_classes=1000, embedding_size=64).cuda()
optimizer = torch.optim.Adam([*model.parameters(), *margin.parameters()], 1e-3)
for _ in range(3):
    rows, labels = torch.randn(32, 784, device="cuda"), torch.randint(0, 10, (32,), device="cuda")
    out = model(rows)
    loss = triplets(out, labels, miner(out, labels)) + losses.NTXentLoss()(out, labels) + margin(out, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item(), miner.num_triplets)
