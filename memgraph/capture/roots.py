"""Where a search for who holds something begins: the names of the program that runs, the loops that are under way, and
what no name leads to."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

from memgraph.capture.provenance import RUNNER, is_users

_OURS = ("memgraph.", "torch._", "torch.fx", "torch.utils.weak", "_pytest", "pluggy")
"""Classes whose objects belong to the machinery, and not to the program."""
_LOOKED_AT = {FakeTensor, types.GeneratorType, _SingleProcessDataLoaderIter, _MultiProcessingDataLoaderIter}
"""Kinds of objects that are looked at among all there are."""
UNNAMED_GRADIENT = "grad"
"""How a gradient is called whose tensor no name leads to: only the graph of that gradient holds it."""
_OWNERS = 16
"""Tensors that no name leads to whose owners are looked for: each look goes through all objects there are."""


class Path(NamedTuple):
    """How an object is reached."""

    name: str
    kind: str
    """What holds it: see `memgraph.trace.Held`."""
    file: str
    """In which the name is written."""
    last: bool = False
    """Whether what is below has no name of its own: it is in a list, somewhere."""

    def item(self, container: Any, key: str | int | None = None) -> Path:
        """Something inside a container, by its key or among the others; an object that is alone there by its place."""
        if self.last:
            return self
        name = self.name if key is None else f"{self.name}[{key!r}]"
        return Path(name, type(container).__name__, self.file, key is None)

    def attribute(self, owner: Any, name: str, kind: str = "attribute") -> Path:
        """An attribute of an object, written where the object's class is if that is the user's."""
        if self.last:
            return self
        file = file_of(type(owner))
        ours = file if file and is_users(file) else self.file
        again = self.name.endswith(f".{name}")  # a chain of objects of one kind
        return Path(self.name if again else f"{self.name}.{name}", kind, ours)


def file_of(kind: type) -> str:
    """Where a class is written, as far as that is known."""
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or ""


def is_machinery(value: Any) -> bool:
    if isinstance(value, type):
        return not is_users(file_of(value))
    if isinstance(value, types.FunctionType):
        return value.__module__ is not None and value.__module__.startswith(_OURS)
    return type(value).__module__.startswith(_OURS)


def behind(tensor: Tensor) -> tuple[Any, Any]:
    """The gradient of a leaf, and the node that made another. Neither of one of several views whose base was changed in
    place: torch refuses to look (`check_inplace`, torch/csrc/autograd/variable.cpp)."""
    try:
        return (tensor.grad if tensor.is_leaf else None), tensor.grad_fn
    except RuntimeError:
        return None, None


def names() -> Iterator[tuple[Any, Path]]:
    """The variables of the functions that run, the innermost first, then the globals of their files and of the other
    files of the program."""
    modules: dict[int, tuple[dict[str, Any], str]] = {}
    for frame in (*_frames(), *_frames_of_others()):
        file = frame.f_code.co_filename
        if is_users(file):
            if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function's
                yield from variables(frame, file)
            modules[id(frame.f_globals)] = frame.f_globals, file
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None) or ""
        if file and is_users(file) and "site-packages" not in file and "dist-packages" not in file:
            modules.setdefault(id(vars(module)), (vars(module), file))
    for names, file in modules.values():
        yield from _values(names, file)


def _frames() -> Iterator[types.FrameType]:
    """Those that run, the innermost first, up to whoever called memgraph."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != RUNNER:
        yield frame
        frame = frame.f_back


def _frames_of_others() -> Iterator[types.FrameType]:
    """Those of other threads, the innermost first. This function's own frame is among those asked for: a variable of
    it would close a cycle, and from Python 3.12 on all frames that called it would stay until a collection."""
    innermost = sys._current_frames()
    del innermost[threading.get_ident()]
    for first in innermost.values():
        frame: types.FrameType | None = first
        while frame is not None:
            yield frame
            frame = frame.f_back


def variables(frame: types.FrameType, file: str) -> Collection[tuple[Any, Path]]:
    """A function's local variables. Up to Python 3.12 asking for them leaves a copy with the frame, which would keep
    them alive: it is emptied, unless the program itself has asked for it and looks at it."""
    names = frame.f_locals
    rows = list(_values(dict(names), file))
    if sys.version_info < (3, 13) and sys.getrefcount(names) <= 3:  # the frame's, ours, and the question's
        names.clear()
    return rows


def _values(names: Mapping[str, Any], file: str) -> Iterator[tuple[Any, Path]]:
    for name, value in list(names.items()):
        if not name.startswith("__"):
            yield value, Path(name, "variable", file)


# What no name leads to.


def unnamed(known: Callable[[Any], bool]) -> Iterator[tuple[Any, Path]]:
    """What a loop that is under way holds; then tensors that only a cycle of references keeps alive: of a gradient and
    its own graph, or of objects of Python.

    Args:
        known: whether a name leads to an object.
    """
    found = [value for value in gc.get_objects() if type(value) in _LOOKED_AT and not known(value)]
    yield from _loops(value for value in found if type(value) is not FakeTensor)
    lost = [value for value in found if type(value) is FakeTensor and not known(value)]
    file = next((frame.f_code.co_filename for frame in _frames() if is_users(frame.f_code.co_filename)), "")
    for tensor in lost:
        gradient, _ = behind(tensor)
        if gradient is not None and gradient.grad_fn is not None:
            yield tensor, Path(UNNAMED_GRADIENT, "gradient", file, last=True)
    owners = _owners(lost[:_OWNERS])
    yield from ((tensor, owners[id(tensor)]) for tensor in lost if id(tensor) in owners and not known(tensor))


def _loops(under_way: Iterable[Any]) -> Iterator[tuple[Any, Path]]:
    """What is iterated over in a `for` has no name: generators, whose variables have, and the datasets of loaders."""
    for value in under_way:
        if type(value) is types.GeneratorType:
            frame = value.gi_frame
            if frame is not None and not value.gi_running and is_users(frame.f_code.co_filename):
                yield from variables(frame, frame.f_code.co_filename)
        else:
            dataset = value._dataset
            yield dataset, Path(type(dataset).__qualname__, "attribute", file_of(type(dataset)))


def _owners(tensors: Sequence[Tensor]) -> dict[int, Path]:
    """The class of an object that has one of these as an attribute, by the tensor's `id`. Attributes are in a dict of
    the object's, or from Python 3.11 on in the object itself until somebody asks for that dict."""
    referrers = [value for value in gc.get_referrers(*tensors) if value is not tensors]
    dicts = {id(value) for value in referrers if type(value) is dict}
    owners = gc.get_referrers(*(value for value in referrers if type(value) is dict)) if dicts else []
    found: dict[int, Path] = {}
    for owner in (*referrers, *owners):
        held = getattr(owner, "__dict__", None)
        if type(held) is dict and not is_machinery(owner):
            path = Path(type(owner).__qualname__, "cycle", file_of(type(owner)), last=True)
            found |= {id(value): path for value in held.values() if isinstance(value, Tensor)}
    return found
