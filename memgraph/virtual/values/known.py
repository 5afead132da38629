"""What is known of tensors that hold no values.

A small integer or boolean tensor whose elements are known (an `arange`, token ids moved over from the CPU) carries them
along as a real CPU tensor; an op on such tensors is also run for real. So `position_ids.max() + 1 > limit`, a boolean
mask over token ids, or `nonzero` of it have their true result.

Where not all of it is known, the real tensor's storage carries `Layers`: bounds of each element (`partly.py`), and what
it is supposed to be where choices are shared out (`chosen.py`). Views of a tensor share its value's storage, and so its
layers. What cannot be known is assumed (`assumed.py`).
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

LIMIT = 2**22
"""Elements up to which values are followed: token ids of a large batch, never activations."""

TABLE = 2**11
"""Floats of one dimension up to which they are followed: 1,000 times of a diffusion's schedule, and one more."""
MASK = 2**16
"""Floats of two dimensions up to which they are followed: a mask of 64 rows of 1,024 tokens, by `torch.ones`."""
_ATTRIBUTE = "_memgraph_value"
_LAYERS = "_memgraph_layers"
_ASSUMED_SIZE = "_memgraph_assumed_size"
EXACT = frozenset({torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


class Choice(NamedTuple):
    """Choices that are supposed to be shared out evenly: each of some rows has so many, among so many."""

    rows: int
    each: int
    among: int
    source: str
    """The line that chooses."""

    @property
    def text(self) -> str:
        """What is assumed, with the worst that may happen beside it."""
        fewest, rest = divmod(self.rows * self.each, self.among)
        share = f"{fewest:,} or {fewest + 1:,}" if rest else f"{fewest:,}"
        where = f" at {self.source}" if self.source else ""
        return (
            f"{self.each:,} of {self.among:,} chosen by each of {self.rows:,} rows{where} are taken to be shared out "
            f"evenly: {share} rows for each, where one could get all {self.rows:,}"
        )


class Layers:
    """What is known of a storage whose values are not; the storage has it as an attribute.

    With `high` the storage itself holds the least that each element can be, and `high` the greatest. `supposed` is what
    they are taken to be where a size asks, because of a `choice`. At `most` so many are other than 0 (`counted.py`).
    """

    __slots__ = ("choice", "high", "most", "supposed")

    def __init__(
        self,
        high: torch.UntypedStorage | None = None,
        supposed: torch.UntypedStorage | None = None,
        choice: Choice | None = None,
        most: int | None = None,
    ) -> None:
        self.high = high
        self.supposed = supposed
        self.choice = choice
        self.most = most


class Carried:
    """A fake tensor's value, among its attributes. It is one with the tensor: whoever copies a tensor's `__dict__`
    (MONAI's `MetaTensor`) copies no values, and loses none of their layers."""

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __deepcopy__(self, _memo: dict[int, Any]) -> Carried:
        return self


class Knowledge(enum.IntEnum):
    """How much is known of an op's arguments."""

    NOTHING = 0
    PARTLY = 1
    """Each is known, bounded, supposed, or an unknown boolean; and not all are known."""
    ALL = 2


def layers_of(value: Tensor) -> Layers | None:
    """The layers of a value, None if it is exact."""
    return getattr(value.untyped_storage(), _LAYERS, None)


def known(tensor: Tensor) -> Tensor | None:
    """The values of a fake tensor, if all of them are known."""
    value = value_of(tensor)
    return value if value is not None and layers_of(value) is None else None


def value_of(tensor: Tensor) -> Tensor | None:
    """The real tensor that a fake one carries, whatever is known of it."""
    carried: Carried | None = vars(tensor).get(_ATTRIBUTE)
    return carried.value if carried is not None else None


def bounds(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """The least and the greatest that each element can be, if that is known. Ask with the recorder switched off."""
    value = value_of(tensor)
    if value is None:
        return None
    layers = layers_of(value)
    if layers is None:
        return value, value
    return (value, _looking_at(layers.high, value)) if layers.high is not None else None


def supposed(tensor: Tensor) -> Tensor | None:
    """What the elements are known or supposed to be. Ask with the recorder switched off."""
    value = value_of(tensor)
    if value is None:
        return None
    layers = layers_of(value)
    if layers is None:
        return value
    return _looking_at(layers.supposed, value) if layers.supposed is not None else None


def choice_of(tensor: Tensor) -> Choice | None:
    """The choice that what is supposed of a tensor follows from."""
    value = value_of(tensor)
    layers = layers_of(value) if value is not None else None
    return layers.choice if layers is not None else None


def _looking_at(storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """A tensor of that shape, stride and place on another storage."""
    made = torch.empty(0, dtype=like.dtype)
    return made.set_(storage, like.storage_offset(), like.shape, like.stride())  # type: ignore[call-overload, no-any-return]


def worth_following(tensor: Tensor, *, view: bool = False) -> bool:
    """Exact types of any moderate size; floats as scalars, where they decide branches, and as short tables that are
    looked up (a schedule's times) or masks of tokens, which parameters are not.

    Args:
        view: of something that is followed, and so followed itself in any shape: who writes into it writes there too.
    """
    if view or tensor.dtype in EXACT:
        return tensor.numel() <= LIMIT
    most = {1: TABLE, 2: MASK}.get(tensor.dim(), 0)
    return tensor.numel() <= 1 or (tensor.numel() <= most and not isinstance(tensor, torch.nn.Parameter))


def all_worth_following(outputs: Any, *, view: bool = False) -> bool:
    """Whether an op's outputs are tensors on the device, each of them worth following."""
    if isinstance(outputs, FakeTensor):
        return worth_following(outputs, view=view)
    tensors = list(tensors_in((outputs,), {}))
    return bool(tensors) and all(
        isinstance(tensor, FakeTensor) and worth_following(tensor, view=view) for tensor in tensors
    )


def carries(tensor: Tensor) -> bool:
    """Whether it carries a value."""
    return _ATTRIBUTE in tensor.__dict__


def knowledge(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Knowledge:
    """How much is known of the tensors among the arguments; nothing if there are none."""
    return knowledge_of(tensors_in(args, kwargs))


def knowledge_of(tensors: Iterable[Tensor]) -> Knowledge:
    """The same of the tensors themselves."""
    some, all_ = False, True
    for tensor in tensors:
        if tensor.__class__ is FakeTensor or isinstance(tensor, FakeTensor):
            carried = tensor.__dict__.get(_ATTRIBUTE)
            if carried is None:
                if tensor.dtype is not torch.bool:
                    return Knowledge.NOTHING
                all_ = False
                continue
            all_ = all_ and layers_of(carried.value) is None
        elif not worth_following(tensor):
            return Knowledge.NOTHING
        some = True
    if not some:
        return Knowledge.NOTHING
    return Knowledge.ALL if all_ else Knowledge.PARTLY


def run_for_real(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The op's result on the values that the arguments carry, as real CPU tensors."""
    return run_on(value_of, func, args, kwargs)


def run_on(layer: Any, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The op's result on real CPU tensors, which `layer` gives for fake ones; None if no CPU can run it, or if it takes
    a storage of the device (`set_`), which holds no values."""
    if any(isinstance(arg, torch.UntypedStorage) for arg in args):
        return None
    real_kwargs = {name: _real(layer, arg) for name, arg in kwargs.items()}
    if "device" in real_kwargs:
        real_kwargs["device"] = torch.device("cpu")
    try:
        return _ON_A_CPU.get(func, func)(*[_real(layer, arg) for arg in args], **real_kwargs)
    except NotImplementedError:
        return None


def _histogram(source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A CPU counts floats alone."""
    return torch.histc(source.double(), *args, **kwargs).to(source.dtype)


def _other_on_a_cpu(*_: Any, **__: Any) -> None:
    """A bag's further results, that its backward reads, are empty where a CPU's backward has no use for them
    (aten/src/ATen/native/EmbeddingBag.cpp, `make_offset2bag_out`)."""


_ON_A_CPU: dict[OpOverload, Callable[..., Any]] = {
    torch.ops.aten.histc.default: _histogram,
    torch.ops.aten._embedding_bag.default: _other_on_a_cpu,
    torch.ops.aten._embedding_bag_forward_only.default: _other_on_a_cpu,
}
"""Ops whose CPU kernels take fewer types than those of CUDA do, or are not a CPU's affair."""


@contextlib.contextmanager
def run_by(functions: Mapping[OpOverload, Callable[..., Any]]) -> Iterator[None]:
    """While open, these say what comes of ops whose values are known."""
    _ON_A_CPU.update(functions)
    try:
        yield
    finally:
        for func in functions:
            _ON_A_CPU.pop(func, None)


def stand_in(like: Tensor, output: Tensor) -> Tensor:
    """A real tensor for the first argument of `ones_like` and its kin, of which only dtype and shape matter. It is as
    large as the output, which is known to be small, and not as the argument."""
    return torch.empty(output.shape, dtype=like.dtype)


def remember(outputs: Any, values: Any, *, view: bool = False) -> None:
    """Attach an op's real results to its fake outputs, position by position; sparse ones have no storage to say how."""
    if isinstance(outputs, FakeTensor):
        if isinstance(values, Tensor) and values.layout is torch.strided and worth_following(values, view=view):
            outputs.__dict__[_ATTRIBUTE] = Carried(values)
    elif isinstance(outputs, (list, tuple)) and isinstance(values, (list, tuple)):
        for output, value in zip(outputs, values, strict=False):
            remember(output, value, view=view)


def keep(
    output: Tensor, between: tuple[Tensor, Tensor] | None, guess: Tensor | None = None, choice: Choice | None = None,
    most: int | None = None,
) -> None:  # fmt: skip
    """Attach bounds, what is supposed, and how many are not 0 to a fake tensor that is new; what has equal bounds is
    exact."""
    if between is not None and torch.equal(*between):
        remember(output, between[0].clone(memory_format=torch.contiguous_format))
        return
    own = [
        tensor.clone(memory_format=torch.contiguous_format)
        for tensor in (*(between or ()), guess)
        if tensor is not None
    ]
    if own or most is not None:
        layers = Layers(
            own[1].untyped_storage() if between is not None else None,
            own[-1].untyped_storage() if guess is not None else None,
            choice,
            most,
        )
        base = own[0] if between is not None else torch.empty(output.shape, dtype=output.dtype)
        setattr(base.untyped_storage(), _LAYERS, layers)
        remember(output, base, view=True)


def write(
    tensor: Tensor, between: tuple[Tensor, Tensor] | None, guess: Tensor | None = None, choice: Choice | None = None,
    most: int | None = None,
) -> None:  # fmt: skip
    """Part of a tensor that has a value is written over with what is bounded or supposed: all that look at its storage
    see it.

    Args:
        most: elements of the storage that are other than 0 then.
    """
    value = value_of(tensor)
    if value is None or (between is None and guess is None and most is None):
        forget(tensor)
        return
    storage = value.untyped_storage()
    layers = layers_of(value)
    if layers is None:
        layers = Layers(storage.clone(), storage.clone())
        setattr(storage, _LAYERS, layers)
    layers.choice, layers.most = layers.choice or choice, most
    layers.supposed = _written(layers.supposed, value, guess)
    layers.high = _written(layers.high, value, between[1] if between is not None else None)
    if between is not None and layers.high is not None:
        value.copy_(between[0])
        if _equal(storage, layers.high):
            delattr(storage, _LAYERS)


def _written(storage: torch.UntypedStorage | None, like: Tensor, part: Tensor | None) -> torch.UntypedStorage | None:
    """One layer, where a part of it is new; None if that leaves something unknown."""
    if storage is None or part is None:
        return None
    _looking_at(storage, like).copy_(part)
    return storage


def _equal(first: torch.UntypedStorage, second: torch.UntypedStorage) -> bool:
    flat = [torch.empty(0, dtype=torch.uint8).set_(storage) for storage in (first, second)]  # type: ignore[call-overload]
    return torch.equal(*flat)


def forget(tensor: Any) -> None:
    """The tensor was written to with something unknown: its values, and those of all its views, are unknown now."""
    if isinstance(tensor, FakeTensor) and (carried := tensor.__dict__.pop(_ATTRIBUTE, None)) is not None:
        setattr(carried.value.untyped_storage(), _LAYERS, Layers())


def show(tensor: Tensor, storage: torch.UntypedStorage) -> None:
    """A program is given a fake tensor's storage: what it writes there it does not write by an op."""
    if (value := value_of(tensor)) is not None:
        vars(storage)[_ATTRIBUTE] = value.untyped_storage()


def forget_storage(storage: torch.UntypedStorage) -> None:
    """A storage that a program was given is written to with something unknown."""
    if (values := vars(storage).pop(_ATTRIBUTE, None)) is not None:
        setattr(values, _LAYERS, Layers())


def of_assumed_size(tensor: Tensor) -> Tensor:
    """The tensor, marked: how many elements it has is an assumption, which all that look at its storage share."""
    setattr(tensor.untyped_storage(), _ASSUMED_SIZE, True)
    return tensor


def has_assumed_size(tensor: Tensor) -> bool:
    """Whether how many elements a tensor has is an assumption."""
    return hasattr(tensor.untyped_storage(), _ASSUMED_SIZE)


def tensors_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors among an op's arguments, those in lists too."""
    for arg in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from tensors_in(arg, {})


def _real(layer: Any, arg: Any) -> Any:
    if isinstance(arg, FakeTensor):
        return layer(arg)
    if isinstance(arg, (list, tuple)):
        return [_real(layer, item) for item in arg]
    return arg
