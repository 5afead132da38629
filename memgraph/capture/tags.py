"""What tensors carry of a run: a tag that says which op made them, and a parameter its name.

An op's arguments are kept with the tags in place of the tensors, so that nothing is kept alive. Nothing here is an
object that Python's collector counts: a tensor dies with as many as without.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.capture.operators import Operator
from memgraph.capture.provenance import uncompiled
from memgraph.trace import Op, TensorSpec
from memgraph.virtual.ops.shapes import Look, Recipe, Shapes

_RUNS = itertools.count()
_default_dtype, _infers = torch.get_default_dtype, torch.is_inference_mode_enabled
_NAME = "_memgraph_name"
_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})
"""Classes of arguments that are no tensors and hold none."""


_BITS = 24
"""Of a tensor's origin, for which of the op's outputs it is."""
_LAST = 2**_BITS - 1


class Tag(NamedTuple):
    """Where a tensor comes from: output `index` of op `op`, or -1 and a running number for one made outside."""

    op: int
    index: int  # type: ignore[assignment]  # hides tuple.index, on purpose
    look: Look

    @property
    def spec(self) -> TensorSpec:
        return self.look.spec


class GraphCall(NamedTuple):
    """What is needed to draw an op in the graph: tensors are replaced by their tags."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Arguments(NamedTuple):
    """One call's arguments, walked once."""

    key: tuple[Any, ...]
    """The operator, the default type and whether inference mode is on; then what is given: looks in the place of
    tensors, tuples of integers, a length and what is in a list, names before what is given by name; all else after its
    class, for 1, 1.0 and True are equal and yet promote differently."""
    tensors: list[Tensor]
    origins: list[int]
    """Where the tensors come from, in one number: as `Tag` has it, an op and an output, or the negative of a number."""

    def specs(self) -> tuple[TensorSpec, ...]:
        """What the tensors are, in order."""
        return tuple([part.spec for part in self.key if part.__class__ is Look])


_HEAD = 3
"""Parts of a key before the arguments."""


class Calls:
    """All calls of a run in order, kept small: their keys, most of which are shared, and one number for each tensor."""

    def __init__(self) -> None:
        self.keys: list[tuple[Any, ...]] = []
        self.origins: array[int] = array("q")

    def add(self, key: tuple[Any, ...], origins: list[int]) -> None:
        """A call is about to be made."""
        self.keys.append(key)
        self.origins.fromlist(origins)

    def reads(self, ops: Iterable[Op]) -> Iterator[tuple[int, ...]]:
        """Of each call the ops whose results it takes; tensors made outside are nobody's.

        Args:
            ops: what is written down of them: an op's inputs are the tensors that it takes.
        """
        start, origins = 0, self.origins
        for op in ops:
            stop = start + len(op.inputs)
            yield tuple([origin >> _BITS for origin in origins[start:stop] if origin >= 0])
            start = stop

    def __iter__(self) -> Iterator[GraphCall]:
        origins = iter(self.origins)
        for key in self.keys:
            parts = iter(key[_HEAD:])
            args, kwargs = list[Any](), dict[str, Any]()
            for part in parts:
                if part.__class__ is str:
                    kwargs[part] = _given(next(parts), parts, origins)
                else:
                    args.append(_given(part, parts, origins))
            yield GraphCall(key[0].func, tuple(args), kwargs)


def _given(part: Any, parts: Iterator[Any], origins: Iterator[int]) -> Any:
    """An argument, as the graph keeps it."""
    if part.__class__ is Look:
        origin = next(origins)
        return Tag(origin >> _BITS, origin & _LAST, part) if origin >= 0 else Tag(-1, -origin, part)
    if part.__class__ is tuple:
        return list(part)
    if part.__class__ is int:
        return [_given(next(parts), parts, origins) for _ in range(part)]
    return next(parts)


_new = tuple.__new__
"""As a named tuple's own constructor, whose call in Python costs more than all the rest."""


