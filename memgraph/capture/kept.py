"""Which buffers are a KV cache, told from their use: they grow by appending, or are written to again and
again, and attention or a batched product reads them. What transformers' cache classes allocate is one by its file.
"""

from __future__ import annotations

from memgraph.trace import Op, Role, Trace

_LIBRARY = "transformers/cache_utils.py:"
"""Where the cache classes of transformers, whatever their layout, make what they keep."""
_APPENDS = frozenset({"aten.cat.default"})
_WRITES = frozenset(
    {"aten.index_copy_.default", "aten.copy_.default", "aten.index_put_.default", "aten.slice_scatter.default"}
)
_COPIES = ("aten.clone.", "aten._to_copy.", "aten.index_select.", "aten.repeat_interleave.")
"""What reads a copy of it reads it: heads that are repeated, beams in another order, another type."""
_READERS = ("bmm", "scaled_dot_product", "flash_attention", "efficient_attention", "cudnn_attention")
_TWICE = 2


def kv_cache(trace: Trace) -> frozenset[int]:
    """The indices of a KV cache's buffers; of a run that keeps none, none."""
    made = _made(trace)
    cached = {buffer for op, buffer in made.items() if _of_the_library(trace.ops[op])}
    read, grown, written = set[int](), set[int](), dict[int, int]()
    appended = dict[int, tuple[str, str]]()
    origin: list[int] = []
    for index, op in enumerate(trace.ops):
        sources = [origin[read] for read in op.reads if origin[read] >= 0]
        own = made.get(index, -1)
        if any(reader in op.name for reader in _READERS):
            read.update(sources)
        if op.name in _APPENDS and own >= 0:
            place = op.module, op.source
            before = [source for source in sources if appended.get(source) == place]
            grown.update((*before, own) if before else ())
            appended[own] = place
        elif op.name in _WRITES and sources:
            written[sources[0]] = written.get(sources[0], 0) + 1
        passes = own < 0 or op.name.startswith(_COPIES)
        origin.append(sources[0] if passes and sources else own)
    grown |= {buffer for buffer, times in written.items() if times >= _TWICE}
    return frozenset(cached | {buffer for buffer in grown & read if _is_float(trace, buffer)})


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
