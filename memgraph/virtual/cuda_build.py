"""What a build of torch for CUDA says of itself, said by a CPU-only one while a virtual GPU is open.

Scripts and libraries ask at import (torch_geometric prints `torch.__config__.show()`), and choose by the answers. The
figures are those of the wheels that `pip install torch` brings. On a build for CUDA its own answers stay, but
for the lines of `show` for which it asks a driver (`CUDAHooks::showConfig`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from memgraph.virtual.patches import answered, put

_CUDA = {(2, 11): "13.0", (2, 12): "13.0", (2, 13): "13.0", (2, 14): "13.0", (2, 15): "13.2"}
_CUDNN = {(2, 11): 91900, (2, 15): 92600}

_WITH_GRAPHS: dict[str, Any] = {
    "_cuda_CUDAAllocator_AllocatorState": type("AllocatorState", (), {}),
    "_set_cached_tensors_enabled": lambda enabled: None,
}
"""What torch/_inductor/cudagraph_trees.py takes of a build for CUDA when it is imported, as it is by
`torch._dynamo.reset()`, and what it has in their place otherwise."""


@contextlib.contextmanager
def looks_built_for_cuda(version: tuple[int, int]) -> Iterator[None]:
    """While open, torch answers as a build for CUDA of this (major, minor) version. To be entered before the virtual
    device, under which torch does not describe itself."""
    cuda, cudnn = _CUDA.get(version, _CUDA[2, 15]), _CUDNN.get(version, _CUDNN[2, 11])
    changes: list[tuple[Any, str, Any]] = [
        (torch.version, "cuda", cuda),
        (torch.backends.cuda, "is_built", lambda: True),
        (torch.backends.cudnn, "version", lambda: cudnn),
        (torch.backends.cudnn, "is_available", lambda: True),
    ]
    if torch.version.cuda is not None:
        cuda, cudnn, changes = torch.version.cuda, _loaded_cudnn() or cudnn, []
    described = f"{torch.__config__.show().rstrip()}\n  - CUDA Runtime {cuda}\n  - CuDNN {cudnn / 10000:.2f}\n"
    with contextlib.ExitStack() as stack:
        for name, value in _WITH_GRAPHS.items():
            if not hasattr(torch._C, name):
                stack.enter_context(put(torch._C, name, value))
        for owner, name, value in [*changes, (torch.__config__, "show", lambda: described)]:
            stack.enter_context(answered(owner, name, value))
        yield


def _loaded_cudnn() -> int | None:
    """The version that a CUDA build loaded; None where torch refuses it, for another one was found first than what it
    was built with: no convolution runs here."""
    try:
        return torch.backends.cudnn.version()
    except RuntimeError:
        return None
