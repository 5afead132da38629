"""Programs that keep something from step to step, and programs that keep nothing; see `test_holders.py`."""

from __future__ import annotations

from typing import NamedTuple

HEAD = """\
import collections, functools, gc, itertools, torch
from torch import nn
net = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).cuda()
opt = torch.optim.SGD(net.parameters(), 0.1)
def batch(): return torch.randn(64, 512, device="cuda")
"""


class Case(NamedTuple):
    """A program that grows."""

    program: str
    rate: int
    """KiB a step."""
    finding: str
    holder: str
    """What is said of who holds it."""
    help: str


GROWING: dict[str, Case] = {
    # the input and the hidden layer, which the graph saved: 128 + 256; and their sum's own 4 bytes stay below 1 KiB
    "a summed loss": Case(
        """
        total = 0
        for _ in range(6):
            loss = net(batch()).mean()
            loss.backward(retain_graph=True); opt.step(); opt.zero_grad()
            total = total + loss  # here
        """,
        384, "growing-graph", "the autograd graph behind the variable `total`", "`.detach()` or `.item()`"),
    "a summed loss in a closure": Case(
        """
        def make():
            total = [0]
            def step():
                loss = net(batch()).mean()
                opt.zero_grad(); loss.backward(retain_graph=True); opt.step()
                total[0] = total[0] + loss  # here
            return step
        step = make()
        for _ in range(6): step()
        """,
        384, "growing-graph", "the autograd graph behind the list `total`", "`.detach()`"),
    "a list of results": Case(
        """
        class Trainer:
            def __init__(self): self.history = {"preds": []}
            def step(self):
                out = net(batch())
                out.mean().backward(); opt.step(); opt.zero_grad()
                self.history["preds"].append(out.detach())  # here
        trainer = Trainer()
        for _ in range(7): trainer.step()
        """,
        128, "growing", "the list `self.history['preds']`", ".detach().cpu()"),
    "a list of results with their graphs": Case(
        """
        outputs = []
        for _ in range(6):
            out = net(batch())
            outputs.append(out)  # here
            out.mean().backward(retain_graph=True); opt.step(); opt.zero_grad()
        """,
        512, "growing-graph", "the autograd graph behind the list `outputs`", "(or `.item()`) of it into `outputs`"),
    "a hook that collects": Case(
        """
        acts = {}
        def hook(module, args, out):
            acts.setdefault("relu", []).append(out)  # here
        net[1].register_forward_hook(hook)
        for _ in range(6):
            net(batch()).mean().backward(); opt.step(); opt.zero_grad()
        """,
        256, "growing", "the list `acts['relu']`", "empty `acts['relu']`"),
    "a hook whose list only it knows": Case(
        """
        def install(module):
            seen = []
            def hook(module, args, out):
                seen.append(out.detach().clone())  # here
            module.register_forward_hook(hook)
        install(net[1])
        for _ in range(6):
            net(batch()).mean().backward(); opt.step(); opt.zero_grad()
        """,
        256, "growing", "the list `seen in hook`", "empty `seen in hook`"),
    # the input, which the product saved for the scale's gradient, and the product, which `pow` saved
    "running statistics with their graph": Case(
        """
        class Norm(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("running", torch.ones(512))
                self.scale = nn.Parameter(torch.ones(512))
            def forward(self, x):
                var = (x * self.scale).pow(2).mean(0)
                self.running = 0.9 * self.running + 0.1 * var  # here
                return x * self.scale
        norm = Norm().cuda()
        opt = torch.optim.SGD(norm.parameters(), 0.1)
        for _ in range(6):
            norm(batch()).mean().backward(); opt.step(); opt.zero_grad()
        """,
        256, "growing-graph", "the module's buffer `norm.running`", "torch.no_grad()"),
    "results concatenated": Case(
        """
        seen = torch.zeros(0, 512, device="cuda")
        for _ in range(6):
            out = net(batch())
            out.mean().backward(); opt.step(); opt.zero_grad()
            seen = torch.cat([seen, out.detach()])  # here
        """,
        128, "growing", "the variable `seen`", "empty `seen`"),
    # input, hidden layer and output of each call
    "predictions piled up in evaluation": Case(
        """
        def evaluate():
            preds = []
            for _ in range(9):
                preds.append(net(batch()))  # here
            return torch.cat(preds)
        evaluate()
        """,
        512, "growing-graph", "the autograd graph behind the list `preds`", "torch.no_grad()"),
    "predictions piled up after training": Case(
        """
        for _ in range(2):
            net(batch()).mean().backward(); opt.step(); opt.zero_grad()
        preds = []
        with torch.no_grad():
            for _ in range(9):
                out = net(batch())
                preds.append(out)  # here
        """,
        128, "growing", "the list `preds`", ".detach().cpu()"),
    "a state that is never detached": Case(
        """
        h = torch.zeros(64, 512, device="cuda")
        for _ in range(6):
            h = net(h + batch())  # here
            h.mean().backward(retain_graph=True); opt.step(); opt.zero_grad()
        """,
        384, "growing-graph", "the autograd graph behind the variable `h`", "`.detach()`"),
    # 512 × 1024 + 1024 + 1024 × 512 + 512 floats, and as many of their gradients: 2 × 4102 KiB
    "models": Case(
        """
        import copy
        models = []
        for _ in range(6):
            model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).cuda()
            opt = torch.optim.SGD(model.parameters(), 0.1)
            model(batch()).mean().backward(); opt.step()
            models.append((0, model))  # here
        """,
        8204, "growing", "the list `models`", "let go of the models"),
    # two moments of each weight, by as many optimizers
    "an optimizer for each step": Case(
        """
        opts = []
        for i in range(6):
            opt = torch.optim.Adam(net.parameters(), foreach=False)
            opts.append(opt)  # here
            net(batch()).mean().backward(); opt.step(); opt.zero_grad()
        """,
        8204, "growing", "the list `opts`", "keep one optimizer"),
    "an object that refers to itself": Case(
        """
        gc.disable()
        class State:  # here
            def __init__(self, data): self.data, self.me = data, self
        for _ in range(6):
            state = State(batch())
            net(state.data).mean().backward(); opt.step(); opt.zero_grad()
        """,
        128, "growing", "a reference cycle of `State` objects", "weakref"),
}  # fmt: skip

