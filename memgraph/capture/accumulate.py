"""Gradients that meet in autograd's input buffers: the engine adds them in place where it can.

`accumulate` in torch/csrc/autograd/input_buffer.cpp adds the new gradient into the old one when gradients are not
themselves recorded, the old one is dense, and the buffer holds the last reference to it and to its storage. For tensor
subclasses and under dispatch modes it never does, so under a recorder the engine asks for `old + new` where a real run
does `old += new`. The gradient of an indexed tensor is put into its zeros in the same manner (`index_backward` of
torch/csrc/autograd/FunctionsManual.cpp), and there without a look at the indices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.raw import storage_of

ADD = torch.ops.aten.add.Tensor
ADD_IN_PLACE = torch.ops.aten.add_.Tensor
PUT = torch.ops.aten.index_put.default
PUT_INTO_ZEROS = torch.ops.aten._index_put_impl_.default


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

    def in_place(self, args: Sequence[Any], made_by: Callable[[Tensor], int]) -> bool:
        """Whether `add(*args)` is the engine's, and a real run would write into the first argument.

        The buffer's tensor is there since before this node's evaluation began; what a formula adds is its own.
        """
        if len(args) != 2 or torch.is_grad_enabled() or not all(isinstance(arg, FakeTensor) for arg in args):
            return False
        old, new = args
        if old.layout is not torch.strided:
            return False  # a sparse gradient has no storage, and the engine adds it out of place (accumulate_grad.h)
        if made_by(old) >= self._since or old.shape != new.shape:
            return False
        storage = torch._C._storage_Use_Count(storage_of(old)._cdata)  # type: ignore[attr-defined]
        references = References(old._use_count(), storage, sys.getrefcount(old))
        self.seen.append(references)
        return references == self.sole and _is_dense(old)


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
