"""Ops that a CPU-only build of torch decomposes although the CUDA build has a kernel for them.

An op with both a CUDA kernel and a composite one (`native_functions.yaml`: `CUDA:` and `CompositeImplicitAutograd:`)
takes the composite path where no CUDA kernel is registered: several small ops with allocations that CUDA never makes.
Giving such an op any CUDA kernel at all restores its true autograd formula; the kernel itself is never reached, since
the dispatch mode comes first.

The list is what torch 2.15's CUDA build registers under both keys: `torch._C._dispatch_dump` of every op, those with a
`CUDA` and a `CompositeImplicitAutograd` entry.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

_COMPOSITE = "CompositeImplicitAutograd"
_NAMES = ("silu_backward", "mish_backward", "_fused_rms_norm")


def _existing(name: str) -> list[OpOverload]:
    packet = getattr(torch.ops.aten, name, None)
    return [getattr(packet, overload) for overload in packet.overloads()] if packet else []


_EXPLICIT = {
    func: torch._C.DispatchKey.CompositeExplicitAutogradNonFunctional
    for func in [*_existing("linalg_pinv")]
    if func._overloadname == "atol_rtol_tensor"
}
"""Ops with a gradient of their own that are made of others below it, and under which key of the dispatcher."""

CUDA_KERNELS: frozenset[OpOverload] = frozenset(func for name in _NAMES for func in _existing(name))
"""Overloads that must not be decomposed."""


@contextlib.contextmanager
def cuda_kernels_exist() -> Iterator[None]:
    """While open, the ops above have a CUDA kernel on every build."""
    library = torch.library.Library("aten", "IMPL")
    try:
        for func in CUDA_KERNELS:
            if not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CUDA") or _composite_only(func):
                library.impl(func, _unreachable, "CUDA")
        yield
    finally:
        library._destroy()


def is_composite(func: OpOverload) -> bool:
    """Whether the op is made of others in C++, which `torch.compile`'s decompositions in Python do not count as: a real
    run knows nothing of them."""
    made = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE)
    return (made and func not in CUDA_KERNELS) or func in _EXPLICIT


def run_composite(func: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """The other ops that a composite one is made of in C++."""
    return func._op_dk(_EXPLICIT.get(func, torch._C.DispatchKey.CompositeImplicitAutograd), *args, **kwargs)


@contextlib.contextmanager
def composites_are(ours: Mapping[OpOverload, Callable[..., Any]]) -> Iterator[None]:
    """While open, these composite ops are ours on CUDA tensors: at `AutogradCUDA`, above autograd and below autocast,
    as torch's own are. Tensors of the inference mode pass by that key; for them the recorder asks `ours` itself."""
    library = torch.library.Library("aten", "IMPL")
    try:
        for func, kernel in ours.items():
            library.impl(func.name().removeprefix("aten::"), kernel, "AutogradCUDA")
        yield
    finally:
        library._destroy()


def _composite_only(func: OpOverload) -> bool:
    """Whether the CUDA entry is only the composite kernel's."""
    return not any(line.startswith("CUDA:") for line in torch._C._dispatch_dump(func.name()).splitlines())


def _unreachable(*_: Any, **__: Any) -> Any:
    raise AssertionError("a kernel of the virtual GPU was reached: the recorder is not active")
