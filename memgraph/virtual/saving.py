"""`torch.save` and `torch.load` on the virtual GPU: shapes and places are kept, values are not there to be saved.

A real file is read for real, on the CPU, and what a script wants on the device is copied there, storage by storage, as
torch does it (`torch.serialization`). Tried on torch 2.13.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from memgraph.errors import MemgraphError
from memgraph.virtual.patches import replaced

Assume = Callable[[str], None]
_PLACE = "_memgraph_place"
_reading = False
_open: FakeTensorMode | None = None
"""The mode of the virtual GPU that is open."""


@contextlib.contextmanager
def tensors_are_saved(mode: FakeTensorMode, assume: Assume) -> Iterator[None]:
    """While open, fake tensors can be saved, and files of real and of fake ones loaded.

    Args:
        mode: the one that makes fake tensors.
        assume: told that a tensor is saved without values.
    """
    global _open
    load = _loader(torch.load, mode)
    changes: list[tuple[Any, str, Any]] = [
        (FakeTensor, "__reduce_ex__", _reduce(assume)),
        (torch, "load", load),
        (torch.serialization, "load", load),
    ]
    if importlib.util.find_spec("safetensors") is not None:
        from safetensors import torch as safetensors

        found = [name for name in ("_flatten", "_flatten_as_ptr") if hasattr(safetensors, name)]
        changes += [(safetensors, name, _with_zeros(getattr(safetensors, name), assume)) for name in found]
        changes += [(safetensors, "storage_ptr", _storage), (safetensors, "_is_complete", _is_whole)]
        changes += [(safetensors, "_filter_shared_not_shared", lambda tensors, _state: tensors)]
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(replaced(owner, name, value))
        _open = mode
        try:
            yield
        finally:
            _open = None


def _storage(tensor: Tensor) -> int:
    """What tells storages apart; fake ones have no address."""
    return tensor.untyped_storage()._cdata


def _is_whole(tensor: Tensor) -> bool:
    return tensor.nbytes == tensor.untyped_storage().nbytes()


def _with_zeros(flatten: Callable[..., Any], assume: Assume) -> Callable[..., Any]:
    """safetensors copies values out of memory: it is given zeros, which the host makes only when they are read. (Its
    function for this has two names, up to 0.6 and since.)"""

    @functools.wraps(flatten)
    def flattened(tensors: dict[str, Tensor], *alive: list[Any]) -> Any:
        with unset_fake_temporarily():
            real = {name: _zeros(tensor) for name, tensor in tensors.items()}
            for kept in alive:
                kept.append(real)
            if any(isinstance(tensor, FakeTensor) for tensor in tensors.values()):
                assume("tensors are saved as zeros")
            return flatten(real, *alive)

    return flattened


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if isinstance(tensor, FakeTensor) else tensor


def _reduce(assume: Assume) -> Callable[..., Any]:
    def reduce(self: FakeTensor, _protocol: Any) -> Any:
        assume("a tensor is saved without values")
        storage = self.untyped_storage()
        place = (
            str(self.fake_device), storage._cdata, isinstance(self, nn.Parameter), self.requires_grad, storage.nbytes(),
            self.stride(), self.storage_offset(),
        )  # fmt: skip
        return no_values, (tuple(self.shape), str(self.dtype), *place)

    return reduce


def no_values(shape: tuple[int, ...], dtype: str, *place: Any) -> Tensor:
    """What a saved fake tensor is read back as: inside a virtual GPU another one, outside nothing.

    Raises:
        MemgraphError: a real run loads it.
    """
    if not _reading and _open is not None:  # `pickle` by itself, of a copy or for another process
        return Places(None, _open).made(_empty(shape, dtype), *place)
    if not _reading:
        raise MemgraphError(
            f"a {dtype} tensor of shape {list(shape)} was saved on a virtual GPU and has no values: "
            "save and load it in a real run"
        )
    empty = _empty(shape, dtype)
    vars(empty)[_PLACE] = place
    return empty


def _empty(shape: tuple[int, ...], dtype: str) -> Tensor:
    with unset_fake_temporarily():
        return torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device="meta")


def _loader(original: Callable[..., Any], mode: FakeTensorMode) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        places = Places(map_location, mode)
        with unset_fake_temporarily(), torch.serialization.safe_globals([no_values]), _for_real():
            loaded = original(f, places.keep, *args, **kwargs)
        return places.put(loaded)

    return load


@contextlib.contextmanager
def _for_real() -> Iterator[None]:
    global _reading
    _reading = True
    try:
        yield
    finally:
        _reading = False


class Places:
    """Where what is loaded has to go.

    Args:
        map_location: as `torch.load` takes it.
        mode: the one that makes fake tensors.
    """

    def __init__(self, map_location: Any, mode: FakeTensorMode) -> None:
        self._map_location = map_location
        self._mode = mode
        self._wanted: dict[int, str] = {}
        self._moved: dict[int, Tensor] = {}
        """By the real storage that was read: where its bytes are on the device."""
        self._made: dict[tuple[int, torch.dtype], Tensor] = {}
        """By the storage that was saved, of another time, whose number a real one may have by now: what has it all."""
        self._kept: list[Any] = []

    def keep(self, storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        """Leave a storage on the CPU for now, and remember where it has to go."""
        self._wanted[storage._cdata] = self._where(storage, location)
        self._kept.append(storage)
        return storage

    def _where(self, storage: Any, location: str) -> str:
        wish = self._map_location
        if wish is None:
            return location
        if isinstance(wish, dict):
            return str(wish.get(location, location))
        if not callable(wish):
            return str(wish)
        try:
            found = wish(storage, location)
        except (RuntimeError, AssertionError):  # it moves a real storage to CUDA
            return "cuda"
        return location if found is None else str(found.device)

    def put(self, value: Any) -> Any:
        """The loaded value with its tensors where they belong; containers and modules are changed in place."""
        if isinstance(value, Tensor):
            return self._placed(value)
        if isinstance(value, dict):
            for key, item in value.items():
                value[key] = self.put(item)
        elif isinstance(value, list):
            value[:] = [self.put(item) for item in value]
        elif type(value) is tuple:
            return tuple([self.put(item) for item in value])
        elif isinstance(value, nn.Module):
            for module in value.modules():
                self.put(module._parameters)
                self.put(module._buffers)
        return value

    def _placed(self, tensor: Tensor) -> Tensor:
        if _PLACE in vars(tensor):
            return self.made(tensor, *vars(tensor)[_PLACE])
        storage = tensor.untyped_storage()
        if not self._wanted.get(storage._cdata, "cpu").startswith("cuda"):
            return tensor
        moved = self._moved.get(storage._cdata)
        if moved is None:
            whole = torch.empty(0, dtype=tensor.dtype).set_(storage)  # type: ignore[call-overload]
            moved = self._moved[storage._cdata] = whole.to("cuda")
        return _like(tensor, moved.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()))

    def made(
        self, empty: Tensor, location: str, storage: int, parameter: bool, requires_grad: bool,
        size: int | None = None, stride: tuple[int, ...] = (), offset: int = 0,
    ) -> Tensor:  # fmt: skip
        """A fake tensor in the place of one that was saved, in a storage as large as it had, which those that shared it
        share again.

        Args:
            empty: of its shape and type, on the meta device.
            location: the device that it was on.
            storage: tells the storages of one file apart.
            size: bytes of the storage, in which it lies by `stride` and `offset`; None for one that it fills in order,
                as files of earlier versions have it.
        """
        plain = size is None or (size == empty.nbytes and stride == empty.stride())
        key = storage, empty.dtype
        if key in self._made:
            made = self._made[key].detach().as_strided(empty.shape, stride or empty.stride(), offset)
        else:
            whole = empty if size is None or plain else empty.new_empty(size // empty.itemsize)
            self._made[key] = self._fresh(whole, location)
            made = self._made[key] if plain else self._made[key].as_strided(empty.shape, stride, offset)
        return nn.Parameter(made, requires_grad) if parameter else made.requires_grad_(requires_grad)

    def _fresh(self, empty: Tensor, location: str) -> Tensor:
        if self._where(empty.untyped_storage(), location).startswith("cuda"):
            return torch.empty(empty.shape, dtype=empty.dtype, device="cuda")
        return FakeTensor(self._mode, empty, torch.device("cpu"))


def _like(original: Tensor, moved: Tensor) -> Tensor:
    if isinstance(original, nn.Parameter):
        return nn.Parameter(moved, original.requires_grad)
    return moved.requires_grad_(original.requires_grad)
