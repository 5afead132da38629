"""What single ops ask of PyTorch's allocator: on a real GPU, or as memgraph predicts it.

    python -m benchmarks.single_ops.record > measured.jsonl               # on a GPU
    python -m benchmarks.single_ops.record --virtual > predicted.jsonl    # without one
    python -m benchmarks.single_ops.record --virtual --only eigh          # some of them

The first line says what ran, and each further one is a case, printed as soon as it is done: a run that is cut short keeps
what it has. A case is called twice: the first time libraries take their handles' workspaces, the second time they do not.
Written down are the requests in order, a free as a negative number, and the peak of requested bytes above what was there
before.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import time
import warnings

import torch

from benchmarks.single_ops import attention_and_products, buffers, linear_algebra, others, transforms
from benchmarks.single_ops.registry import CASES, D

FILES = (linear_algebra, transforms, attention_and_products, others, buffers)
"""Whose cases are registered as they are imported."""


class Card:
    """A real GPU, by torch's memory history."""

    def __enter__(self):
        torch.cuda.memory._record_memory_history(max_entries=30_000, stacks="python", context=None)
        torch.zeros(1, device=D)
        return self

    def __exit__(self, *_):
        torch.cuda.memory._record_memory_history(enabled=None)

    def events(self):
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        signs = {"alloc": 1, "free_requested": -1}
        return [signs[entry["action"]] * entry["size"] for entry in trace if entry["action"] in signs]

    def mark(self):
        torch.cuda.synchronize()
        torch.cuda.memory._record_memory_history(enabled=None)
        torch.cuda.memory._record_memory_history(max_entries=30_000, stacks="python", context=None, clear_history=True)

    def since(self):
        torch.cuda.synchronize()
        return self.events()

    def unknown(self):
        return []


class Virtual:
    """memgraph's virtual GPU, by its ledger."""

    def __enter__(self):
        import memgraph

        self.gpu = memgraph.virtual_gpu("h200", memory=2**40)
        self.gpu.__enter__()
        return self

    def __exit__(self, *_):
        self.gpu.__exit__(None, None, None)

    def mark(self):
        self.at = len(self.gpu.ledger)
        self.gpu.kinds.unknown.clear()
        self.gpu.kinds.estimated.clear()
        self.gpu.kinds.known.clear()
        self.gpu.recorder.shapes._recipes.clear()

    def since(self):
        actions, buffers, *_ = self.gpu.ledger._columns
        sizes = self.gpu.ledger.sizes
        seen = zip(actions[self.at :], buffers[self.at :], strict=True)
        return [sizes[b] if a == 0 else -sizes[b] for a, b in seen if a in (0, 1) and b >= 0]

    def unknown(self):
        return sorted({*self.gpu.kinds.unknown, *(f"{name} (estimate)" for name in self.gpu.kinds.estimated)})


def once(card, call):
    card.mark()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    torch.cuda.reset_peak_memory_stats()
    result = call()
    stats = torch.cuda.memory_stats()
    events = card.since()
    del result
    return {"events": events, "peak": stats["requested_bytes.all.peak"] - before, "unknown": card.unknown()}


def measured(card, build):
    started = time.time()
    try:
        call = build()
        first = once(card, call)
        again = once(card, call)
        return {"first": first, "again": again, "seconds": round(time.time() - started, 2)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--virtual", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--every", type=int, default=1, help="each so many cases one")
    parser.add_argument("--seconds", type=float, default=540, help="stop with what there is after so long")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    names = [name for name in CASES if wanted.only in name][:: wanted.every]
    started, out = time.time(), sys.stdout
    with contextlib.redirect_stdout(sys.stderr), Virtual() if wanted.virtual else Card() as card:
        about = {
            "torch": torch.__version__, "gpu": "virtual" if wanted.virtual else torch.cuda.get_device_name(),
            "cudnn": None if wanted.virtual else torch.backends.cudnn.version(), "cuda": torch.version.cuda,
        }  # fmt: skip
        print(json.dumps(about), file=out, flush=True)
        for place, name in enumerate(names):
            print(json.dumps({"name": name, **measured(card, CASES[name])}), file=out, flush=True)
            if place % 20 == 0:
                gc.collect()
            if not wanted.virtual:
                torch.cuda.empty_cache()
            if time.time() - started > wanted.seconds:
                break


if __name__ == "__main__":
    main()
