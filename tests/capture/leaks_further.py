"""Further programs as `leaks_as_written.py` has them."""

from __future__ import annotations

from tests.capture.leaks_as_written import Program

FURTHER: dict[str, Program] = {
    "lengths that vary": Program(
        """
        import random
        random.seed(1)
        class Lm(nn.Module):
            def __init__(self):
                super().__init__(); self.e = nn.Embedding(8000, 512)
                self.l = nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True), 4)
                self.h = nn.Linear(512, 8000)
            def forward(self, x): return self.h(self.l(self.e(x)))
        m = Lm().cuda(); opt = torch.optim.AdamW(m.parameters())
        for i in range(25):
            n = random.randint(30, 900)
            x = torch.randint(0, 8000, (8, n), device="cuda")  # here
            loss = F.cross_entropy(m(x).flatten(0, 1), x.flatten()); loss.backward()
            opt.step(); opt.zero_grad(set_to_none=True)
        """,
        "fragmented", "2.389 GiB are reserved", "expandable_segments:True"),
    "a mask of numbers for every head": Program(
        """
        class Att(nn.Module):
            def __init__(self, w=512, h=16):
                super().__init__(); self.h = h; self.qkv = nn.Linear(w, 3*w); self.o = nn.Linear(w, w)
            def forward(self, x, mask):
                b, n, w = x.shape
                q, k, v = self.qkv(x).reshape(b, n, 3, self.h, w // self.h).permute(2, 0, 3, 1, 4)
                bias = mask[:, None, None, :].expand(b, self.h, n, n).contiguous()  # here
                bias = torch.zeros(bias.shape, device=x.device).masked_fill(~bias, float("-inf"))
                return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1,
                    2).reshape(b, n, w))
        layers = nn.ModuleList(Att() for _ in range(4)).cuda(); opt = torch.optim.SGD(layers.parameters(), 0.1)
        for _ in range(2):
            x = torch.randn(8, 1024, 512, device="cuda"); mask = torch.rand(8, 1024, device="cuda") > 0.1
            for l in layers: x = x + l(x, mask)
            x.mean().backward(); opt.step(); opt.zero_grad()
        """,
        "expanded-mask", "[8, 16, 1024, 1024]", "8.000 KiB, [8, 1, 1, 1024]", "without .expand(…)"),
    "a cache while training": Program(
        """
        from transformers import MistralConfig, MistralForCausalLM
        c = MistralConfig(vocab_size=2000, hidden_size=512, intermediate_size=1024,
            num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=8)
        m = MistralForCausalLM(c).cuda().train(); m.gradient_checkpointing_disable()
        opt = torch.optim.AdamW(m.parameters())
        for _ in range(2):
            ids = torch.randint(0, 2000, (8, 512), device="cuda")
            out = m(ids, labels=ids); out.loss.backward(); opt.step(); opt.zero_grad()
        """,
        "cache-in-training", "192.0 MiB", "use_cache=False"),
    "a log of dicts": Program(
        """
        class Trainer:
            def __init__(self, model, lr=1e-3):
                self.model = model.to("cuda")
                self.optim = torch.optim.AdamW(self.model.parameters(), lr=lr)
                self.logs = []
            def fit(self, steps):
                for i in range(steps):
                    x = torch.randn(64, 1024, device="cuda"); y = torch.randint(0, 1000, (64,), device="cuda")
                    out = self.model(x)
                    loss = nn.functional.cross_entropy(out, y)
                    acc = (out.argmax(-1) == y).float()
                    loss.backward()
                    self.optim.step()
                    self.optim.zero_grad()
                    self.logs.append({"step": i, "loss": loss, "logits": out, "acc": acc})  # here
        Trainer(nn.Sequential(nn.Linear(1024, 2048), nn.GELU(), nn.Linear(2048, 1000))).fit(10)
        """,
        "growing", "250.3 KiB a step", "`self.logs`", "`.detach().cpu()`"),
    "a state that is never detached, and no optimizer": Program(
        """
        enc = nn.LSTM(256, 512, batch_first=True).cuda(); head = nn.Linear(512, 256).cuda()
        opt = torch.optim.Adam([*enc.parameters(), *head.parameters()])
        h = torch.zeros(1, 16, 512, device="cuda"); c = torch.zeros(1, 16, 512, device="cuda")
        for t in range(8):
            chunk = torch.randn(16, 64, 256, device="cuda")
            out, (h, c) = enc(chunk, (h, c))  # here
            loss = (head(out) - chunk).pow(2).mean()
            loss.backward(retain_graph=True)
            opt.zero_grad()
        """,
        "growing-graph", "a call", "`h`", "`.detach()`"),
    "a cache of a function": Program(
        """
        import functools
        @functools.lru_cache(maxsize=None)
        def causal_bias(n, step):
            return torch.full((n, n), float("-inf"), device="cuda").triu(1)  # here
        model = nn.TransformerEncoderLayer(256, 4, batch_first=True).cuda()
        opt = torch.optim.AdamW(model.parameters())
        for step in range(8):
            x = torch.randn(4, 512, 256, device="cuda")
            loss = model(x, src_mask=causal_bias(512, step)).mean()
            loss.backward(); opt.step(); opt.zero_grad()
        """,
        "growing", "1.000 MiB a step", "the cache of `causal_bias`", "cache_clear()"),
    "a metric that concatenates with a graph": Program(
        """
        class AUROC:
            def __init__(self): self.reset()
            def reset(self): self.preds, self.target = torch.empty(0, device="cuda"), torch.empty(0, device="cuda")
            def update(self, preds, target):
                self.preds = torch.cat([self.preds, preds]); self.target = torch.cat([self.target, target])  # here
        metric = AUROC(); model = nn.Sequential(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 1)).cuda()
        opt = torch.optim.Adam(model.parameters()); bce = nn.BCEWithLogitsLoss()
        for _ in range(10):
            x = torch.randn(8192, 128, device="cuda"); y = (torch.rand(8192, device="cuda") > .5).float()
            logit = model(x).squeeze(1); loss = bce(logit, y)
            opt.zero_grad(); loss.backward(); opt.step()
            metric.update(logit.sigmoid(), y)
        """,
        "growing-graph", "96.00 KiB a step", "`metric.preds`", "`.detach()`"),
    "exceptions that are kept": Program(
        """
        model = nn.Sequential(*[nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()) for _ in range(4)]).cuda()
        opt = torch.optim.SGD(model.parameters(), 0.1)
        failures = []
        def train_step(x):
            h = model(x)
            loss = h.mean()
            if x.shape[0] % 2: raise ValueError("odd batch")
            loss.backward(); opt.step(); opt.zero_grad()
        for i in range(8):
            try:
                train_step(torch.randn(255, 1024, device="cuda"))
            except ValueError as e:
                failures.append(e)  # here
            train_step(torch.randn(256, 1024, device="cuda"))
        """,
        "growing-graph", "4.980 MiB a step", "an exception in `failures`", "traceback.format_exc()"),
    "a progress bar's history": Program(
        """
        class Bar:
            def __init__(self, it): self.it = it; self.history = []
            def __iter__(self): yield from self.it
            def set_postfix(self, **kw): self.history.append(kw)  # here
        model = nn.Sequential(nn.Embedding(5000, 256), nn.Linear(256, 5000)).cuda()
        opt = torch.optim.AdamW(model.parameters())
        bar = Bar(range(10)); total = 0
        for i in bar:
            ids = torch.randint(0, 5000, (8, 128), device="cuda")
            loss = nn.functional.cross_entropy(model(ids).view(-1, 5000), ids.view(-1))
            loss.backward(); opt.step(); opt.zero_grad()
            total = total + nn.functional.cross_entropy(model(ids).view(-1, 5000), ids.view(-1))
            bar.set_postfix(loss=loss, avg=total / (i + 1))
        """,
        "growing-graph", "20.54 MiB a step", "`bar.history`", "`.detach()`"),
    "a run that is resumed in its own process": Program(
        """
        import os, tempfile
        path = os.path.join(tempfile.mkdtemp(), "last.pt")
        def build():
            m = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(5)]).cuda()
            return m, torch.optim.AdamW(m.parameters())
        def step(m, o):
            loss = m(torch.randn(16, 2048, device="cuda")).square().mean(); o.zero_grad(); loss.backward(); o.step()
        def save(m, o, e): torch.save({"model": m.state_dict(), "opt": o.state_dict(), "epoch": e}, path)
        m, o = build()
        for _ in range(2): step(m, o)
        save(m, o, 0); del m, o
        def main():
            checkpoint = torch.load(path, map_location="cuda:0")  # here
            model, opt = build()
            model.load_state_dict(checkpoint["model"]); opt.load_state_dict(checkpoint["opt"])
            for e in range(checkpoint["epoch"], 5): step(model, opt)
        main()
        """,
        "loaded-and-unread", "80.04 MiB", "`del checkpoint`", "map_location='cpu'"),
    "a mask repeated over heads": Program(
        """
        class Attn(nn.Module):
            def __init__(self, d=768, heads=12):
                super().__init__(); self.heads = heads; self.q = nn.Linear(d, d)
                self.k = nn.Linear(d, d); self.v = nn.Linear(d, d); self.o = nn.Linear(d, d)
            def split(self, t): return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            def forward(self, x, attention_mask):
                b, s, d = x.shape
                m = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
                m = m.repeat(1, self.heads, s, 1)  # here
                y = F.scaled_dot_product_attention(self.split(self.q(x)), self.split(self.k(x)),
                    self.split(self.v(x)), attn_mask=m)
                return self.o(y.transpose(1, 2).flatten(2))
        layers = nn.ModuleList(Attn() for _ in range(6)).cuda(); opt = torch.optim.AdamW(layers.parameters())
        for _ in range(2):
            x = torch.randn(8, 1024, 768, device="cuda"); mask = torch.ones(8, 1024, dtype=torch.long, device="cuda")
            with torch.autocast("cuda", torch.bfloat16):
                for l in layers: x = x + l(x, mask)
                loss = x.float().mean()
            loss.backward(); opt.step(); opt.zero_grad()
        """,
        "expanded-mask", "[8, 12, 1024, 1024]", "[8, 1, 1, 1024]", "without .expand(…)"),
    "a reentrant checkpoint": Program(
        """
        from torch.utils.checkpoint import checkpoint
        class Backbone(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(nn.Sequential(nn.Linear(1024, 4096), nn.GELU(),
                    nn.Linear(4096, 1024)) for _ in range(8))
            def forward(self, x, depth=None):
                for i, layer in enumerate(self.layers):
                    x = x + checkpoint(layer, x, use_reentrant=True)  # here
                    if depth is not None and i == depth: return x
                return x
        m = Backbone().cuda(); head = nn.Linear(1024, 10).cuda()
        opt = torch.optim.AdamW([*m.parameters(), *head.parameters()])
        for _ in range(3):
            out = head(m(torch.randn(512, 1024, device="cuda"), depth=5).mean(0))
            out.sum().backward(); opt.step(); opt.zero_grad()
        """,
        "no-gradient", "32 of 34 parameters", "use_reentrant=False"),
    "functions to be called later": Program(
        """
        callbacks = []
        model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512)).cuda()
        opt = torch.optim.Adam(model.parameters())
        def schedule_log(step, pred, target):
            def later():
                print(step, (pred - target).abs().mean().item())
            callbacks.append(later)
        for step in range(8):
            x = torch.randn(1024, 512, device="cuda")
            pred = model(x)  # here
            loss = nn.functional.l1_loss(pred, x)
            opt.zero_grad(); loss.backward(); opt.step()
            schedule_log(step, pred, x)
        """,
        "growing", "2.000 MiB a step", "`pred` for `later`"),
}  # fmt: skip
