"""torch_geometric: GCN on one graph with masks and early stopping, GAT and GIN on batches of graphs."""

import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv, global_mean_pool
from torch_geometric.utils import add_self_loops, degree, to_undirected

NODES, EDGES, INPUTS, CLASSES = 2000, 10000, 128, 7


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = GCNConv(INPUTS, 64, cached=True), GCNConv(64, CLASSES, cached=True)

    def forward(self, x, edges):
        x = F.dropout(self.first(x, edges).relu(), 0.5, self.training)
        return self.second(x, edges)


edges = to_undirected(torch.randint(0, NODES, (2, EDGES)))
data = Data(torch.randn(NODES, INPUTS), edges, y=torch.randint(0, CLASSES, (NODES,)))
data.train_mask, data.val_mask = torch.arange(NODES) < 1500, torch.arange(NODES) >= 1500
data = data.to("cuda")
model = Net().cuda()
optimizer = torch.optim.Adam(model.parameters(), 0.01, weight_decay=5e-4)
best = waited = 0
for epoch in range(5):
    model.train()
    optimizer.zero_grad()
    out = model(data.x, data.edge_index)
    loss = F.cross_entropy(out[data.train_mask], data.y[data.train_mask])
    loss.backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        guessed = model(data.x, data.edge_index).argmax(-1)
    right = int((guessed[data.val_mask] == data.y[data.val_mask]).sum()) / int(data.val_mask.sum())
    best, waited = (right, 0) if right > best else (best, waited + 1)
    if waited > 10:
        break
print(float(loss), best)


class Graphs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        inner = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
        self.one, self.two, self.three = GATConv(16, 16, heads=4, edge_dim=4), GINConv(inner), SAGEConv(64, 32)
        self.head = torch.nn.Linear(32, 2)

    def forward(self, data):
        x = F.elu(self.one(data.x, data.edge_index, data.edge_attr))
        x = self.three(self.two(x, data.edge_index), data.edge_index)
        return self.head(global_mean_pool(x, data.batch))


def graph(number):
    nodes = 10 + number % 7
    edges = add_self_loops(torch.randint(0, nodes, (2, 3 * nodes)))[0]
    return Data(torch.randn(nodes, 16), edges, torch.randn(edges.shape[1], 4), y=torch.tensor([number % 2]))


graphs = Graphs().cuda()
optimizer = torch.optim.Adam(graphs.parameters())
for batch in DataLoader([graph(n) for n in range(64)], batch_size=16, shuffle=True):
    batch = batch.to("cuda")
    loss = F.cross_entropy(graphs(batch), batch.y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item(), degree(batch.edge_index[0], batch.num_nodes).shape)
