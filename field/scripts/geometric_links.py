"""torch_geometric: link prediction with a GAE, GIN on molecules-like batches, GATv2 with edge features, a transformer convolution, virtual nodes."""

import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import (
    GAE,
    BatchNorm,
    GATv2Conv,
    GCNConv,
    GINEConv,
    GraphNorm,
    JumpingKnowledge,
    TransformerConv,
    global_add_pool,
    global_max_pool,
)
from torch_geometric.utils import to_undirected

torch.manual_seed(0)
n, m = 8000, 60000
edges = to_undirected(torch.randint(0, n, (2, m)))
data = Data(x=torch.randn(n, 256), edge_index=edges).to("cuda")


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = GCNConv(256, 128), GCNConv(128, 64)

    def forward(self, x, e):
        return self.b(F.dropout(self.a(x, e).relu(), 0.3, self.training), e)


model = GAE(Encoder()).cuda()
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for epoch in range(3):
    model.train()
    optimizer.zero_grad()
    z = model.encode(data.x, data.edge_index)
    wrong = torch.randint(0, n, (2, data.edge_index.size(1)), device="cuda")
    loss = model.recon_loss(z, data.edge_index, wrong)
    loss.backward()
    optimizer.step()
print("gae", loss.item())


class Molecules(torch.nn.Module):
    def __init__(self, d=96, layers=4):
        super().__init__()
        self.atom, self.bond = torch.nn.Embedding(30, d), torch.nn.Embedding(5, d)
        self.convs = torch.nn.ModuleList(
            GINEConv(
                torch.nn.Sequential(
                    torch.nn.Linear(d, 2 * d), BatchNorm(2 * d), torch.nn.ReLU(), torch.nn.Linear(2 * d, d)
                )
            )
            for _ in range(layers)
        )
        self.norms = torch.nn.ModuleList(GraphNorm(d) for _ in range(layers))
        self.jump = JumpingKnowledge("cat")
        self.attend = TransformerConv(layers * d, d // 4, heads=4, edge_dim=d)
        self.gat = GATv2Conv(d, d // 2, heads=2, edge_dim=d)
        self.head = torch.nn.Linear(2 * d, 1)

    def forward(self, data):
        x, e = self.atom(data.x), self.bond(data.edge_attr)
        seen = []
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = norm(F.relu(conv(x, data.edge_index, e)), data.batch)
            seen.append(x)
        x = self.gat(self.attend(self.jump(seen), data.edge_index, e).relu(), data.edge_index, e)
        return self.head(torch.cat([global_add_pool(x, data.batch), global_max_pool(x, data.batch)], -1)).squeeze(-1)


def molecule(i):
    g = torch.Generator().manual_seed(i)
    k = 15 + i % 20
    e = torch.randint(0, k, (2, 3 * k), generator=g)
    return Data(
        x=torch.randint(0, 30, (k,), generator=g),
        edge_index=e,
        edge_attr=torch.randint(0, 5, (3 * k,), generator=g),
        y=torch.randn(1, generator=g),
    )


net = Molecules().cuda()
optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
total = 0
for batch in DataLoader([molecule(i) for i in range(600)], batch_size=200):
    batch = batch.to("cuda")
    loss = F.l1_loss(net(batch), batch.y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    total += float(loss) * batch.num_graphs
print("molecules", total / 600)
