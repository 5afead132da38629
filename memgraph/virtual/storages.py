"""Storages as scripts see them: where they are, their address, and their size where a script changes it.

A fake tensor's storage is one of the meta device: it has a size and an identity, and neither a place nor an address.
Those come from the tensor and from the allocator's model. Tried on torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.patches import put, replaced
from memgraph.virtual.raw import storage_of
from memgraph.virtual.values import known as values

_Base: Any = torch._C.StorageBase  # its stub is empty
_DEVICE = "_memgraph_device"
_ADDRESS = "_memgraph_address"
_TWIN = "_memgraph_twin"
_HOST = itertools.count(0x5500_0000_0000, 2**40)
"""Addresses of storages on the host that hold no values: far enough apart that none reaches into the next."""


class Held(Protocol):
    """Who knows what the storages on the device hold."""

    def address(self, storage: UntypedStorage) -> int:
        """Where its block begins; 0 if it has none."""
        ...

    def bear(self, tensor: Tensor) -> None:
        """A tensor stands for a new storage on the device."""
        ...

    def resized(self, storage: UntypedStorage) -> None:
        """A storage on the device may have another size than before."""
        ...


@contextlib.contextmanager
def storages_are_there(held: Held) -> Iterator[None]:
    """While open, storages of fake tensors say where they are, and can be made, resized and filled."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(put(FakeTensor, "untyped_storage", placed_storage))
        stack.enter_context(put(FakeTensor, "data_ptr", _tensor_address(held)))
        stack.enter_context(put(FakeTensor, "set_", _set))
        stack.enter_context(put(UntypedStorage, "data_ptr", _storage_address(held)))
        stack.enter_context(put(UntypedStorage, "device", property(_device)))
        stack.enter_context(replaced(UntypedStorage, "__new__", _made(held)))
        stack.enter_context(put(UntypedStorage, "resize_", _resize(held)))
        stack.enter_context(put(UntypedStorage, "copy_", _copy))
        stack.enter_context(put(UntypedStorage, "fill_", _fill))
        stack.enter_context(put(UntypedStorage, "is_shared", _is_shared))
        for owner in (torch, torch.utils.dlpack):
            stack.enter_context(replaced(owner, "from_dlpack", _from_dlpack(torch.utils.dlpack.from_dlpack)))
            stack.enter_context(replaced(owner, "to_dlpack", _to_dlpack(torch._C._to_dlpack)))
        yield


def placed_storage(tensor: FakeTensor) -> UntypedStorage:
    """`tensor.untyped_storage()`, which knows where it is."""
    storage = storage_of(tensor)
    vars(storage)[_DEVICE] = tensor.fake_device
    values.show(tensor, storage)
    return storage


def place(storage: UntypedStorage) -> torch.device | None:
    """Where a fake tensor's storage is; None for others."""
    return vars(storage).get(_DEVICE)


def _device(self: UntypedStorage) -> torch.device:
    found: torch.device = place(self) or _Base.device.__get__(self)
    return found


def _is_shared(self: UntypedStorage) -> bool:
    """What is on the device is shared as it is (torch/csrc/StorageSharing.cpp, `THPStorage_isShared`)."""
    return self.is_cuda or bool(_Base.is_shared(self))


def _storage_address(held: Held) -> Callable[[UntypedStorage], int]:
    def data_ptr(self: UntypedStorage) -> int:
        where = place(self)
        if where is None:
            return int(_Base.data_ptr(self))
        if where.type == "cuda":
            return held.address(self)
        if not self.nbytes():
            return 0
        return int(vars(self).setdefault(_ADDRESS, None) or _number(self))

    return data_ptr


def _number(storage: UntypedStorage) -> int:
    address = vars(storage)[_ADDRESS] = next(_HOST)
    return address


def _tensor_address(held: Held) -> Callable[[FakeTensor], int]:
    of_storage = _storage_address(held)

    def data_ptr(self: FakeTensor) -> int:
        if not self.numel():  # as `TensorImpl::data` has it
            return 0
        return of_storage(placed_storage(self)) + int(self.storage_offset()) * self.element_size()

    return data_ptr


def _made(held: Held) -> Callable[..., UntypedStorage]:
    new: Any = UntypedStorage.__new__

    def made(cls: type[UntypedStorage], *args: Any, device: Any = None, **kwargs: Any) -> UntypedStorage:
        """`torch.UntypedStorage(bytes, device="cuda")`: a build without CUDA knows no such device."""
        if device is None or torch.device(device).type != "cuda":
            return new(cls, *args, **kwargs, **({} if device is None else {"device": device}))  # type: ignore[no-any-return]
        size = args[0] if args else kwargs.get("size", 0)
        count = size if isinstance(size, int) else len(size)
        return placed_storage(torch.empty(count, dtype=torch.uint8, device="cuda"))  # type: ignore[arg-type]

    return made


def _resize(held: Held) -> Callable[[UntypedStorage, int], UntypedStorage]:
    def resize_(self: UntypedStorage, size: int) -> UntypedStorage:
        _Base.resize_(self, size)
        if (where := place(self)) is not None and where.type == "cuda":
            held.resized(self)
        return self

    return resize_


def _copy(self: UntypedStorage, source: Any, non_blocking: Any = None) -> UntypedStorage:
    """Values are not there to be copied into a fake one, nor out of it."""
    if place(self) is not None:
        values.forget_storage(self)
    elif not (isinstance(source, UntypedStorage) and place(source) is not None):
        _Base.copy_(self, source, non_blocking)
    return self


def _set(self: FakeTensor, source: Any = None, *args: Any, **kwargs: Any) -> Any:
    """A storage that a script made on the host (`torch.UntypedStorage(bytes)`, as checkpoints are staged by
    torch/distributed/checkpoint/_state_dict_stager.py) has one beside it that holds no values."""
    if not isinstance(source, UntypedStorage) or self.fake_device.type != "cpu" or source.device.type != "cpu":
        given = () if source is None else (source,)
        return Tensor.set_(self, *given, *args, **kwargs)
    if place(source) is None:
        source = vars(source).get(_TWIN) or vars(source).setdefault(_TWIN, _without_values(self, source))
    return Tensor.set_(self, source, *args, **kwargs)


def _without_values(like: FakeTensor, storage: UntypedStorage) -> UntypedStorage:
    return placed_storage(like.new_empty(storage.nbytes(), dtype=torch.uint8))  # type: ignore[arg-type]


def _from_dlpack(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def from_dlpack(ext_tensor: Any, **kwargs: Any) -> Tensor:
        return ext_tensor.detach() if isinstance(ext_tensor, FakeTensor) else original(ext_tensor, **kwargs)

    return from_dlpack


def _to_dlpack(original: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """A capsule holds an address; here the tensor stands for its own."""
    return lambda tensor: tensor if isinstance(tensor, FakeTensor) else original(tensor)


def _fill(self: UntypedStorage, value: Any) -> UntypedStorage:
    if place(self) is not None:
        values.forget_storage(self)
    else:
        _Base.fill_(self, value)
    return self
