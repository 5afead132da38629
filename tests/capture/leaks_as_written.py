"""Programs with a cause of memory, as people write them; see `test_leaks_as_written.py`, and more in
`leaks_further.py`. The line that is to blame carries the mark `# here`; a program of a library has none."""

from __future__ import annotations

HEAD = """\
import torch
from torch import nn
import torch.nn.functional as F
def net(w=512): return nn.Sequential(nn.Linear(w, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, 10))
"""


class Program:
    """A program, the name of its cause, and what the first lines of its report say of it."""

    def __init__(self, text: str, cause: str, *facts: str) -> None:
        self.text, self.cause, self.facts = text, cause, facts


WRITTEN: dict[str, Program] = {
    "a meter that adds losses up": Program(
        """
        from dataclasses import dataclass, field
        @dataclass
        class Meter:
            name: str
            total: float = 0.0
            count: int = 0
            def update(self, value, n):
                self.total = self.total + value * n  # here
                self.count += n
        meters = {"train": {"loss": Meter("loss")}}
        model = net().cuda(); opt = torch.optim.Adam(model.parameters())
        for step in range(8):
            x = torch.randn(256, 512, device="cuda"); y = torch.randint(0, 10, (256,), device="cuda")
            loss = F.cross_entropy(model(x), y)
            opt.zero_grad(); loss.backward(); opt.step()
            meters["train"]["loss"].update(F.cross_entropy(model(x), y), 256)
        print(meters["train"]["loss"].count)
        """,
        "growing-graph", "`meters['train']['loss'].total`", "`.detach()` or `.item()`"),
    "outputs of a training step, 20 KiB of them": Program(
        """
        class Module(nn.Module):
            def __init__(self):
                super().__init__(); self.net = net(); self.training_step_outputs = []
            def training_step(self, batch):
                x, y = batch
                logits = self.net(x)
                loss = F.cross_entropy(logits, y)
                self.training_step_outputs.append({"loss": loss, "logits": logits})  # here
                return loss
            def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
        class Trainer:
            def fit(self, module, loader):
                module.cuda(); opt = module.configure_optimizers()
                for batch in loader:
                    batch = [b.cuda() for b in batch]
                    loss = module.training_step(batch)
                    opt.zero_grad(); loss.backward(); opt.step()
        data = [(torch.randn(512, 512), torch.randint(0, 10, (512,))) for _ in range(8)]
        Trainer().fit(Module(), data)
        """,
        "growing", "20.00 KiB a step", "`module.training_step_outputs`", "`.detach().cpu()`"),
    "a registry that hooks fill": Program(
        """
        from collections import defaultdict
        REGISTRY = defaultdict(list)
        def watch(model):
            def keep(module, inputs, output, name):
                REGISTRY[name].append(output)  # here
            for name, m in model.named_modules():
                if isinstance(m, nn.ReLU):
                    m.register_forward_hook(lambda mod, i, o, name=name: keep(mod, i, o, name))
        model = net().cuda(); watch(model); opt = torch.optim.AdamW(model.parameters())
        def run_epoch(n):
            for _ in range(n):
                loss = model(torch.randn(1024, 512).cuda()).logsumexp(1).mean()
                loss.backward(); opt.step(); opt.zero_grad()
        run_epoch(8)
        """,
        "growing", "4.000 MiB a step", "`REGISTRY['1']`", "empty"),
    "an average with its graph": Program(
        """
        class Normalizer(nn.Module):
            def __init__(self, n):
                super().__init__(); self.momentum = 0.1; self.mean = torch.zeros(n, device="cuda")
            def forward(self, x):
                self.mean = (1 - self.momentum) * self.mean + self.momentum * x.mean(0)  # here
                return x - self.mean
        class Net(nn.Module):
            def __init__(self):
                super().__init__(); self.first = nn.Linear(256, 4096)
                self.norm = Normalizer(4096); self.last = nn.Linear(4096, 10)
            def forward(self, x): return self.last(self.norm(torch.relu(self.first(x))))
        model = Net().cuda(); opt = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(6):
            x = torch.randn(512, 256, device="cuda")
            loss = model(x).pow(2).mean()
            opt.zero_grad(); loss.backward(retain_graph=True); opt.step()
        """,
        "growing-graph", "8.500 MiB a step", "`model.norm.mean`", "`.detach()`"),
    "gradients with a graph": Program(
        """
        critic = net().cuda(); opt = torch.optim.Adam(critic.parameters())
        def penalty(x):
            score = critic(x).sum()
            score.backward(create_graph=True)  # here
            return x.grad.norm(2, dim=1).sub(1).pow(2).mean()
        for _ in range(8):
            x = torch.randn(512, 512, device="cuda", requires_grad=True)
            gp = penalty(x)
            gp.backward()
            opt.step(); opt.zero_grad(set_to_none=False)
        """,
        "growing-graph", "2.000 MiB a step", "reference cycle", "torch.autograd.grad"),
    "what an evaluator collects": Program(
        """
        class Evaluator:
            def __init__(self, model): self.model, self.results = model, {"pred": [], "target": []}
            def batches(self, n):
                for _ in range(n): yield torch.randn(2048, 512), torch.randint(0, 10, (2048,))
            def __call__(self, n):
                self.model.eval()
                for x, y in self.batches(n):
                    self.results["pred"].append(self.model(x.cuda()).softmax(-1))
                    self.results["target"].append(y.cuda())  # here
                return torch.cat(self.results["pred"]).argmax(1).eq(torch.cat(self.results["target"])).float().mean()
        Evaluator(net().cuda())(10)
        """,
        "growing-graph", "12.08 MiB a call", "`self.results['pred']`", "torch.no_grad()"),
    "a checkpoint that is loaded after the first step": Program(
        """
        import io
        def build(): return nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(6)])
        buffer = io.BytesIO()
        first = build().cuda(); o = torch.optim.AdamW(first.parameters())
        first(torch.randn(4, 2048, device="cuda")).sum().backward(); o.step()
        torch.save({"model": first.state_dict(), "optimizer": o.state_dict(), "epoch": 3}, buffer)
        del first, o
        buffer.seek(0)
        class Session:
            def __init__(self, file):
                self.state = torch.load(file, map_location="cuda")  # here
                self.model = build().cuda(); self.model.load_state_dict(self.state["model"])
                self.opt = torch.optim.AdamW(self.model.parameters())
                self.opt.load_state_dict(self.state["optimizer"])
            def train(self, n):
                for _ in range(n):
                    loss = self.model(torch.randn(64, 2048, device="cuda")).mean(); loss.backward()
                    self.opt.step(); self.opt.zero_grad()
        s = Session(buffer); s.train(4)
        """,
        "loaded-and-unread", "96.05 MiB", "`self.state", "`del self.state`", "map_location='cpu'"),
    "two iterations": Program(
        """
        class Vgg(nn.Module):
            def __init__(self):
                super().__init__()
                self.c = nn.ModuleList([nn.Conv2d(3 if i == 0 else 64, 64, 3, padding=1) for i in range(6)])
            def forward(self, x):
                for c in self.c: x = torch.relu(c(x))
                return x.mean((2, 3))  # here
        model = Vgg().cuda(); opt = torch.optim.SGD(model.parameters(), 0.1)
        output = None
        for i in range(5):
            images = torch.randn(16, 3, 128, 128, device="cuda")
            output = model(images)
            loss = output.square().mean()
            loss.backward(retain_graph=True)
            opt.step(); opt.zero_grad()
        """,
        "two-steps-alive", "384.0 MiB", "`output`", "`del output`"),
    "a replay buffer": Program(
        """
        from collections import deque
        class Buffer:
            def __init__(self, n): self.memory = deque(maxlen=n)
            def push(self, *row): self.memory.append(row)  # here
        policy = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(),
            nn.Linear(1024, 8)).cuda()
        opt = torch.optim.Adam(policy.parameters())
        replay = Buffer(10000); state = torch.randn(256, 64, device="cuda")
        for t in range(12):
            q = policy(state)
            action = q.argmax(1)
            nxt = torch.randn(256, 64, device="cuda")
            replay.push(state, q, action, nxt)
            loss = q.gather(1, action[:, None]).mean()
            opt.zero_grad(); loss.backward(); opt.step()
            state = nxt
        """,
        "growing", "74.00 KiB a step", "`replay.memory`", "`.detach().cpu()`"),
    "a validation with gradients": Program(
        """
        class Block(nn.Module):
            def __init__(self): super().__init__(); self.a = nn.Linear(1024, 4096); self.b = nn.Linear(4096, 1024)
            def forward(self, x): return x + self.b(F.gelu(self.a(x)))
        class Loop:
            def __init__(self):
                self.model = nn.Sequential(*[Block() for _ in range(6)]).cuda()
                self.opt = torch.optim.AdamW(self.model.parameters()); self.history = {"val": []}
            def train(self):
                for _ in range(3):
                    loss = self.model(torch.randn(256, 1024, device="cuda")).pow(2).mean(); loss.backward()
                    self.opt.step(); self.opt.zero_grad()
            def validate(self):
                self.model.eval()
                for _ in range(4):
                    x = torch.randn(2048, 1024, device="cuda")
                    self.history["val"].append(self.model(x).pow(2).mean())  # here
        loop = Loop()
        for _ in range(2): loop.train(); loop.validate()
        """,
        "growing-graph", "440.0 MiB a call", "`self.history['val']`", "torch.no_grad()"),
    "a handler of logs that keeps tensors": Program(
        """
        import logging
        class Collect(logging.Handler):
            def __init__(self): super().__init__(); self.records = []
            def emit(self, record): self.records.append(record)  # here
        log = logging.getLogger("train"); log.setLevel(logging.INFO)
        log.addHandler(Collect()); log.propagate = False
        def make_step(model, opt):
            losses = []
            def step(x):
                out = model(x); loss = out.square().mean(); opt.zero_grad(); loss.backward(); opt.step()
                log.info("loss %s out %s", loss, out)
                return loss
            return step
        model = net().cuda(); step = make_step(model, torch.optim.SGD(model.parameters(), 0.1))
        for _ in range(8): step(torch.randn(4096, 512, device="cuda"))
        """,
        "growing", "160.0 KiB a step", "`log.handlers[0].records`", "empty"),
    "modules that nothing calls": Program(
        """
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = net(1024); self.aux = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(8)])
            def forward(self, x): return self.body(x)
        m = Two().cuda(); opt = torch.optim.AdamW(m.parameters())
        for _ in range(3):
            loss = m(torch.randn(64, 1024, device="cuda")).mean(); loss.backward()
            opt.step(); opt.zero_grad()  # here
        """,
        "no-gradient", "16 of 22 parameters, 128.1 MiB", "`aux.0.weight`", "requires_grad_(False)"),
    "one checkpoint around an encoder": Program(
        """
        from torch.utils.checkpoint import checkpoint
        class Block(nn.Module):
            def __init__(self, w=768):
                super().__init__()
                self.n = nn.LayerNorm(w); self.f = nn.Sequential(nn.Linear(w, 4*w), nn.GELU(), nn.Linear(4*w, w))
            def forward(self, x): return x + self.f(self.n(x))  # here
        class Encoder(nn.Module):
            def __init__(self): super().__init__(); self.layers = nn.ModuleList(Block() for _ in range(10))
            def forward(self, x):
                for l in self.layers: x = l(x)
                return x
        class Wrapper(nn.Module):
            def __init__(self): super().__init__(); self.encoder = Encoder(); self.head = nn.Linear(768, 10)
            def forward(self, x): return self.head(checkpoint(self.encoder, x, use_reentrant=False).mean(1))
        m = Wrapper().cuda(); opt = torch.optim.AdamW(m.parameters())
        for _ in range(2):
            loss = m(torch.randn(16, 256, 768, device="cuda")).square().mean(); loss.backward()
            opt.step(); opt.zero_grad()
        """,
        "checkpoint-too-wide", "10 of the 10 layers", "checkpoint each layer"),
}  # fmt: skip
