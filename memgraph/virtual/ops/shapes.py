"""What an op's results look like, remembered from the first time it was seen with such arguments.

FakeTensor finds shapes by running meta kernels, and its own cache spends most of its time on keys. A step repeats the
same calls block after block, so the recorder keeps what it needs itself: each tensor on the device carries one interned
`Look`, and an op's key is its arguments with the looks in place of the tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from memgraph.trace import TensorSpec
from memgraph.virtual.ops.placeless import are_together, run_without_place
from memgraph.virtual.raw import make_subclass, storage_of

Key = tuple[Any, ...]
_META = torch.device("meta")
_empty_strided = torch.empty_strided
_set: Any = Tensor.set_
_is_inference = Tensor.is_inference
_infers = torch.is_inference_mode_enabled
_throw_on_data_ptr = torch._C._set_throw_on_mutable_data_ptr


@functools.cache
def _nothing(dtype: torch.dtype) -> Tensor:
    """An empty tensor without a place, whose copy is the quickest way to another one. Asked for while a compiler
    traces, it is none of the tracer's: copies would be too, for good, and torch remembers the storages of such calls.
    """
    with _disable_current_modes(), torch.inference_mode(False):
        return torch.empty((0,), dtype=dtype, device=_META)


class Look:
    """Shape, stride, offset (in elements), dtype and device. Interned: equal looks are the same object."""

    __slots__ = ("device", "dtype", "holds", "nothing", "offset", "shape", "size", "spec", "state", "stride", "tells")

    def __init__(
        self, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        self.stride = stride
        self.offset = offset
        self.dtype = dtype
        self.device = device
        self.nothing = _nothing(dtype)
        self.state: dict[str, Any] | None = None
        """What the Python object of a fake tensor on this device has, once one was made."""
        self.spec = TensorSpec(shape, str(dtype).removeprefix("torch."))
        self.holds = device.type == "cuda" and 0 not in shape
        """Whether a storage of its own takes memory on the device."""
        self.size = (1 + sum(map(_reach, shape, stride))) * dtype.itemsize if self.holds else 0
        """The bytes of that."""
        self.tells = device.type == "cuda" and dtype is not torch.bool
        """Whether a tensor is one of which nothing is known if it carries no values (`knowledge_of`)."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> Look:
        return self


class Part(NamedTuple):
    """One output: a new storage (`source` None), a view of tensor argument number `source`, or that argument itself."""

    look: Look
    source: int | None = None
    same: bool = False


class Constant(NamedTuple):
    """One output that is no tensor: a number that follows from the arguments' looks, as the longest sequence does."""

    value: int | float


class Recipe:
    """How to make an op's outputs. `container` is None for a single tensor, else `tuple` or `list`; `inside` is for
    whatever else the user of the recipe knows of such calls: `quiet` says that they allocate nothing at all, `sole`
    that they allocate their one output and nothing else."""

    __slots__ = (
        "births", "container", "inputs", "inside", "key", "looks", "outputs", "parts", "quiet", "sole", "telling",
    )  # fmt: skip

    def __init__(
        self,
        parts: tuple[Part | Constant | None, ...],
        container: type | None,
        key: Key = (),
        looks: Sequence[Look] = (),
    ) -> None:
        self.parts = parts
        self.container = container
        self.key = key
        """Of all such calls, the same object."""
        self.inputs = tuple([look.spec for look in looks])
        """What the arguments' tensors are."""
        self.telling = next((place for place, look in enumerate(looks) if look.tells), -1)
        """The first of them of which nothing is known unless it carries its values; -1 if there is none."""
        self.looks = tuple((place, part.look) for place, part in enumerate(parts) if isinstance(part, Part))
        """Which outputs are tensors, and their looks."""
        self.outputs = tuple(look.spec for _, look in self.looks)
        self.births = tuple(
            (place, part.look.spec, part.look.size)
            for place, part in enumerate(parts)
            if isinstance(part, Part) and part.source is None and part.look.holds
        )
        """Which outputs have a new storage that takes memory on the device, and its bytes."""
        self.inside: Any = None
        self.quiet = False
        self.sole = False


