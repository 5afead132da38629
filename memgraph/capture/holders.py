"""Who holds a storage: references followed from the names of the program that runs down to it, shortest path first.

Only Python's own references are seen by its collector; what a tensor's autograd graph saves is not among them. So a
tensor's nodes are walked too (`grad_fn`, `next_functions`), and what each saved is read through `_raw_saved_…`, whose
`.data` gives it without calling the hooks of a checkpoint (torch/csrc/autograd/python_saved_variable_hooks.cpp,
torch 2.11 to 2.15).
"""

from __future__ import annotations

import gc
import inspect
import sys
import types
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.capture.provenance import RUNNER, is_users

_MOST = 300_000
"""Objects that are looked at before a search gives up."""
_LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), types.ModuleType, types.CodeType,
           types.BuiltinFunctionType, types.FrameType, torch.dtype, torch.device)  # fmt: skip
_OURS = ("memgraph.", "torch._", "torch.fx", "torch.utils.weak", "_pytest", "pluggy")
"""Classes whose objects belong to the machinery, and not to the program."""
_OWNERS = 16
"""Tensors that no name leads to whose owners are looked for: each look goes through all objects there are."""
_SEQUENCES = (list, tuple, set, frozenset, deque)


class Path(NamedTuple):
    """How an object is reached."""

    name: str
    kind: str
    """What holds it: see `memgraph.trace.Held`."""
    file: str
    """In which the name is written."""
    last: bool = False
    """Whether what is below has no name of its own: it is in a list, somewhere."""

    def item(self, container: Any, key: str | None = None) -> Path:
        """Something inside a container, by its key or among the others."""
        if self.last:
            return self
        name = self.name if key is None else f"{self.name}[{key!r}]"
        return Path(name, type(container).__name__, self.file, key is None)

    def attribute(self, owner: Any, name: str, kind: str = "attribute") -> Path:
        """An attribute of an object, written where the object's class is if that is the user's."""
        if self.last:
            return self
        file = _file_of(type(owner))
        return Path(f"{self.name}.{name}", kind, file if file and is_users(file) else self.file)


def _file_of(kind: type) -> str:
    """Where a class is written, as far as that is known."""
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or ""


class Found(NamedTuple):
    """A storage, and who holds it."""

    path: Path
    by: Tensor
    """The tensor that the path leads to: the storage's own, or the one whose graph saved it."""
    graph: bool


def holders(wanted: Mapping[int, int], models: Iterable[nn.Module], *, cycles: bool) -> dict[int, Found]:
    """Who holds storages.

    Args:
        wanted: buffers by the `_cdata` of their storages.
        models: what was called, where no name leads to it.
        cycles: look among all objects there are for what no name leads to.

    Returns:
        The holder of each buffer that was found.
    """
    search = _Search(wanted)
    with torch._C.DisableTorchFunctionSubclass():
        search.run(_names())
        search.run((model, Path("model", "variable", "")) for model in models)
        if cycles and len(search.found) < len(wanted):
            search.run(_unnamed(search))
    return search.found


class _Search:
    """One walk. Objects first, their graphs after them: the shortest name wins, and what a name holds itself is not
    said to be held by a graph."""

    def __init__(self, wanted: Mapping[int, int]) -> None:
        self.found: dict[int, Found] = {}
        self._wanted = wanted
        self._queue: deque[tuple[Any, Path]] = deque()
        self._graphs: deque[tuple[Any, Path, Tensor]] = deque()
        self._seen: dict[int, Any] = {}

    def knows(self, value: Any) -> bool:
        """Whether a name leads to it."""
        return id(value) in self._seen

    def run(self, roots: Iterable[tuple[Any, Path]]) -> None:
        for value, path in roots:
            self._add(value, path)
        while (self._queue or self._graphs) and len(self.found) < len(self._wanted) and len(self._seen) < _MOST:
            if self._queue:
                value, path = self._queue.popleft()
                for child, name in children(value, path):
                    self._add(child, name)
            else:
                self._node(*self._graphs.popleft())

    def _add(self, value: Any, path: Path) -> None:
        if isinstance(value, _LEAVES) or id(value) in self._seen:
            return
        if isinstance(value, Tensor):
            self._seen[id(value)] = value
            self._tensor(value, path)
        elif gc.is_tracked(value) and not _is_machinery(value):
            self._seen[id(value)] = value
            self._queue.append((value, path))

    def _tensor(self, tensor: Tensor, path: Path) -> None:
        self._hit(tensor, Found(path, tensor, graph=False))
        gradient, node = _behind(tensor)
        if gradient is not None:
            self._add(gradient, path if path.last else Path(f"{path.name}.grad", "gradient", path.file))
        for hooks in (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)):
            if hooks:
                self._add(hooks, Path(f"a hook of {path.name}", "hook", path.file))
        if node is not None:
            self._graphs.append((node, path, tensor))

    def _hit(self, tensor: Tensor, found: Found) -> None:
        if tensor.layout is not torch.strided:
            return
        buffer = self._wanted.get(tensor.untyped_storage()._cdata)
        if buffer is not None:
            self.found.setdefault(buffer, found)

    def _node(self, node: Any, path: Path, root: Tensor) -> None:
        """A node of the graph behind a tensor: what it saved, and the nodes before it."""
        if id(node) in self._seen:
            return
        self._seen[id(node)] = node
        for saved in _saved(node):
            if isinstance(saved, Tensor):
                self._hit(saved, Found(path, root, graph=True))
            elif saved is not None:
                self._add(saved, path)
        variable = getattr(node, "variable", None)  # what an AccumulateGrad adds to
        if isinstance(variable, Tensor) and id(variable) not in self._seen:
            self._hit(variable, Found(path, root, graph=True))
        for before, _ in node.next_functions:
            if before is not None:
                self._graphs.append((before, path, root))


