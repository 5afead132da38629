"""The line of a source that gives a name what it holds: `outputs.append(...)`, `self.seen[key] = ...`."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

_FILLS = ("append", "appendleft", "extend", "add", "insert", "update", "setdefault", "put", "put_nowait", "set")
_HOOK = re.compile(r"register_\w*hook")
_LOOPS = (ast.For, ast.While, ast.AsyncFor, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def line_that_fills(file: str, name: str) -> int:
    """The line, 0 if none is found. One in a loop or a function goes before one that runs once.

    Args:
        file: the path of a source.
        name: `outputs`, `self.acts`, `history['loss']`, `total in step`, `seen of remember`: its last plain name is
            what is looked for.
    """
    found = _lines(file).get(_last(name), [])
    return max(found, default=(False, 0))[1] if found else 0


def line_that_passes(file: str, keyword: str) -> int:
    """The first line of a source that calls something with this keyword, 0 if none does."""
    return min(_keywords(file).get(keyword, ()), default=0)


def line_that_registers(file: str) -> int:
    """Where a source registers a hook, 0 if it does not; in a loop or a function before what runs once."""
    found = [
        (repeated, node.lineno) for node, repeated in _walk(_tree(file), repeated=False)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _HOOK.fullmatch(node.func.attr)
    ]  # fmt: skip
    return max(found, default=(False, 0))[1]


def line_of_class(file: str, name: str) -> int:
    """Where a source defines a class, 0 if it does not."""
    last = name.rpartition(".")[2]
    lines = (node.lineno for node in ast.walk(_tree(file)) if isinstance(node, ast.ClassDef) and node.name == last)
    return min(lines, default=0)


def _last(name: str) -> str:
    plain = re.sub(r"\[[^\]]*\]", "", name.partition(" in ")[0].partition(" of ")[0])
    return plain.rpartition(".")[2]


@functools.lru_cache(maxsize=64)
def _lines(file: str) -> dict[str, list[tuple[bool, int]]]:
    """By each name that is filled: whether that runs again and again, and the line."""
    found: dict[str, list[tuple[bool, int]]] = {}
    for node, repeated in _walk(_tree(file), repeated=False):
        for name in _filled(node):
            found.setdefault(name, []).append((repeated, node.lineno))
    return found


@functools.lru_cache(maxsize=64)
def _keywords(file: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                found.setdefault(keyword.arg or "", []).append(node.lineno)
    return found


def _tree(file: str) -> ast.Module:
    try:
        return ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _walk(node: ast.AST, *, repeated: bool) -> Iterator[tuple[ast.expr | ast.stmt, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = repeated or isinstance(child, _LOOPS)
        if isinstance(child, (ast.expr, ast.stmt)):
            yield child, repeated
        yield from _walk(child, repeated=inside)


def _filled(node: ast.expr | ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FILLS:
        yield from _name(node.func.value)
    elif isinstance(node, ast.AugAssign):
        yield from _name(node.target)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _name(target)


def _name(node: ast.expr) -> Iterator[str]:
    while isinstance(node, (ast.Subscript, ast.Starred, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, (ast.Tuple, ast.List)):
        for part in node.elts:
            yield from _name(part)
