"""Which buffers are a KV cache, told from their use: they grow by appending, or are written to again and
again, and attention or a batched product reads them. What transformers' cache classes allocate is one by its file.
"""

from __future__ import annotations

from collections import Counter

from memgraph.trace import Op, Role, Trace

_LIBRARY = "transformers/cache_utils.py:"
"""Where the cache classes of transformers, whatever their layout, make what they keep."""
_READS = ("bmm", "scaled_dot_product", "flash_attention", "efficient_attention", "cudnn_attention")
_APPENDS = ("aten.cat.default",)
_WRITES = ("aten.index_copy_.", "aten.copy_.", "aten.index_put_.")
_COPIES = ("aten.clone.", "aten._to_copy.", "aten.index_select.", "aten.repeat_interleave.")
"""What reads a copy of it reads it: heads that are repeated, beams in another order, another type."""
_TWICE = 2


def kv_cache(trace: Trace) -> frozenset[int]:
    """The indices of a KV cache's buffers; of a run that keeps none, none."""
    made = _made(trace)
    cached = {buffer for op, buffer in made.items() if _of_the_library(trace.ops[op])}
    read, grown, written = set[int](), set[int](), Counter[int]()
    appended = dict[int, tuple[str, str]]()
    uses = {name: _use(name) for name in {op.name for op in trace.ops}}
    origin: list[int] = []
    for index, op in enumerate(trace.ops):
        own, use = made.get(index, -1), uses[op.name]
        first = origin[op.reads[0]] if op.reads and (own < 0 or use is not None) else -1
        if use is _READS:
            read.update(origin[source] for source in op.reads)
        elif use is _APPENDS and own >= 0:
            place = op.module, op.source
            before = [origin[source] for source in op.reads if appended.get(origin[source]) == place]
            grown.update((*before, own) if before else ())
            appended[own] = place
        elif use is _WRITES:
            written[first] += 1
        origin.append(first if first >= 0 and (own < 0 or use is _COPIES) else own)
    grown |= {buffer for buffer, times in written.items() if times >= _TWICE}
    return frozenset(cached | {buffer for buffer in grown & read if buffer >= 0 and _is_float(trace, buffer)})


def _use(name: str) -> tuple[str, ...] | None:
    """What an op of this name may do with a cache."""
    kinds = (_READS, _APPENDS, _WRITES, _COPIES)
    return next((kind for kind in kinds if any(part in name for part in kind)), None)


def _made(trace: Trace) -> dict[int, int]:
    """The first buffer that each op made for a result."""
    found: dict[int, int] = {}
    for buffer, of in enumerate(trace.buffers):
        if of.op >= 0 and of.role is Role.OUTPUT:
            found.setdefault(of.op, buffer)
    return found


def _of_the_library(op: Op) -> bool:
    return op.source.startswith(_LIBRARY)


def _is_float(trace: Trace, buffer: int) -> bool:
    return "float" in trace.buffers[buffer].dtype
