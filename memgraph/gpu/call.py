"""What a workspace rule sees of an ATen call, and what it answers. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class TensorMeta(NamedTuple):
    """A tensor without its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements."""
    dtype: str
    """`float32`, `bfloat16`, `int64`, …"""
    itemsize: int
    """Bytes of one element."""
    device: str = "cuda"

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a dense tensor of this shape."""
        return self.numel * self.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Row-major without gaps, by torch's own definition (dimensions of size 1 do not matter)."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1:
                if stride != expected:
                    return self.numel == 0
                expected *= size
        return True


class SparseMeta(NamedTuple):
    """A sparse tensor in coordinates (COO), which has no storage of its own."""

    indices: TensorMeta
    """[sparse dimensions, entries]."""
    values: TensorMeta
    coalesced: bool
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One ATen call: tensors are `TensorMeta` or `SparseMeta`, lists are tuples, dtypes are strings, the rest is as
    passed."""

    op: str
    """Without `aten.` and the overload: `sum`, `native_layer_norm`."""
    overload: str
    """`dim_IntList`, `default`."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[TensorMeta, ...]
    """Those outputs that are new storages, in the order in which the op returns them; views and in-place results are
    not here."""

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, whether it was passed by position or by name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


class Output(NamedTuple):
    """The op allocates its output number `index` now."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here


class Smaller(Protocol):
    """What an op does with less memory."""

    def sizes(self) -> Sequence[int]:
        """Bytes to try in order, where the first choice cannot be had."""
        ...


class Temporary(NamedTuple):
    """The op allocates `size` bytes that are not an output."""

    size: int
    name: str
    """What they are: `reduction scratch`."""
    smaller: Smaller | None = None
    """What it takes where the allocator says no; None if that is an error."""


class OnHost(NamedTuple):
    """The op returns its output number `index` in host memory: the device is not asked for it."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here


class Release(NamedTuple):
    """The op frees its temporary number `index` (counted from 0 in order of allocation) now.
    Temporaries without one are freed when the op ends, the last allocated first, as C++ destroys locals."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here


class Trial(NamedTuple):
    """At the first such call the op tries its kernels, and gives back what they took and all that is cached."""

    kernels: Smaller
    """What they take: the largest that there is room for is allocated, for all."""


Step = Output | OnHost | Temporary | Release | Trial
Steps = tuple[Step, ...]
"""What an op allocates and frees, in order. Outputs that are not named come first."""
