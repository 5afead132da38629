"""Programs in which nothing is wrong, of other kinds than the workloads: `python quiet_programs.py gan` runs one."""

import copy
import io
import random
import sys
from collections import deque

import torch
import torch.nn.functional as F
from torch import nn


def net(w=512, d=4):
    return nn.Sequential(*[m for _ in range(d) for m in (nn.Linear(w, w), nn.ReLU())], nn.Linear(w, 10))


def batch(n=256, w=512):
    return torch.randn(n, w, device="cuda"), torch.randint(0, 10, (n,), device="cuda")


NAMES = (
    "ema",
    "accumulate",
    "two_optimizers",
    "scheduler",
    "evaluate",
    "gan",
    "replay",
    "saving",
    "compiled",
    "loader",
    "generating",
    "warm_up",
    "varying",
    "trainer",
    "truncated",
    "metrics",
    "frozen",
)


def ema():
    m = net().cuda()
    e = copy.deepcopy(m).requires_grad_(False)
    o = torch.optim.AdamW(m.parameters(), fused=True)
    for _ in range(6):
        x, y = batch()
        F.cross_entropy(m(x), y).backward()
        o.step()
        o.zero_grad()
        with torch.no_grad():
            for a, b in zip(e.parameters(), m.parameters(), strict=True):
                a.lerp_(b, 0.01)


def accumulate():
    m = net().cuda()
    o = torch.optim.SGD(m.parameters(), 0.1, momentum=0.9)
    for i in range(12):
        x, y = batch()
        (F.cross_entropy(m(x), y) / 4).backward()
        if i % 4 == 3:
            o.step()
            o.zero_grad()


def two_optimizers():
    m, h = net().cuda(), nn.Linear(10, 10).cuda()
    a = torch.optim.SGD(m.parameters(), 0.1)
    b = torch.optim.Adam(h.parameters(), fused=True)
    for _ in range(6):
        x, y = batch()
        loss = F.cross_entropy(h(m(x)), y)
        a.zero_grad()
        b.zero_grad()
        loss.backward()
        a.step()
        b.step()


def scheduler():
    m = net().cuda()
    o = torch.optim.AdamW(m.parameters(), fused=True)
    s = torch.optim.lr_scheduler.OneCycleLR(o, 0.01, total_steps=10)
    hist = []
    for _ in range(8):
        x, y = batch()
        loss = F.cross_entropy(m(x), y)
        o.zero_grad()
        loss.backward()
        o.step()
        s.step()
        hist.append(loss.item())


def evaluate():
    m = net().cuda()
    o = torch.optim.SGD(m.parameters(), 0.1)
    for _ in range(3):
        m.train()
        for _ in range(3):
            x, y = batch()
            loss = F.cross_entropy(m(x), y)
            o.zero_grad()
            loss.backward()
            o.step()
        m.eval()
        right = 0
        with torch.inference_mode():
            for _ in range(3):
                x, y = batch(512)
                right += (m(x).argmax(1) == y).sum().item()


def gan():
    g, d = net(256).cuda(), nn.Sequential(nn.Linear(10, 512), nn.ReLU(), nn.Linear(512, 1)).cuda()
    og, od = torch.optim.Adam(g.parameters(), fused=True), torch.optim.Adam(d.parameters(), fused=True)
    for _ in range(6):
        real, z = torch.randn(128, 10, device="cuda"), torch.randn(128, 256, device="cuda")
        ld = F.softplus(-d(real)).mean() + F.softplus(d(g(z).detach())).mean()
        od.zero_grad()
        ld.backward()
        od.step()
        lg = F.softplus(-d(g(z))).mean()
        og.zero_grad()
        lg.backward()
        og.step()


def replay():
    q = nn.Sequential(nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 4)).cuda()
    t = copy.deepcopy(q)
    o = torch.optim.RMSprop(q.parameters())
    mem = deque(maxlen=4)
    s = torch.randn(64, 32, device="cuda")
    for i in range(14):
        with torch.no_grad():
            a = q(s).argmax(1)
        n = torch.randn(64, 32, device="cuda")
        mem.append((s, a, n))
        s = n
        x, a, n = random.choice(mem)
        with torch.no_grad():
            target = t(n).max(1)[0]
        loss = F.smooth_l1_loss(q(x).gather(1, a[:, None])[:, 0], target)
        o.zero_grad()
        loss.backward()
        o.step()
        if i % 5 == 0:
            t.load_state_dict(q.state_dict())


def saving():
    m = net().cuda()
    o = torch.optim.AdamW(m.parameters(), fused=True)
    for i in range(9):
        x, y = batch()
        loss = F.cross_entropy(m(x), y)
        o.zero_grad()
        loss.backward()
        o.step()
        if i % 3 == 2:
            torch.save({"m": m.state_dict(), "o": o.state_dict(), "step": i}, io.BytesIO())


