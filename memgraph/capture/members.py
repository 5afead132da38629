"""The parameters and buffers of a model, and their paths, looked through once for each call of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from memgraph.trace import Category

_WALKS = ("named_modules", "named_parameters", "named_buffers")


def members(root: Module, modules: Iterable[tuple[str, Module]]) -> Iterator[tuple[Category, str, Tensor]]:
    """Each once, as `named_parameters` and then `named_buffers` have them, which walk the modules anew.

    Args:
        modules: as `root.named_modules()`.
    """
    if any(getattr(type(root), walk) is not getattr(Module, walk) for walk in _WALKS):
        yield from ((Category.PARAMETER, name, tensor) for name, tensor in root.named_parameters())
        yield from ((Category.BUFFER, name, tensor) for name, tensor in root.named_buffers())
        return
    for category, kind in ((Category.PARAMETER, "_parameters"), (Category.BUFFER, "_buffers")):
        seen = set[int]()
        for path, module in modules:
            for name, tensor in getattr(module, kind).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield category, f"{path}.{name}" if path else name, tensor


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor, or those that it holds, as a DTensor does."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from parts(getattr(tensor, name))
