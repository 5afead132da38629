"""Gradients that meet in autograd's input buffers: the engine adds them in place where it can.

`accumulate` in torch/csrc/autograd/input_buffer.cpp adds the new gradient into the old one when gradients are not
themselves recorded, the old one is dense, and the buffer holds the last reference to it and to its storage. For tensor
subclasses and under dispatch modes it never does, so under a recorder the engine asks for `old + new` where a real run
does `old += new`. The gradient of an indexed tensor is put into its zeros in the same manner (`index_backward` of
torch/csrc/autograd/FunctionsManual.cpp), and there without a look at the indices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.raw import storage_of

aten = torch.ops.aten
ADD = aten.add.Tensor
ADD_IN_PLACE = aten.add_.Tensor
PUT = aten.index_put.default
PUT_INTO_ZEROS = aten._index_put_impl_.default


_CROSS_ENTROPY = "BinaryCrossEntropyWithLogitsBackward0"
_EXTREMUM = ("MaxBackward1", "MinBackward1", "MedianBackward0", "NanmedianBackward0")
IN_PLACE: Mapping[OpOverload, Mapping[str, OpOverload]] = {
    aten.sub.Tensor: {_CROSS_ENTROPY: aten.sub_.Tensor},
    aten.mul.Tensor: {_CROSS_ENTROPY: aten.mul_.Tensor},
    aten.logical_and.default: dict.fromkeys(_EXTREMUM, aten.logical_and_.default),
    aten.masked_fill.Scalar: {"Atan2Backward0": aten.masked_fill_.Scalar},
    aten.put.default: {"TakeBackward0": aten.put_.default},
}
"""Ops that a backward formula in C++ (torch/csrc/autograd/FunctionsManual.cpp) asks for where it would write into its
first argument, had that no dispatch mode: by the node whose formula it is, what it does then."""


def in_place_form(func: OpOverload) -> OpOverload | None:
    """What a real run does for one of those, where it is asked for by such a formula. One that has the gradient of a
    target to work out too does that with the same ops, not in place."""
    node = torch._C._current_autograd_node()
    if node is None or torch.is_grad_enabled() or (form := IN_PLACE[func].get(node.name())) is None:
        return None
    return None if node.name() == _CROSS_ENTROPY and node.next_functions[1][0] is not None else form


def puts_into_zeros() -> bool:
    """Whether an `index_put` is what the gradient of an index asks for."""
    node = torch._C._current_autograd_node()
    return node is not None and node.name() == "IndexBackward0"


class References(NamedTuple):
    """How many hold a tensor and its storage, those included that stand on the call's own stack. All of Python together
    is one holder of the tensor, so those who hold its Python object, as a hook that keeps a gradient does, are counted
    apart."""

    tensor: int
    storage: int
    python: int


class Accumulation:
    """Tells the engine's additions from those of a backward formula, and which of them a real run does in place.

    Args:
        sole: the references that are there when only the buffer holds a tensor; measured once by `calibrate`.
    """

    def __init__(self, sole: References | None) -> None:
        self.sole = sole
        self.seen: list[References] = []
        self._node: tuple[type[Any], int] | None = None
        self._since = 0

    def evaluating(self, node: Any, op: int) -> None:
        """Op number `op` runs while this autograd node is evaluated."""
        # Not the node itself: it would keep the graph and the parameter behind it alive. Nor its `id`: the object that
        # Python sees of a node in C++ is made anew, elsewhere, each time that somebody asks after the last one died.
        key = (type(node), node._sequence_nr())
        if key != self._node:
            self._node, self._since = key, op

    def in_place(self, args: Sequence[Any], made_by: Callable[[Tensor], int], node: Any) -> bool:
        """Whether `add(*args)` is the engine's, and a real run would write into the first argument.

        The buffer's tensor is there since before this node's evaluation began, or another gradient of this node that
        goes the same way, as of `y * y`; what a formula adds is its own.
        """
        if len(args) != 2 or torch.is_grad_enabled() or not all(isinstance(arg, FakeTensor) for arg in args):
            return False
        old, new = args
        if old.layout is not torch.strided:
            return False  # a sparse gradient has no storage, and the engine adds it out of place (accumulate_grad.h)
        if old.shape != new.shape or (made_by(old) >= self._since and not _meet(node)):
            return False
        storage = torch._C._storage_Use_Count(storage_of(old)._cdata)  # type: ignore[attr-defined]
        references = References(old._use_count(), storage, sys.getrefcount(old))
        if self.sole is None:
            self.seen.append(references)
        return references == self.sole and _is_dense(old)


def _meet(node: Any) -> bool:
    """Whether two gradients of a node go the same way."""
    ways = [way for way in node.next_functions if way[0] is not None]
    return len(set(ways)) < len(ways)


def run_two_gradients() -> None:
    """The smallest backward in which two gradients meet and nobody else holds them."""
    leaf = torch.empty(4, device="cuda", requires_grad=True)
    middle = leaf * 2
    ((middle * 3).sum() + (middle * 5).sum()).backward()


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a stretch of memory, in any order of dimensions (c10's
    `is_non_overlapping_and_dense`)."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
