"""What autocast does under another torch than the installed one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch

_LAST_WITHOUT = (2, 11)
"""The release up to which `rms_norm` is not among autocast's ops in fp32: the one that is there in 2.13 and not in 2.11
(aten/src/ATen/autocast_mode.h). An `nn.RMSNorm` with its weight in fp32 takes half types apart there, where 2.13 casts
and calls one kernel. Measured: a ViT with normalised queries and keys on an H200, 7 % of its peak."""


@contextlib.contextmanager
def autocast_as_in(version: tuple[int, int]) -> Iterator[None]:
    """While open, autocast on the device leaves alone what that torch's does."""
    if version > _LAST_WITHOUT or not torch._C._dispatch_has_kernel_for_dispatch_key("aten::rms_norm", "AutocastCUDA"):
        yield
        return
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*other operators may also be overridden")
            library.impl("rms_norm", torch.library.fallthrough_kernel, "AutocastCUDA", allow_override=True)
        yield
    finally:
        library._destroy()
