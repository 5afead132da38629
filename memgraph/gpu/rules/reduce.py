"""Scratch of one CUDA reduction kernel: when it splits an output over thread blocks, and what the blocks share.

Source: aten/src/ATen/native/cuda/Reduce.cuh, `setReduceConfig`, `ReduceConfig`, `gpu_reduce_kernel`; the same in
torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from memgraph.gpu.rules.iterator import Reduction
from memgraph.gpu.rules.layout import Plan, ceil_div
from memgraph.gpu.spec import GpuSpec

_WARP = 32
_MIN_VALUES, _MAX_VALUES = 16, 256
"""Values that one thread should at least, and at most, add up."""


class Kernel(NamedTuple):
    """What distinguishes one reduction kernel from another, for its scratch."""

    accumulator: int
    """Bytes of the accumulator type."""
    vector: int = 4
    """Elements that a thread loads at once along a contiguous reduced dimension (`input_vec_size`)."""
    max_threads: int = 512
    """256 for complex128, `mnt_wrapper`."""
    in_output: bool = True
    """Whether the output can hold the accumulator between the pieces of a reduction too large for 32-bit offsets."""


@dataclass
class _Config:
    """Thread blocks of one launch. Names follow the source."""

    kernel: Kernel
    outputs: int
    inputs: int
    """Input elements of one output."""
    vector: int
    width: int
    height: int
    step_input: int = 1
    step_output: int = 1
    ctas: int = 1
    """Blocks that share an output."""

    @property
    def values(self) -> int:
        """Input values of one thread."""
        return ceil_div(self.inputs, self.step_input)

    @property
    def grid(self) -> int:
        return ceil_div(self.outputs // self.vector, self.step_output)


def reduce_scratch(plan: Plan, what: Reduction, kernel: Kernel, gpu: GpuSpec) -> None:
    """Write down what the kernels of one reduction take and give back: scratch, then semaphores, for each piece."""
    if math.prod(what.shape) == 0:
        return
    buffer = _accumulation_buffer(what, kernel)
    kept = plan.temporary(buffer, "reduction accumulator")
    for piece in what.pieces():
        plan.scratch(*_piece_scratch(piece, kernel, gpu), name="reduction scratch")
    plan.release(kept)


def _accumulation_buffer(what: Reduction, kernel: Kernel) -> int:
    """Bytes that hold partial results in the accumulator's type; only a split reduction into a narrower output has
    it."""
    if kernel.in_output or what.fits_32bit or what.itemsizes[0] >= kernel.accumulator:
        return 0
    furthest = max((size * step for size, step in zip(what.shape, what.target, strict=True)), default=1)
    return max(furthest, 1) * kernel.accumulator


def _piece_scratch(what: Reduction, kernel: Kernel, gpu: GpuSpec) -> tuple[int, ...]:
    """Bytes of the partial results and of the semaphores; empty if no output is split over blocks."""
    fastest = what.reduced_dims == len(what.shape) or what.source[0] < what.source[what.reduced_dims]
    config = _blocks(what, kernel, fastest)
    if not _split(config, fastest, gpu):
        return ()
    size = kernel.accumulator * config.outputs * config.ctas
    return (size if fastest else size * config.width * config.vector, 4 * config.grid)


def _blocks(what: Reduction, kernel: Kernel, fastest: bool) -> _Config:
    """Size of a thread block: along the fastest dimension first."""
    outputs = what.outputs
    inputs = math.prod(what.shape) // outputs
    across, along = (inputs, outputs) if fastest else (outputs, inputs)
    vector = 1
    if what.shape and what.source[0 if fastest else what.reduced_dims] == 1:
        if fastest and across >= 128 and what.reduced_dims == 1:
            across //= kernel.vector
        elif not fastest:
            vector = _output_vector(what)
            across //= vector
    width, height = _block_dimension(across, along, kernel.max_threads // vector)
    return _Config(kernel, outputs, inputs, vector, width, height)


def _output_vector(what: Reduction) -> int:
    """Outputs that a thread computes at once: 4, 2 or 1, whatever divides the sizes. The data is taken to be aligned,
    which holds for whole storages."""
    first = what.reduced_dims
    numbers = [what.shape[first], *(stride for dim, stride in enumerate(what.source) if dim != first)]
    return next(size for size in (4, 2, 1) if all(number % size == 0 for number in numbers))


def _block_dimension(across: int, along: int, threads: int) -> tuple[int, int]:
    wide, tall = (min(_last_power(size), threads) for size in (across, along))
    height = min(tall, threads // min(wide, _WARP))
    return min(wide, threads // height), height


def _last_power(value: int) -> int:
    """The power of two at or below `value`, at least 1."""
    return 1 << (max(value, 1).bit_length() - 1)


def _split(config: _Config, fastest: bool, gpu: GpuSpec) -> bool:
    """Whether an output is worth several blocks; sets how many."""
    if fastest:
        config.step_input *= config.width
    else:
        config.step_output *= config.width
    if config.values < min(config.height * 16, _MAX_VALUES):
        config.step_output *= config.height
        return False
    config.step_input *= config.height
    target = gpu.sms * (gpu.max_threads_per_sm // (config.width * config.height))
    if config.values < _MAX_VALUES or config.grid > target:
        return False
    most = min(ceil_div(target, config.grid), ceil_div(config.values, _MIN_VALUES))
    config.ctas = max(most, ceil_div(config.values, _MAX_VALUES))
    return config.ctas > 1