def _saved(node: Any) -> Iterator[Any]:
    """What a node saved for the backward, and what a Function of Python keeps on its `ctx`."""
    for name in _saved_names(type(node)):
        try:
            values = getattr(node, name)
        except RuntimeError:  # freed by a backward
            continue
        for value in values if isinstance(values, (tuple, list)) else (values,):
            yield getattr(value, "data", None)
    yield from getattr(node, "__dict__", {}).values()


_SAVED: dict[type, tuple[str, ...]] = {}


def _saved_names(kind: type) -> tuple[str, ...]:
    found = _SAVED.get(kind)
    if found is None:
        found = _SAVED[kind] = tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))
    return found


def children(value: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    """What an object refers to, each with the name that a person would give it."""
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield item, path.item(value, key if isinstance(key, str) else None)
    elif isinstance(value, _SEQUENCES):
        yield from ((item, path.item(value)) for item in list(value))
    elif isinstance(value, nn.Module):
        yield from _of_module(value, path)
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value, path)
    elif isinstance(value, types.MethodType):
        yield from ((value.__self__, path), (value.__func__, path))
    elif isinstance(value, type):
        yield from ((item, path.attribute(value, name)) for name, item in list(vars(value).items()))
    else:
        yield from _of_object(value, path)


def _behind(tensor: Tensor) -> tuple[Any, Any]:
    """The gradient of a leaf, and the node that made another. Neither of one of several views whose base was changed in
    place: torch refuses to look (`check_inplace`, torch/csrc/autograd/variable.cpp)."""
    try:
        return (tensor.grad if tensor.is_leaf else None), tensor.grad_fn
    except RuntimeError:
        return None, None


def _of_module(module: nn.Module, path: Path) -> Iterator[tuple[Any, Path]]:
    for name, value in list(vars(module).items()):
        if name == "_buffers":
            yield from ((item, path.attribute(module, key, "buffer")) for key, item in value.items())
        elif name in ("_modules", "_parameters"):
            yield from ((item, path.attribute(module, key)) for key, item in value.items())
        elif name.endswith("_hooks") and isinstance(value, dict):
            yield from ((item, Path(f"a hook of {path.name}", "hook", path.file)) for item in value.values())
        else:
            yield value, path.attribute(module, name)


def _of_function(function: types.FunctionType, path: Path) -> Iterator[tuple[Any, Path]]:
    file = function.__code__.co_filename
    if not is_users(file):
        path = path._replace(kind="closure")
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with_name = Path(f"{name} in {function.__name__}", "closure", file) if is_users(file) else path
        try:
            yield cell.cell_contents, with_name
        except ValueError:  # not filled yet
            continue
    for default in (function.__defaults__ or (), function.__kwdefaults__ or {}):
        yield default, Path(f"a default of {function.__name__}", "default", file)


def _of_object(value: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        yield from ((item, path.attribute(value, name)) for name, item in list(own.items()))
    yield from ((item, path) for item in gc.get_referents(value) if item is not own and not isinstance(item, type))


def _is_machinery(value: Any) -> bool:
    if isinstance(value, type):
        return not is_users(_file_of(value))
    if isinstance(value, types.FunctionType):
        return value.__module__ is not None and value.__module__.startswith(_OURS)
    return type(value).__module__.startswith(_OURS)


# The names of the program.


def _names() -> Iterator[tuple[Any, Path]]:
    """The variables of the functions that run, the innermost first, then the globals of their files and of the other
    files of the program."""
    modules: dict[int, tuple[dict[str, Any], str]] = {}
    for frame in _frames():
        file = frame.f_code.co_filename
        if is_users(file):
            if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function's
                yield from _variables(frame, file)
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


def _variables(frame: types.FrameType, file: str) -> Collection[tuple[Any, Path]]:
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


def _unnamed(search: _Search) -> Iterator[tuple[Any, Path]]:
    """Tensors that only a cycle of references keeps alive: of a gradient and its own graph, or of objects of Python."""
    lost = [value for value in gc.get_objects() if type(value) is FakeTensor and not search.knows(value)]
    file = next((frame.f_code.co_filename for frame in _frames() if is_users(frame.f_code.co_filename)), "")
    for tensor in lost:
        gradient, _ = _behind(tensor)
        if gradient is not None and gradient.grad_fn is not None:
            yield tensor, Path("grad", "gradient", file, last=True)
    owners = _owners(lost[:_OWNERS])
    yield from ((tensor, owners[id(tensor)]) for tensor in lost if id(tensor) in owners)


def _owners(tensors: Sequence[Tensor]) -> dict[int, Path]:
    """The class of an object that has one of these as an attribute, by the tensor's `id`. Attributes are in a dict of
    the object's, or from Python 3.11 on in the object itself until somebody asks for that dict."""
    referrers = [value for value in gc.get_referrers(*tensors) if value is not tensors]
    dicts = {id(value) for value in referrers if type(value) is dict}
    owners = gc.get_referrers(*(value for value in referrers if type(value) is dict)) if dicts else []
    found: dict[int, Path] = {}
    for owner in (*referrers, *owners):
        held = getattr(owner, "__dict__", None)
        if type(held) is dict and not _is_machinery(owner):
            path = Path(type(owner).__qualname__, "cycle", _file_of(type(owner)), last=True)
            found |= {id(value): path for value in held.values() if isinstance(value, Tensor)}
    return found
