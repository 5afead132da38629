"""`torch.cuda.FloatTensor` and its kin, and CUDA as the default tensor type, which builds without CUDA refuse.

Scripts make tensors by them (`Tensor = torch.cuda.FloatTensor`), ask `isinstance`, and convert with `.type(...)`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from memgraph.virtual.patches import replaced

_DTYPES = {
    "FloatTensor": torch.float32, "DoubleTensor": torch.float64, "HalfTensor": torch.float16,
    "BFloat16Tensor": torch.bfloat16, "ByteTensor": torch.uint8, "CharTensor": torch.int8,
    "ShortTensor": torch.int16, "IntTensor": torch.int32, "LongTensor": torch.int64, "BoolTensor": torch.bool,
}  # fmt: skip


class LegacyType:
    """One of them. Called as torch's own (`legacy_tensor_ctor`, torch/csrc/utils/tensor_new.cpp): with sizes, with
    values, with a tensor that it shares, or with nothing."""

    def __init__(self, original: Any, dtype: torch.dtype) -> None:
        self.original = original
        self.dtype = dtype

    def __call__(self, *args: Any) -> Tensor:
        if all(isinstance(size, int) for size in args):
            return torch.empty(args or (0,), dtype=self.dtype, device="cuda")
        (data,) = args
        if isinstance(data, torch.Size):
            return torch.empty(data, dtype=self.dtype, device="cuda")
        if isinstance(data, Tensor):
            if not isinstance(data, self):  # type: ignore[arg-type]  # we answer
                raise TypeError(f"expected {self.original.__name__} (got {data.type()})")
            return data.detach()
        return torch.tensor(data, dtype=self.dtype, device="cuda")

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def __repr__(self) -> str:
        return repr(self.original)


@contextlib.contextmanager
def legacy_types_are_there() -> Iterator[None]:
    """While open, the types can be called, asked and made the default; after it the default is what it was."""
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        for name in _DTYPES.keys() & vars(torch.cuda).keys():
            stack.enter_context(replaced(torch.cuda, name, LegacyType(getattr(torch.cuda, name), _DTYPES[name])))
        stack.enter_context(replaced(Tensor, "type", _converted))
        stack.enter_context(replaced(torch, "set_default_tensor_type", _set_default))
        stack.callback(_restore, dtype)
        yield


_type = Tensor.type
_set = torch.set_default_tensor_type
_on_device = False


def _converted(self: Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    return _type(self, dtype.original if isinstance(dtype, LegacyType) else dtype, *args, **kwargs)


def _set_default(t: Any) -> None:
    """A tensor type of the device makes it the place of new tensors."""
    global _on_device
    named = t.original if isinstance(t, LegacyType) else t
    name = named if isinstance(named, str) else f"{named.__module__}.{named.__name__}"
    wanted = name.startswith("torch.cuda.")
    if wanted:
        torch.set_default_dtype(_DTYPES[name.rpartition(".")[2]])
    else:
        _set(t)
    if wanted or _on_device:
        torch.set_default_device("cuda" if wanted else None)
    _on_device = wanted


def _restore(dtype: torch.dtype) -> None:
    global _on_device
    if _on_device:
        torch.set_default_device(None)
        torch.set_default_dtype(dtype)
        _on_device = False
