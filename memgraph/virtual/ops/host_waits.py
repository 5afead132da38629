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
        "_linalg_check_errors", "_local_scalar_dense", "_unique", "_unique2", "bincount", "equal", "masked_select",
        "nonzero", "unique_consecutive", "unique_dim",
    }
)  # fmt: skip
"""Those whose CUDA kernels copy something to the host, for a value or for the size of their result (`item`,
`memcpy_and_sync`, `cudaStreamSynchronize` in aten/src/ATen/native/cuda: CUDAScalar.cu, Nonzero.cu, Unique.cu, …)."""
_MASKED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
_COPIES = frozenset({"_to_copy", "copy_", "_copy_from"})


def host_waits(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call does."""
    name = func._schema.name.removeprefix("aten::")
    if name in _MASKED:  # a mask is turned into indices, whose number is asked
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if name in _COPIES:
        return _crosses(args, kwargs)
    if name == "repeat_interleave":
        return func._overloadname != "self_int" and kwargs.get("output_size") is None
    if name == "histc":  # without bounds they are asked for (`_histc_cuda_template` of SummaryOps.cu)
        low, high = (args[at] if len(args) > at else kwargs.get(key, 0) for at, key in ((2, "min"), (3, "max")))
        return bool(low == high)
    return name in _READ


def _crosses(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether it copies between host and device, and waits (`copy_kernel_cuda` of
    aten/src/ATen/native/cuda/Copy.cu)."""
    ends = {tensor.device.type for tensor in args if isinstance(tensor, Tensor)}
    if kwargs.get("device") is not None:
        ends.add(torch.device(kwargs["device"]).type)
    return len(ends) > 1 and not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