def compiled():
    m = torch.compile(net(256, 2).cuda())
    o = torch.optim.SGD(m.parameters(), 0.1)
    for _ in range(4):
        x, y = batch(256, 256)
        loss = F.cross_entropy(m(x), y)
        o.zero_grad()
        loss.backward()
        o.step()


def loader():
    data = torch.utils.data.TensorDataset(torch.randn(1000, 512), torch.randint(0, 10, (1000,)))
    m = net().cuda()
    o = torch.optim.SGD(m.parameters(), 0.1)
    for x, y in torch.utils.data.DataLoader(data, 192, shuffle=True, num_workers=2, pin_memory=True):
        loss = F.cross_entropy(m(x.cuda(non_blocking=True)), y.cuda(non_blocking=True))
        o.zero_grad()
        loss.backward()
        o.step()


def generating():
    from transformers import GPT2Config, GPT2LMHeadModel

    m = GPT2LMHeadModel(GPT2Config(n_embd=128, n_layer=2, n_head=4, vocab_size=500)).cuda()
    o = torch.optim.AdamW(m.parameters(), fused=True)
    m.config.use_cache = False
    for _ in range(3):
        ids = torch.randint(0, 500, (8, 64), device="cuda")
        m.train()
        m(ids, labels=ids).loss.backward()
        o.step()
        o.zero_grad()
        m.eval()
        m.generate(ids[:2, :8], max_new_tokens=6, do_sample=False, use_cache=True, pad_token_id=0)


def warm_up():
    m = net().cuda()
    dummy = torch.randn(1024, 512, device="cuda")
    with torch.no_grad():
        m(dummy)
    del dummy
    table = torch.randn(64, 512, device="cuda")
    o = torch.optim.SGD(m.parameters(), 0.1)
    cache = {}
    for i in range(8):
        key = i % 3
        if key not in cache:
            cache[key] = torch.randn(256, 512, device="cuda")
        loss = m(cache[key] + table.mean(0)).square().mean()
        o.zero_grad()
        loss.backward()
        o.step()


def varying():
    m = net().cuda()
    o = torch.optim.AdamW(m.parameters(), fused=True)
    for n in (256, 256, 256, 100, 256, 256, 256, 100, 30):
        x, y = batch(n)
        loss = F.cross_entropy(m(x), y)
        o.zero_grad(set_to_none=True)
        loss.backward()
        o.step()


def trainer():
    from transformers import BertConfig, BertForSequenceClassification

    m = BertForSequenceClassification(
        BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, vocab_size=800)
    ).cuda()
    o = torch.optim.AdamW(m.parameters(), fused=True)
    logs = []
    for s in range(6):
        ids = torch.randint(0, 800, (16, random.Random(s).randint(20, 60)), device="cuda")
        out = m(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.randint(0, 2, (16,), device="cuda"))
        out.loss.backward()
        nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        o.step()
        o.zero_grad()
        logs.append({"loss": out.loss.detach().cpu().item(), "step": s})


def truncated():
    r = nn.LSTMCell(256, 512).cuda()
    head = nn.Linear(512, 10).cuda()
    o = torch.optim.SGD([*r.parameters(), *head.parameters()], 0.1)
    h = torch.zeros(64, 512, device="cuda"), torch.zeros(64, 512, device="cuda")
    for _ in range(6):
        loss = 0
        for _ in range(8):
            h = r(torch.randn(64, 256, device="cuda"), h)
            loss = loss + head(h[0]).square().mean()
        o.zero_grad()
        loss.backward()
        o.step()
        h = tuple(t.detach() for t in h)


def metrics():
    class Meter:
        def __init__(self):
            self.sum = torch.zeros((), device="cuda")
            self.n = 0

        def add(self, v):
            self.sum += v.detach()
            self.n += 1

    m = net().cuda()
    o = torch.optim.SGD(m.parameters(), 0.1)
    meter = Meter()
    last = deque(maxlen=3)
    for _ in range(9):
        x, y = batch()
        p = m(x)
        loss = F.cross_entropy(p, y)
        o.zero_grad()
        loss.backward()
        o.step()
        meter.add(loss)
        last.append(p.detach())
    print(meter.sum / meter.n)


def frozen():
    m = nn.ModuleDict({"backbone": net(1024, 3), "head": nn.Linear(10, 5)}).cuda()
    m["backbone"].requires_grad_(False)
    o = torch.optim.AdamW(m["head"].parameters(), fused=True)
    for _ in range(5):
        with torch.no_grad():
            f = m["backbone"](torch.randn(128, 1024, device="cuda"))
        loss = m["head"](f).square().mean()
        o.zero_grad()
        loss.backward()
        o.step()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
