"""More programs that keep nothing, of kinds in which something waits, is cached or grows by intent."""

from __future__ import annotations

QUIET_FURTHER: dict[str, str] = {
    "batches that a stream of their own fetches ahead": """
        class Ahead:
            def __init__(self, count): self.count, self.stream = count, torch.cuda.Stream()
            def fetch(self):
                with torch.cuda.stream(self.stream): return torch.randn(64, 512).cuda(non_blocking=True)
            def __iter__(self):
                ahead = self.fetch()
                for _ in range(self.count):
                    torch.cuda.current_stream().wait_stream(self.stream)
                    now, ahead = ahead, self.fetch()
                    now.record_stream(torch.cuda.current_stream())
                    yield now
        for x in Ahead(8):
            net(x).mean().backward(); opt.step(); opt.zero_grad()
    """,
    "a network that is made deeper as it trains": """
        layers = nn.ModuleList([nn.Linear(512, 512)]).cuda()
        for _ in range(3):
            opt = torch.optim.Adam(layers.parameters())
            for _ in range(3):
                x = batch()
                for layer in layers: x = layer(x).relu()
                x.mean().backward(); opt.step(); opt.zero_grad()
            layers.append(nn.Linear(512, 512).cuda())
    """,
    "a queue of keys that is written around": """
        queue, at = torch.zeros(1024, 512, device="cuda"), 0
        for _ in range(8):
            keys = net(batch())
            (keys @ queue.clone().t()).mean().backward(); opt.step(); opt.zero_grad()
            queue[at : at + 64] = keys.detach()
            at = (at + 64) % 1024
    """,
    "masks that are cached by their length": """
        @functools.lru_cache(maxsize=None)
        def causal(n): return torch.ones(n, n, dtype=torch.bool, device="cuda").tril()
        for n in (64, 128, 64, 96, 128, 64, 96, 128):
            x = net(torch.randn(1, 2, n, 512, device="cuda"))
            nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=causal(n)).mean().backward()
            opt.step(); opt.zero_grad()
    """,
    "a step of meta-learning": """
        from torch.func import functional_call
        for _ in range(4):
            total = 0
            for _ in range(2):
                fast = dict(net.named_parameters())
                loss = functional_call(net, fast, (batch(),)).mean()
                grads = torch.autograd.grad(loss, fast.values(), create_graph=True)
                fast = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), grads)}
                total = total + functional_call(net, fast, (batch(),)).mean()
            total.backward(); opt.step(); opt.zero_grad()
    """,
    "weights averaged, and the best of them on the host": """
        average = torch.optim.swa_utils.AveragedModel(net)
        for step in range(8):
            net(batch()).mean().backward(); opt.step(); opt.zero_grad()
            if step > 2: average.update_parameters(net)
            if step % 3 == 0: best = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
    """,
}
