"""Who holds a storage: references followed from the names of the program that runs down to it, shortest path first.

Only Python's own references are seen by its collector; what a tensor's autograd graph saves is not among them. So a
tensor's nodes are walked too (`grad_fn`, `next_functions`), and what each saved is read through `_raw_saved_…`, whose
`.data` gives it without calling the hooks of a checkpoint (torch/csrc/autograd/python_saved_variable_hooks.cpp,
torch 2.11 to 2.15).
"""

from __future__ import annotations

import contextvars
import functools
import gc
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memgraph.capture.provenance import is_users
from memgraph.capture.roots import Path, behind, file_of, is_machinery, names, unnamed, variables

_MOST = 300_000
"""Objects that are looked at before a search gives up."""
_LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), types.ModuleType, types.CodeType,
           types.BuiltinFunctionType, types.FrameType, torch.dtype, torch.device)  # fmt: skip
_SEQUENCES = (list, tuple, set, frozenset, deque)


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
        search.run(names())
        search.run((model, Path("model", "variable", "")) for model in models)
        if cycles and len(search.found) < len(wanted):
            search.run(unnamed(search.knows))
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
        elif (gc.is_tracked(value) or isinstance(value, contextvars.ContextVar)) and not is_machinery(value):
            self._seen[id(value)] = value
            self._queue.append((value, path))

    def _tensor(self, tensor: Tensor, path: Path) -> None:
        self._hit(_inner(tensor), Found(path, tensor, graph=False))
        gradient, node = behind(tensor)
        if gradient is not None:
            self._add(gradient, path if path.last else Path(f"{path.name}.grad", "gradient", path.file))
        for hooks in (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)):
            if hooks:
                self._add(hooks, Path(f"a hook of {path.name}", "hook", path.file))
        for name, value in vars(tensor).items():  # what a program has put there
            if isinstance(value, (dict, *_SEQUENCES)):
                self._add(value, path.attribute(tensor, name))
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
                self._hit(_inner(saved), Found(path, root, graph=True))
            elif saved is not None:
                self._add(saved, path)
        variable = getattr(node, "variable", None)  # what an AccumulateGrad adds to
        if isinstance(variable, Tensor) and id(variable) not in self._seen:
            self._hit(_inner(variable), Found(path, root, graph=True))
        for before, _ in node.next_functions:
            if before is not None:
                self._graphs.append((before, path, root))


def _inner(tensor: Tensor) -> Tensor:
    """What a tensor inside a transform of `torch.func` wraps: it has no storage itself."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


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
    """What an object refers to, each with the name that a person would give it. Dictionaries and lists are read as they
    lie, whatever their class makes of `items` or `__iter__`: transformers' lazy mappings import every model there."""
    sequence = next((kind for kind in _SEQUENCES if issubclass(type(value), kind)), None)
    if issubclass(type(value), dict):
        for key, item in list(dict.items(value)):
            yield item, path.item(value, key if isinstance(key, str) else None)
    elif sequence is not None:
        items = list(sequence.__iter__(value))
        alone = len(items) == 1 and isinstance(value, (list, tuple, deque)) and not isinstance(items[0], Tensor)
        yield from ((item, path.item(value, 0 if alone else None)) for item in items)
    elif isinstance(value, nn.Module):
        yield from _of_module(value, path)
    elif isinstance(value, functools._lru_cache_wrapper):
        kept = path._replace(kind="cache", last=True)
        yield from ((item, kept) for item in gc.get_referents(value) if type(item) is dict)
        yield value.__wrapped__, path
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value, path)
    elif isinstance(value, types.MethodType):
        yield from ((value.__self__, path), (value.__func__, path))
    elif isinstance(value, type):
        yield from ((item, path.attribute(value, name)) for name, item in list(vars(value).items()))
    elif isinstance(value, contextvars.ContextVar):
        yield value.get(None), path
    elif isinstance(value, types.GeneratorType) and value.gi_frame is not None and is_users(value.gi_code.co_filename):
        yield from variables(value.gi_frame, value.gi_code.co_filename)
    else:
        if isinstance(value, BaseException):
            yield from _of_exception(value, path)
        yield from _of_object(value, path)


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
    """What a function was made with; of one that is a hook it is the hook's."""
    file, hook = function.__code__.co_filename, path.kind == "hook"
    kind = "hook" if hook else "closure"
    if not is_users(file):
        path = path._replace(kind=kind)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with_name = Path(f"{name} in {function.__name__}", kind, file) if is_users(file) else path
        try:
            yield cell.cell_contents, with_name
        except ValueError:  # not filled yet
            continue
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    given = function.__defaults__ or ()
    defaults = {**dict(zip(names[len(names) - len(given) :], given, strict=True)), **(function.__kwdefaults__ or {})}
    kind = "hook" if hook else "default"
    yield from ((item, Path(f"{name} of {function.__name__}", kind, file)) for name, item in defaults.items())


def _of_object(value: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        yield from ((item, path.attribute(value, name)) for name, item in list(own.items()))
    for name in _slots(type(value)):
        yield getattr(value, name, None), path.attribute(value, name)
    yield from ((item, path) for item in gc.get_referents(value) if item is not own and not isinstance(item, type))


_SLOTS: dict[type, tuple[str, ...]] = {}


def _slots(kind: type) -> tuple[str, ...]:
    """The attributes that have a place of their own, in classes that are the user's."""
    known = _SLOTS.get(kind)
    if known is None:
        found = {name: item for base in kind.__mro__ if is_users(file_of(base)) for name, item in vars(base).items()}
        names = (name for name, item in found.items() if isinstance(item, types.MemberDescriptorType))
        known = _SLOTS[kind] = tuple(names)
    return known


def _of_exception(error: BaseException, path: Path) -> Iterator[tuple[Any, Path]]:
    """The variables of the functions that it went through, which live as long as its traceback."""
    held = path._replace(kind="traceback", last=True)
    link = error.__traceback__
    while link is not None:
        yield from ((item, held) for item, _ in variables(link.tb_frame, path.file))
        link = link.tb_next
