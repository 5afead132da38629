"""torch asks at each op that a dispatch mode sees whether somebody gave a rule for that op and that mode.

`find_torch_dispatch_rule` (torch/_library/simple_registry.py) is called from C++ before the mode is, two more functions
of Python deep. While open, both look into a dictionary without any. Tried on torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch._library.simple_registry import singleton

from memgraph.virtual.patches import replaced


class _Entries(dict[str, Any]):
    """torch's entries by the names of ops. Each is asked of torch once, and from then on answers without Python too."""

    def __init__(self, find: Callable[[str], Any], stack: contextlib.ExitStack) -> None:
        super().__init__()
        self._find, self._stack = find, stack

    def __missing__(self, name: str) -> Any:
        entry = self._find(name)
        rules = entry.torch_dispatch_rules
        if "find" not in vars(rules):
            self._stack.enter_context(replaced(rules, "find", rules._data.get))
        self[name] = entry
        return entry


@contextlib.contextmanager
def dispatch_rules_are_found_quickly() -> Iterator[None]:
    """While open, as the module's text says."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(singleton, "find", _Entries(singleton.find, stack).__getitem__))
        yield