class Tags:
    """Reads the tags of an op's arguments, and tags what it makes.

    Args:
        shapes: the looks of the run's tensors.
        meet: told of a fake tensor that nothing in this run has made, when it is first seen.
    """

    def __init__(self, shapes: Shapes, meet: Callable[[FakeTensor], None]) -> None:
        self._shapes = shapes
        self._meet = meet
        self._outside = 0
        run = next(_RUNS)
        self._look, self._origin = f"_memgraph_look_{run}", f"_memgraph_origin_{run}"
        """Each run has its own: a tensor that outlived one is new to the next."""

    def read(self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        """A call's arguments."""
        key: list[Any] = [operator, _default_dtype(), _infers()]
        tensors: list[Tensor] = []
        origins: list[int] = []
        self._walk(args, operator.mixes_numbers, key, tensors, origins)
        for name, arg in kwargs.items():
            key.append(name)
            self._walk((arg,), operator.mixes_numbers, key, tensors, origins)
        return _new(Arguments, (tuple(key), tensors, origins))

    def _walk(
        self, args: Sequence[Any], mixes: bool, key: list[Any], tensors: list[Tensor], origins: list[int]
    ) -> None:
        for arg in args:
            kind = arg.__class__
            if kind is FakeTensor or (kind not in _PLAIN and isinstance(arg, Tensor)):
                own = arg.__dict__
                look = own.get(self._look)
                origin = own[self._origin] if look is not None else 0
                if look is None:
                    look, origin = self._met(arg)
                key.append(look)
                tensors.append(arg)
                origins.append(origin)
            elif kind in _PLAIN or not isinstance(arg, (list, tuple)):
                key.append(kind)
                key.append(arg)
            elif arg and arg[0].__class__ is int and not mixes:
                key.append(tuple(arg))
            else:
                key.append(len(arg))
                self._walk(arg, mixes, key, tensors, origins)

    def _met(self, tensor: Tensor) -> tuple[Look, int]:
        """A tensor that no recorded op made: a real one from the CPU, or one of an earlier run."""
        if isinstance(tensor, FakeTensor):
            self._meet(tensor)
        self._outside += 1
        look = self._shapes.look(tensor)
        if isinstance(tensor, FakeTensor):
            self._tag(tensor, look, -self._outside)
        return look, -self._outside

    def _tag(self, tensor: Tensor, look: Look, origin: int) -> None:
        own = tensor.__dict__
        own[self._look], own[self._origin] = look, origin

    def made_by(self, tensor: Tensor) -> int:
        """Number of the op that made a fake tensor, -1 if none of this run did."""
        origin: int = tensor.__dict__.get(self._origin, -1)
        return origin >> _BITS if origin >= 0 else -1

    def tag(self, op: int, outputs: Any, recipe: Recipe | None) -> tuple[TensorSpec, ...]:
        """Tell the outputs of an op where they come from; a single tensor is output 0."""
        if recipe is not None:
            self.tag_made(op, outputs, recipe)
            return recipe.outputs
        specs = []
        for position, output in enumerate(outputs if isinstance(outputs, (list, tuple)) else (outputs,)):
            if isinstance(output, Tensor):
                look = self._shapes.look(output)
                self._tag(output, look, op << _BITS | position)
                specs.append(look.spec)
        return tuple(specs)

    def tag_made(self, op: int, outputs: Any, recipe: Recipe) -> None:
        """The same of outputs that were made as remembered."""
        if recipe.container is None:
            for _, look in recipe.looks:
                own = outputs.__dict__
                own[self._look], own[self._origin] = look, op << _BITS
            return
        for position, look in recipe.looks:
            own = outputs[position].__dict__
            own[self._look], own[self._origin] = look, op << _BITS | position


def name_parameter(tensor: Tensor, path: str) -> str:
    """Give a parameter or a buffer its path in a model, unless an earlier model gave it one; its path from now on."""
    own = vars(tensor)
    if _NAME not in own:
        own[_NAME] = uncompiled(path)
    name: str = own[_NAME]
    return name


def parameter_name(tensor: Tensor) -> str:
    """A parameter's path in the first model that was called with it; empty if none was."""
    name: str = vars(tensor).get(_NAME, "")
    return name