class Shapes:
    """The interned looks and the recipes of one recorder."""

    def __init__(self) -> None:
        self._looks: dict[Key, Look] = {}
        self._recipes: dict[Key, Recipe] = {}
        self.find: Callable[[Key], Recipe | None] = self._recipes.get
        """What is known for a call; None the first time, or if it cannot be remembered."""
        self._states: dict[torch.device, dict[str, Any]] = {}

    def look(self, tensor: Tensor) -> Look:
        """The look of a tensor."""
        return self._look_at(tensor, tensor.device)

    def _look_at(self, tensor: Tensor, device: torch.device) -> Look:
        """The look of a tensor, if it is there."""
        if tensor.layout is torch.strided:
            facts = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype, device)
        else:
            facts = (tuple(tensor.shape), (), 0, tensor.dtype, device)
        found = self._looks.get(facts)
        if found is None:
            found = self._looks[facts] = Look(*facts)  # type: ignore[arg-type]  # no symbolic sizes here
        return found

    def learn(self, key: Key, func: OpOverload, tensors: Sequence[Tensor], outputs: Any) -> Recipe | None:
        """Remember a call's outputs, unless they depend on more than the key says; what was remembered."""
        if not _repeatable(func) or any(tensor.layout is not torch.strided for tensor in tensors):
            return None
        return self._remember(key, tensors, outputs, None)

    def foresee(
        self, key: Key, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[Tensor]
    ) -> Recipe | None:
        """The same of an op that is `is_placeless`, without running it; None if that does not tell."""
        if not _repeatable(func) or not are_together(tensors):
            return None
        standing: list[Tensor] = []

        def stand(tensor: Tensor) -> Tensor:
            standing.append(_look_alike(tensor, self.look(tensor)))
            return standing[-1]

        outputs = run_without_place(func, args, kwargs, stand)
        return self._remember(key, standing, outputs, tensors[0].device) if outputs is not None else None

    def _remember(
        self, key: Key, tensors: Sequence[Tensor], outputs: Any, device: torch.device | None
    ) -> Recipe | None:
        """What the outputs are, seen from the tensors that the op was given.

        Args:
            device: where they would be; None if they say so themselves.
        """
        single = not isinstance(outputs, (list, tuple))
        parts: list[Part | Constant | None] = []
        looks = [part for part in key if isinstance(part, Look)]
        storages = {storage_of(tensor)._cdata: place for place, tensor in reversed(list(enumerate(tensors)))}
        for output in (outputs,) if single else outputs:
            part = self._part(output, tensors, looks, storages, device)
            if part is _NOT_REPEATABLE:
                return None
            parts.append(part)
        container = None if single else list if isinstance(outputs, list) else tuple
        recipe = self._recipes[key] = Recipe(tuple(parts), container, key, looks)
        return recipe

    def make(self, recipe: Recipe, mode: FakeTensorMode, tensors: Sequence[Tensor]) -> Any:
        """The outputs of a call like the one that was remembered."""
        if recipe.container is None:
            return self._make(recipe.parts[0], mode, tensors)
        return recipe.container([self._make(part, mode, tensors) for part in recipe.parts])

    def _make(self, part: Part | Constant | None, mode: FakeTensorMode, tensors: Sequence[Tensor]) -> Any:
        if part is None:
            return None
        if part.__class__ is Constant:
            return part[0]
        look, source, same = part  # type: ignore[misc]  # no other class is left
        if source is None:
            made = _empty_strided(look.shape, look.stride, dtype=look.dtype, device=_META)
        elif same:
            return tensors[source]
        else:
            viewed = tensors[source]
            if _is_inference(viewed) != _infers():
                with torch.inference_mode(_is_inference(viewed)):  # a view is what it is a view of
                    return self._fake(_look_alike(viewed, look), look, mode)
            made = look.nothing.clone()  # as `_look_alike`, without a call
            _set(made, storage_of(viewed), look.offset, look.shape, look.stride)
        return self._fake(made, look, mode)

    def _fake(self, meta: Tensor, look: Look, mode: FakeTensorMode) -> FakeTensor:
        """As `FakeTensor(mode, meta, device)`, whose argument checks take most of its time: the same subclass instance,
        with the Python state that the constructor gave to the first one on this device."""
        if look.state is None:
            if look.device not in self._states:
                first = FakeTensor(mode, meta, look.device)
                self._states[look.device] = dict(vars(first))
                return first
            look.state = self._states[look.device]
        fake: FakeTensor = make_subclass(  # type: ignore[call-arg]
            FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=look.device
        )
        _throw_on_data_ptr(fake)
        fake.__dict__.update(look.state)
        return fake

    def _part(
        self, output: Any, tensors: Sequence[Tensor], looks: Sequence[Look], storages: dict[int, int],
        device: torch.device | None,
    ) -> Part | Constant | None:  # fmt: skip
        if output is None:
            return None
        if type(output) in (int, float):
            return Constant(output)
        if not isinstance(output, FakeTensor if device is None else Tensor):
            return _NOT_REPEATABLE
        if output.layout is not torch.strided or output.dtype.is_complex:
            return _NOT_REPEATABLE
        look = self._look_at(output, output.device if device is None else device)
        for place, tensor in enumerate(tensors):
            if output is tensor:
                return Part(look, place, same=True) if look is looks[place] else _NOT_REPEATABLE  # `out=` that grew
        storage = storage_of(output)._cdata
        source = storages.get(storage)
        if source is None:
            storages[storage] = -1  # another output on the same new storage cannot be told from a view of an argument
            return Part(look) if look.offset == 0 and _fills_its_storage(output) else _NOT_REPEATABLE
        known = source >= 0 and (device is not None or isinstance(tensors[source], FakeTensor))
        return Part(look, source) if known else _NOT_REPEATABLE


def _look_alike(source: Tensor, look: Look) -> Tensor:
    """A tensor of the meta device on another's storage."""
    made = look.nothing.clone()
    _set(made, storage_of(source), look.offset, look.shape, look.stride)
    return made


def _reach(size: int, step: int) -> int:
    return (size - 1) * step


def _fills_its_storage(tensor: Tensor) -> bool:
    reach = sum(map(_reach, tensor.shape, tensor.stride())) + 1
    return tensor.numel() == 0 or storage_of(tensor).nbytes() == reach * tensor.element_size()


_NOT_REPEATABLE = Part(Look((), (), 0, torch.float32, torch.device("meta")), -2)
_UNREPEATABLE_TAGS = frozenset(
    {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view}
)


@functools.cache
def _repeatable(func: OpOverload) -> bool:
    """Builtin, and its result's look is a function of its arguments' looks."""
    name = func._schema.name
    return (
        name.startswith("aten::")
        and not name.startswith(("aten::lift", "aten::set_", "aten::resize"))
        and not _UNREPEATABLE_TAGS & set(func.tags)
    )
