"""What tensors carry of a run: a tag that says which op made them, and a parameter its name.

An op's arguments are kept with the tags in place of the tensors, so that nothing is kept alive.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.capture.provenance import uncompiled
from memgraph.trace import TensorSpec
from memgraph.virtual.ops.shapes import Look, Recipe, Shapes

_RUNS = itertools.count()
_NO_KWARGS: Mapping[str, Any] = {}
_default_dtype, _infers = torch.get_default_dtype, torch.is_inference_mode_enabled
_NAME = "_memgraph_name"


class Tag(NamedTuple):
    """Where a tensor comes from: output `index` of op `op`, or -1 and a running number for one made outside."""

    op: int
    index: int  # type: ignore[assignment]  # hides tuple.index, on purpose
    look: Look

    @property
    def spec(self) -> TensorSpec:
        return self.look.spec


class Arguments(NamedTuple):
    """One call's arguments, walked once: as the graph keeps them, as a key, and the tensors among them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    key: tuple[Any, ...]
    tensors: list[Tensor]

    def specs(self) -> tuple[TensorSpec, ...]:
        """What the tensors are, in order."""
        return tuple([part.spec for part in self.key if part.__class__ is Look])


class GraphCall(NamedTuple):
    """What is needed to draw an op in the graph: tensors are replaced by their tags."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[TensorSpec, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        """The ops whose results it takes; tensors made outside are nobody's."""
        tags = [*_tags(self.args), *_tags(self.kwargs.values())]
        return tuple([tag.op for tag in tags if tag.op >= 0])


def _tags(arguments: Iterable[Any]) -> Iterator[Tag]:
    for argument in arguments:
        if isinstance(argument, Tag):
            yield argument
        elif isinstance(argument, list):
            yield from _tags(argument)


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
        self._attribute = f"_memgraph_tag_{next(_RUNS)}"
        """Each run has its own: a tensor that outlived one is new to the next."""

    def read(self, operator: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        """A call's arguments: tensors become tags; the key is collected on the way."""
        key: list[Any] = [operator, _default_dtype(), _infers()]
        tensors: list[Tensor] = []
        given = tuple(self._references(args, key, tensors))
        named = self._by_name(kwargs, key, tensors) if kwargs else _NO_KWARGS
        return _new(Arguments, (given, named, tuple(key), tensors))

    def _references(self, args: Sequence[Any], key: list[Any], tensors: list[Tensor]) -> list[Any]:
        """Arguments as the graph keeps them."""
        given = []
        for arg in args:
            kind = arg.__class__
            if kind is FakeTensor or (kind is not int and isinstance(arg, Tensor)):
                tag = arg.__dict__.get(self._attribute) or self._tag_outside(arg)
                key.append(tag[2])
                tensors.append(arg)
                given.append(tag)
            elif kind is list or isinstance(arg, (list, tuple)):
                key.append(len(arg))
                given.append(self._references(arg, key, tensors))
            else:
                key += (kind, arg)  # 1, 1.0 and True are equal and yet promote differently
                given.append(arg)
        return given

    def _by_name(self, kwargs: Mapping[str, Any], key: list[Any], tensors: list[Tensor]) -> Mapping[str, Any]:
        """The same of keyword arguments."""
        referenced = {}
        for name, arg in kwargs.items():
            key.append(name)
            (referenced[name],) = self._references((arg,), key, tensors)
        return referenced

    def _tag_outside(self, tensor: Tensor) -> Tag:
        """A tensor that no recorded op made: a real one from the CPU, or one of an earlier run."""
        if isinstance(tensor, FakeTensor):
            self._meet(tensor)
        self._outside += 1
        tag = Tag(-1, self._outside, self._shapes.look(tensor))
        if isinstance(tensor, FakeTensor):
            tensor.__dict__[self._attribute] = tag
        return tag

    def made_by(self, tensor: Tensor) -> int:
        """Number of the op that made a fake tensor, -1 if none of this run did."""
        tag = tensor.__dict__.get(self._attribute)
        return tag.op if tag is not None else -1

    def tag(self, op: int, outputs: Any, recipe: Recipe | None) -> tuple[TensorSpec, ...]:
        """Tell the outputs of an op where they come from; a single tensor is output 0."""
        if recipe is not None:
            self.tag_made(op, outputs, recipe)
            return recipe.outputs
        specs = []
        for position, output in enumerate(outputs if isinstance(outputs, (list, tuple)) else (outputs,)):
            if isinstance(output, Tensor):
                look = self._shapes.look(output)
                output.__dict__[self._attribute] = Tag(op, position, look)
                specs.append(look.spec)
        return tuple(specs)

    def tag_made(self, op: int, outputs: Any, recipe: Recipe) -> None:
        """The same of outputs that were made as remembered."""
        if recipe.container is None:
            outputs = (outputs,)
        for position, look in recipe.looks:
            outputs[position].__dict__[self._attribute] = _new(Tag, (op, position, look))


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
