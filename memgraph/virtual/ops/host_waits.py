"""Ops that make the host wait until the stream they run on is done with them: what came before on it is then known to
be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

_READ = frozenset(
    {
        "_local_scalar_dense", "bincount", "equal", "index", "masked_select", "nonzero", "repeat_interleave",
        "unique_consecutive", "unique_dim", "_unique", "_unique2",
    }
)  # fmt: skip
"""Those whose CUDA kernels copy something to the host, for a value or for the size of their result (`item_and_sync`,
`memcpy_and_sync`, `cudaStreamSynchronize` in aten/src/ATen/native/cuda: CUDAScalar.cu, Nonzero.cu, Unique.cu, …)."""
_COPIES = frozenset({"_to_copy", "copy_", "_copy_from"})


def host_waits(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call does. A copy between host and device does unless it is `non_blocking` (`copy_kernel_cuda` of
    aten/src/ATen/native/cuda/Copy.cu)."""
    name = func._schema.name.removeprefix("aten::")
    if name == "index":
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if name == "repeat_interleave":
        return func._overloadname != "self_int" and kwargs.get("output_size") is None
    return name in _READ or (name in _COPIES and _crosses(args, kwargs))


def _crosses(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    ends = {tensor.device.type for tensor in args if isinstance(tensor, Tensor)}
    if kwargs.get("device") is not None:
        ends.add(torch.device(kwargs["device"]).type)
    return len(ends) > 1 and not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
