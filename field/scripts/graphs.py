"""A whole training step in a CUDA graph as in PyTorch's notes: warm-up on a side stream, static inputs, replays; then make_graphed_callables."""

import torch
import torch.nn as nn

torch.manual_seed(0)
N, IN, H, OUT = 640, 2048, 4096, 1024
model = nn.Sequential(nn.Linear(IN, H), nn.Dropout(p=0.2), nn.ReLU(), nn.Linear(H, OUT), nn.Dropout(p=0.1)).cuda()
loss_fn, optimizer = nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1)
static_x, static_y = torch.randn(N, IN, device="cuda"), torch.randn(N, OUT, device="cuda")
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        loss_fn(model(static_x), static_y).backward()
        optimizer.step()
torch.cuda.current_stream().wait_stream(side)
graph = torch.cuda.CUDAGraph()
optimizer.zero_grad(set_to_none=True)
with torch.cuda.graph(graph):
    static_loss = loss_fn(model(static_x), static_y)
    static_loss.backward()
    optimizer.step()
for data, target in zip(
    [torch.rand(N, IN, device="cuda") for _ in range(4)],
    [torch.rand(N, OUT, device="cuda") for _ in range(4)],
    strict=False,
):
    static_x.copy_(data)
    static_y.copy_(target)
    graph.replay()
print(static_loss.item())
one, two, three = nn.Linear(IN, H).cuda(), nn.Linear(H, OUT).cuda(), nn.Linear(H, OUT).cuda()
opt = torch.optim.Adam([*one.parameters(), *two.parameters(), *three.parameters()], 1e-3, capturable=True)
x, h = torch.randn(N, IN, device="cuda"), torch.randn(N, H, device="cuda", requires_grad=True)
one, two, three = torch.cuda.make_graphed_callables((one, two, three), ((x,), (h,), (h,)))
for step in range(3):
    data, target = torch.rand(N, IN, device="cuda"), torch.rand(N, OUT, device="cuda")
    opt.zero_grad(set_to_none=True)
    tmp = one(data)
    out = two(tmp) if step % 2 else three(tmp)
    loss = loss_fn(out, target)
    loss.backward()
    opt.step()
print(loss.item())
