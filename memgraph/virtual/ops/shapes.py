"""What an op's results look like, remembered from the first time it was seen with such arguments.

FakeTensor finds shapes by running meta kernels, and its own cache spends most of its time on keys. A step repeats the
same calls block after block, so the recorder keeps what it needs itself: each tensor on the device carries one interned
`Look`, and an op's key is its arguments with the looks in place of the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from memgraph.trace import TensorSpec
from memgraph.virtual.raw import make_subclass, storage_of

Key = tuple[Any, ...]
_META = torch.device("meta")


class Look:
    """Shape, stride, offset (in elements), dtype and device. Interned: equal looks are the same object."""

    __slots__ = ("device", "dtype", "holds", "offset", "shape", "spec", "specs", "stride")

    def __init__(
        self, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        self.stride = stride
        self.offset = offset
        self.dtype = dtype
        self.device = device
        self.spec = TensorSpec(shape, str(dtype).removeprefix("torch."))
        self.specs = (self.spec,)
        self.holds = device.type == "cuda" and 0 not in shape
        """Whether a storage of its own takes memory on the device."""

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
    whatever else the user of the recipe knows of such calls, and `quiet` says that they allocate nothing at all."""

    __slots__ = ("births", "container", "inside", "parts", "quiet")

    def __init__(self, parts: tuple[Part | Constant | None, ...], container: type | None) -> None:
        self.parts = parts
        self.container = container
        self.births = tuple(
            (place, part.look.spec)
            for place, part in enumerate(parts)
            if isinstance(part, Part) and part.source is None and part.look.holds
        )
        """Which outputs have a new storage that takes memory on the device."""
        self.inside: Any = None
        self.quiet = False


class Shapes:
    """The interned looks and the recipes of one recorder."""

    def __init__(self) -> None:
        self._looks: dict[Key, Look] = {}
        self._recipes: dict[Key, Recipe] = {}
        self._states: dict[torch.device, dict[str, Any]] = {}

    def look(self, tensor: Tensor) -> Look:
        """The look of a tensor."""
        if tensor.layout is torch.strided:
            facts = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device)
        else:
            facts = (tuple(tensor.shape), (), 0, tensor.dtype, tensor.device)
        found = self._looks.get(facts)
        if found is None:
            found = self._looks[facts] = Look(*facts)  # type: ignore[arg-type]  # no symbolic sizes here
        return found

    def find(self, key: Key) -> Recipe | None:
        """What is known for a call; None the first time, or if it cannot be remembered."""
        return self._recipes.get(key)

    def learn(self, key: Key, func: OpOverload, tensors: Sequence[Tensor], outputs: Any) -> Recipe | None:
        """Remember a call's outputs, unless they depend on more than the key says; what was remembered."""
        if not _repeatable(func) or any(tensor.layout is not torch.strided for tensor in tensors):
            return None
        single = not isinstance(outputs, (list, tuple))
        parts: list[Part | Constant | None] = []
        looks = [part for part in key if isinstance(part, Look)]
        storages = {storage_of(tensor)._cdata: place for place, tensor in reversed(list(enumerate(tensors)))}
        for output in (outputs,) if single else outputs:
            part = self._part(output, tensors, looks, storages)
            if part is _NOT_REPEATABLE:
                return None
            parts.append(part)
        recipe = self._recipes[key] = Recipe(
            tuple(parts), None if single else list if isinstance(outputs, list) else tuple
        )
        return recipe

    def make(self, recipe: Recipe, mode: FakeTensorMode, tensors: Sequence[Tensor]) -> Any:
        """The outputs of a call like the one that was remembered."""
        parts = recipe.parts
        if recipe.container is None:
            return self._make(parts[0], mode, tensors)
        return recipe.container([self._make(part, mode, tensors) for part in parts])

    def _make(self, part: Part | Constant | None, mode: FakeTensorMode, tensors: Sequence[Tensor]) -> Any:
        if part is None:
            return None
        if part.__class__ is Constant:
            return part[0]
        look, source, same = part  # type: ignore[misc]  # no other class is left
        if source is None:
            return self._fake(
                torch.empty_strided(look.shape, look.stride, dtype=look.dtype, device=_META), look.device, mode
            )
        if same:
            return tensors[source]
        if tensors[source].is_inference() == torch.is_inference_mode_enabled():
            return self._view(tensors[source], look, mode)
        with torch.inference_mode(tensors[source].is_inference()):  # a view is what it is a view of
            return self._view(tensors[source], look, mode)

    def _view(self, source: Tensor, look: Look, mode: FakeTensorMode) -> FakeTensor:
        made = torch.empty((0,), dtype=look.dtype, device=_META)
        made.set_(storage_of(source), look.offset, look.shape, look.stride)  # type: ignore[call-overload]
        return self._fake(made, look.device, mode)

    def _fake(self, meta: Tensor, device: torch.device, mode: FakeTensorMode) -> FakeTensor:
        """As `FakeTensor(mode, meta, device)`, whose argument checks take most of its time: the same subclass instance,
        with the Python state that the constructor gave to the first one on this device."""
        state = self._states.get(device)
        if state is None:
            first = FakeTensor(mode, meta, device)
            self._states[device] = dict(vars(first))
            return first
        fake = make_subclass(FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=device)  # type: ignore[call-arg]
        torch._C._set_throw_on_mutable_data_ptr(fake)
        fake.__dict__.update(state)
        return fake

    def _part(
        self, output: Any, tensors: Sequence[Tensor], looks: Sequence[Look], storages: dict[int, int]
    ) -> Part | Constant | None:
        if output is None:
            return None
        if type(output) in (int, float):
            return Constant(output)
        if not isinstance(output, FakeTensor) or output.layout is not torch.strided or output.dtype.is_complex:
            return _NOT_REPEATABLE
        look = self.look(output)
        for place, tensor in enumerate(tensors):
            if output is tensor:
                return Part(look, place, same=True) if look is looks[place] else _NOT_REPEATABLE  # `out=` that grew
        storage = storage_of(output)._cdata
        source = storages.get(storage)
        if source is None:
            storages[storage] = -1  # another output on the same new storage cannot be told from a view of an argument
            return Part(look) if look.offset == 0 and _fills_its_storage(output) else _NOT_REPEATABLE
        return Part(look, source) if source >= 0 and isinstance(tensors[source], FakeTensor) else _NOT_REPEATABLE


def _fills_its_storage(tensor: Tensor) -> bool:
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.numel() == 0 or storage_of(tensor).nbytes() == reach * tensor.element_size()


_NOT_REPEATABLE = Part(Look((), (), 0, torch.float32, torch.device("meta")), -2)
_UNREPEATABLE_TAGS = frozenset(
    {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view}
)


def _repeatable(func: OpOverload) -> bool:
    """Builtin, and its result's look is a function of its arguments' looks."""
    name = func._schema.name
    return (
        name.startswith("aten::")
        and not name.startswith(("aten::lift", "aten::set_", "aten::resize"))
        and not _UNREPEATABLE_TAGS & set(func.tags)
    )
