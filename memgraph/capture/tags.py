"""What tensors carry of a run: a tag that says which op made them, and a parameter its name.

An op's arguments are kept with the tags in place of the tensors, so that nothing is kept alive.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.capture.provenance import uncompiled
from memgraph.trace import TensorSpec
from memgraph.virtual.ops.shapes import Look, Part, Recipe, Shapes

_RUNS = itertools.count()
_NAME = "_memgraph_name"


class Tag(NamedTuple):
    """Where a tensor comes from: output `index` of op `op`, or -1 and a running number for one made outside."""

    op: int
    index: int  # type: ignore[assignment]  # hides tuple.index, on purpose
    look: Look

    @property
    def spec(self) -> TensorSpec:
        return self.look.spec


class Arguments:
    """One call's arguments, walked once: as the graph keeps them, as a key, and the tensors among them."""

    __slots__ = ("key", "specs", "tensors")

    def __init__(self, operator: object) -> None:
        self.key: list[Any] = [operator, torch.get_default_dtype(), torch.is_inference_mode_enabled()]
        self.specs: list[TensorSpec] = []
        self.tensors: list[Tensor] = []


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

    def reference(self, arg: Any, arguments: Arguments) -> Any:
        """An argument as the graph keeps it: tensors become tags; the key and the specs are collected on the way."""
        if isinstance(arg, Tensor):
            tag: Tag = arg.__dict__.get(self._attribute) or self._tag_outside(arg)
            look = tag[2]
            arguments.key.append(look)
            arguments.specs.append(look.spec)
            arguments.tensors.append(arg)
            return tag
        if isinstance(arg, (list, tuple)):
            arguments.key.append(len(arg))
            return [self.reference(item, arguments) for item in arg]
        arguments.key += (arg.__class__, arg)  # 1, 1.0 and True are equal and yet promote differently
        return arg

    def reference_by_name(self, kwargs: Mapping[str, Any], arguments: Arguments) -> Mapping[str, Any]:
        """The same of keyword arguments."""
        referenced = {}
        for name, arg in kwargs.items():
            arguments.key.append(name)
            referenced[name] = self.reference(arg, arguments)
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
        if recipe is not None and recipe.container is None and isinstance(recipe.parts[0], Part):
            look = recipe.parts[0].look
            outputs.__dict__[self._attribute] = _new(Tag, (op, 0, look))
            return look.specs
        specs = []
        parts = recipe.parts if recipe is not None else ()
        for position, output in enumerate(outputs if isinstance(outputs, (list, tuple)) else (outputs,)):
            if isinstance(output, Tensor):
                part = parts[position] if parts else None
                look = part.look if isinstance(part, Part) else self._shapes.look(output)
                output.__dict__[self._attribute] = Tag(op, position, look)
                specs.append(look.spec)
        return tuple(specs)


def name_parameter(tensor: Tensor, path: str) -> str:
    """Give a parameter or a buffer its path in a model, unless an earlier model gave it one; its path from now on."""
    name: str = vars(tensor).setdefault(_NAME, uncompiled(path))
    return name


def parameter_name(tensor: Tensor) -> str:
    """A parameter's path in the first model that was called with it; empty if none was."""
    name: str = vars(tensor).get(_NAME, "")
    return name
