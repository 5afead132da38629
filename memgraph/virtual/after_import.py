"""Libraries that are changed if a script imports them, and when it does: none is imported for it."""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Change = Callable[[types.ModuleType], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def changed_when_imported(changes: Mapping[str, Change]) -> Iterator[None]:
    """While open, each of these modules is changed, at once or as soon as it is there.

    Args:
        changes: a context for each name, entered with the module.
    """
    with contextlib.ExitStack() as stack:

        def change(name: str) -> None:
            stack.enter_context(changes[name](sys.modules[name]))

        for name in changes:
            if name in sys.modules:
                change(name)
        finder = _Finder(changes, change)
        sys.meta_path.insert(0, finder)
        stack.callback(sys.meta_path.remove, finder)
        yield


class _Finder:
    """Tells of these modules when they have been imported."""

    def __init__(self, names: Mapping[str, Change], tell: Callable[[str], None]) -> None:
        self._names = names
        self._tell = tell

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self._names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_tell(module: types.ModuleType) -> None:
                run(module)
                self._tell(name)

            spec.loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec
