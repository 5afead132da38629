"""Programs that keep a result of 64 × 512 × 4 = 128 KiB a step where no plain name leads to it: in frames of
exceptions, of loops and of threads, in datasets, slots and defaults."""

from __future__ import annotations

import textwrap

from tests.capture.kept_programs import Case

_STEP = """
def step():
    x = batch()
    net(x).mean().backward(); opt.step(); opt.zero_grad()
    return x
"""


def _case(program: str, holder: str, help_: str = "keep `.detach().cpu()` in it") -> Case:
    return Case(_STEP + textwrap.dedent(program), 128, "growing", holder, help_)


ELSEWHERE: dict[str, Case] = {
    "exceptions in a list": _case(
        """
        errors = []
        def attempt():
            x = step()
            raise ValueError
        for _ in range(6):
            try: attempt()
            except ValueError as error: errors.append(error)  # here
        """,
        "the variables of functions that an exception in `errors` went through", "traceback.format_exc()"),
    "a dataset that a loop names no more": _case(
        """
        class Remembers(torch.utils.data.Dataset):
            def __init__(self): self.seen = {}
            def __len__(self): return 6
            def __getitem__(self, i):
                self.seen[i] = batch()  # here
                return self.seen[i]
        for x in torch.utils.data.DataLoader(Remembers(), batch_size=None):
            net(x).mean().backward(); opt.step(); opt.zero_grad()
        """,
        "the dict `Remembers.seen`"),
    "a generator that a loop names no more": _case(
        """
        def feed():
            kept = []
            for _ in range(6):
                kept.append(step())  # here
                yield kept[-1]
        for x in feed(): x = None
        """,
        "the list `kept`"),
    "a thread": _case(
        """
        import queue, threading
        tasks = queue.Queue()
        def work():
            kept = []
            while (x := tasks.get()) is not None:
                kept.append(x)  # here
                del x
                tasks.task_done()
        thread = threading.Thread(target=work, daemon=True); thread.start()
        for _ in range(6): tasks.put(step()); tasks.join()
        tasks.put(None); thread.join()
        """,
        "the list `kept`"),
    "slots": _case(
        """
        class Meter:
            __slots__ = ("rows",)
            def __init__(self): self.rows = []
        meter = Meter()
        for _ in range(6): meter.rows.append(step())  # here
        """,
        "the list `meter.rows`"),
    "the default of an argument": _case(
        """
        def remember(x, seen=[]): seen.append(x)  # here
        for _ in range(6): remember(step())
        """,
        "the list `seen of remember`"),
    "a chain of objects": _case(
        """
        class Node:
            def __init__(self, x, before): self.x, self.before = x, before  # here
        head = None
        for _ in range(6): head = Node(step(), head)
        """,
        "the attribute `head.before.x`", "`head.before.x`"),
    "a generator that has a name": _case(
        """
        def stats():
            kept = []
            while True:
                x = yield len(kept)
                kept.append(x)  # here
                del x
        sink = stats(); next(sink)
        for _ in range(6): sink.send(step())
        """,
        "the list `kept`"),
    "a variable of a context": _case(
        """
        import contextvars
        seen = contextvars.ContextVar("seen", default=())
        for _ in range(6): seen.set((*seen.get(), step()))  # here
        """,
        "the tuple `seen`"),
    "an attribute of a parameter": _case(
        """
        first = net[0].weight
        for _ in range(6): first.past = [*getattr(first, "past", ()), step()]  # here
        """,
        "the list `first.past`"),
    "hooks that are never removed": _case(
        """
        for _ in range(6):
            mark = batch()
            net[1].register_forward_hook(lambda module, args, out, mark=mark: None)  # here
            del mark
            step()
        """,
        "a hook: `mark of <lambda>`, registered at", "`.remove()`"),
    "a dict of each step's results, of which names have the last": _case(
        """
        RESULTS = {}
        def record(number, **what): RESULTS[number] = what  # here
        def train():
            x = torch.randn(4096, 512, device="cuda"); out = net(x)[:64].clone()
            out.mean().backward(); opt.step(); opt.zero_grad()
            return x, out
        for number in range(8):
            x, out = train(); record(number, out=out.detach())
        """,
        "the dict `RESULTS`"),
    "lists for each parameter": _case(
        """
        grads = {}
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                p.register_hook(lambda g, name=name: grads.setdefault(name, []).append(g.new_zeros(16384)))  # here
        for _ in range(6): step()
        """,
        "the dict `grads`"),
    # 1024 × 512 floats and their product, 2 × 2048 KiB
    "contexts of functions, before the first step too": Case(
        """
        class Scale(torch.autograd.Function):
            seen = {}
            @staticmethod
            def forward(ctx, x):
                ctx.x = x
                Scale.seen[len(Scale.seen)] = ctx  # here
                return x * 2
            @staticmethod
            def backward(ctx, g): return g * 2
        for _ in range(6):
            x = torch.randn(1024, 512, device="cuda", requires_grad=True)
            net(Scale.apply(x)).mean().backward(); opt.step(); opt.zero_grad()
        """,
        4096, "growing", "the dict `Scale.seen`", "keep `.detach().cpu()` in it"),
}  # fmt: skip