QUIET: dict[str, str] = {
    "losses as numbers": """
        losses = []
        for _ in range(6):
            loss = net(batch()).mean()
            loss.backward(); opt.step(); opt.zero_grad()
            losses.append(loss.item())
    """,
    "losses as small tensors": """
        losses = []
        for _ in range(6):
            loss = net(batch()).mean()
            loss.backward(); opt.step(); opt.zero_grad()
            losses.append(loss.detach())
    """,
    "a queue of fixed length": """
        last = collections.deque(maxlen=2)
        for _ in range(8):
            out = net(batch())
            out.mean().backward(); opt.step(); opt.zero_grad()
            last.append(out.detach())
    """,
    "state that is detached": """
        h = torch.zeros(64, 512, device="cuda")
        for _ in range(6):
            h = net(h.detach() + batch())
            h.mean().backward(); opt.step(); opt.zero_grad()
    """,
    "a sequence through time": """
        for _ in range(4):
            h, outs = torch.zeros(64, 512, device="cuda"), []
            for _ in range(8):
                h = net(h + batch())
                outs.append(h)
            torch.stack(outs).mean().backward(); opt.step(); opt.zero_grad()
    """,
    "a sequence through time, once": """
        h, outs = torch.zeros(64, 512, device="cuda"), []
        for _ in range(8):
            h = net(h + batch())
            outs.append(h)
        torch.stack(outs).mean().backward(); opt.step(); opt.zero_grad()
    """,
    "micro-batches": """
        for _ in range(4):
            for _ in range(4):
                (net(batch()).mean() / 4).backward()
            opt.step(); opt.zero_grad()
    """,
    "two networks against each other": """
        other = nn.Linear(512, 1).cuda()
        two = torch.optim.Adam(other.parameters())
        for _ in range(5):
            fake = net(batch())
            (other(batch()).mean() - other(fake.detach()).mean()).backward(); two.step(); two.zero_grad()
            other(fake).mean().backward(); opt.step(); opt.zero_grad()
    """,
    "an average of the weights": """
        average = {name: value.detach().clone() for name, value in net.state_dict().items()}
        for _ in range(6):
            net(batch()).mean().backward(); opt.step(); opt.zero_grad()
            for name, value in net.state_dict().items():
                average[name].mul_(0.9).add_(value.detach(), alpha=0.1)
    """,
    "state of experts that are used late": """
        experts = nn.ModuleList(nn.Linear(512, 512) for _ in range(6)).cuda()
        opt = torch.optim.Adam(experts.parameters())
        for expert in experts:
            expert(batch()).mean().backward(); opt.step(); opt.zero_grad()
    """,
    "an optimizer for each parameter": """
        opts = {p: torch.optim.Adam([p], foreach=False) for p in net.parameters()}
        def hook(p): opts[p].step(); opts[p].zero_grad()
        for p in net.parameters(): p.register_post_accumulate_grad_hook(hook)
        for _ in range(4): net(batch()).mean().backward()
    """,
    "evaluation": """
        correct = 0
        with torch.no_grad():
            for _ in range(9):
                correct += net(batch()).argmax(1).sum()
    """,
    "layers that the program calls one by one": """
        layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(8)).cuda()
        for layer in layers[:7]: layer.requires_grad_(False)
        opt = torch.optim.SGD(layers[7].parameters(), 0.1)
        for _ in range(2):
            x, states = batch(), []
            for layer in layers:
                x = torch.relu(layer(x))
                states.append(x)
            x.mean().backward(); opt.step(); opt.zero_grad()
    """,
    "lengths that vary": """
        for n in (64, 80, 32, 100, 48, 90, 70):
            net(torch.randn(n, 512, device="cuda")).mean().backward(); opt.step(); opt.zero_grad()
    """,
    "networks of the same names that begin one after another": """
        nets = [nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).cuda() for _ in range(3)]
        opts = [torch.optim.SGD(one.parameters(), 0.1) for one in nets]
        for step in range(6):
            nets[step // 2](batch()).mean().backward(); opts[step // 2].step()
    """,
    "an average made anew of the one before": """
        average = {}
        for _ in range(6):
            x = torch.randn(4096, 512, device="cuda")
            net(x).mean().backward()
            average["rows"] = 0.9 * average["rows"] + x if average else 0.1 * x + x
            opt.step(); opt.zero_grad()
    """,
    "an integration along gradients, in one step": """
        x, terms = batch().requires_grad_(), []
        for _ in range(6):
            (g,) = torch.autograd.grad(net(x).sum(), x)
            terms.append(g)
        (net(x) * sum(terms)).mean().backward(); opt.step(); opt.zero_grad()
    """,
    "an integration by four terms": """
        with torch.no_grad():
            x = batch()
            for _ in range(6):
                a = net(x)
                b = net(x + a)
                c = net(x + b)
                x = x + (a + b + c + net(x + c))
    """,
    "gradients alone": """
        for _ in range(6):
            x = batch().requires_grad_()
            net(x).mean().backward()
            net.zero_grad()
    """,
    "the best weights, gone back to": """
        for step in range(4):
            net(batch()).mean().backward(); opt.step(); opt.zero_grad()
            if step == 0: best = {name: value.detach().clone() for name, value in net.state_dict().items()}
        net.load_state_dict(best)
    """,
    "figures of each step, of each class": """
        counts = []
        for _ in range(6):
            out = net(batch())
            out.mean().backward(); opt.step(); opt.zero_grad()
            counts.append(out.detach().mean(0)[:100])
            counts[-1] = counts[-1].clone()
    """,
    "a gradient penalty": """
        for _ in range(6):
            x = batch().requires_grad_()
            (grad,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            grad.norm().backward(); opt.step(); opt.zero_grad()
    """,
}

LOADED = """
    ck = {"step": 3, "model": {name: value.clone() for name, value in net.state_dict().items()}}  # here
    net.load_state_dict(ck["model"])
    RELEASE
    for _ in range(2):
        net(batch()).mean().backward(); opt.step(); opt.zero_grad()
"""
"""What is loaded: 512 × 1024 + 1024 + 1024 × 512 + 512 floats, 4102 KiB."""

ALIVE = """
    def batch(): return torch.randn(65536, 512, device="cuda")
    GRAD
    for _ in range(6):
        out = net(batch())  # here
"""
"""A batch of 128 MiB, its hidden layer of 256 and its result of 128."""
