"""Ops that copy many tensors at once by a table on the device: what FSDP packs and unpacks its parameters with.

Source: aten/src/ATen/native/cuda/TensorShape.cu. The table is of 8-byte numbers (`pack_vecs`).
"""

from __future__ import annotations

import math

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, is_dense, tensors
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec

_WORD = 8
_TILE = 16 * 128
"""Bytes that one block copies in one go: 16 a thread."""


def _split(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`split_with_sizes_copy(self, sizes, dim, *, out)`: `split_with_sizes_copy_out_cuda`; a slow path without a table
    where something is cast or has gaps."""
    plan, source, sizes = Plan(call), call.args[0], call.args[1]
    out = list(tensors(call.arg(3, "out", ())))
    dim = call.arg(2, "dim", 0) % len(source.shape)
    if all(is_dense(tensor) and tensor.dtype == source.dtype for tensor in (source, *out)):
        chunks = [size * source.stride[dim] * source.itemsize for size in sizes]
        blocks = _blocks(chunks, math.prod(source.shape[:dim]), gpu)
        plan.temporary(_WORD * (3 * len(chunks) + blocks + len(chunks) + 1), "table of copies")
    return plan.steps()


def _blocks(chunks: list[int], repeats: int, gpu: GpuSpec) -> int:
    """Blocks for one repeat of all chunks; each goes over several tiles where there would be too many."""
    most = gpu.sms * gpu.max_threads_per_sm // 128 * 2
    rounds = _up(sum(_up(chunk, _TILE) for chunk in chunks) * repeats, most)
    across = min(math.ceil(math.sqrt(rounds)), repeats)
    along = _up(rounds, max(across, 1))
    return sum(_up(chunk, _TILE * max(along, 1)) for chunk in chunks)


def _chunk_cat(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_chunk_cat(tensors, dim, num_chunks)`: `get_chunk_cat_metadata`, whose table goes before the result comes."""
    plan, parts, pieces = Plan(call), list(tensors(call.args[0])), call.args[2]
    out = next(tensors((call.arg(3, "out", ()),)), None)
    dim = call.args[1] % len(parts[0].shape)
    if all(map(is_dense, parts)) and _takes_table(parts[0], out):
        itemsize = parts[0].itemsize if out is None else out.itemsize
        blocks = sum(_up(_chunk(part, dim, pieces) * itemsize, _TILE) for part in parts)
        plan.scratch(_WORD * (6 * len(parts) + 2 + blocks), name="table of copies")
    plan.outputs()
    return plan.steps()


def _chunk(part: TensorMeta, dim: int, pieces: int) -> int:
    """Elements of one piece of a tensor, padded."""
    return _up(part.shape[dim], pieces) * math.prod(part.shape[dim + 1 :])


def _takes_table(part: TensorMeta, out: TensorMeta | None) -> bool:
    return out is None or out.dtype == part.dtype or (part.dtype, out.dtype) == ("bfloat16", "float32")


def _up(value: int, step: int) -> int:
    return -(-value // step)


RULES = {"split_with_sizes_copy.out": _split, "_chunk_cat": _chunk_cat}
