"""Reads the wrapper that Inductor generated for a graph: which line allocates what, and where that comes from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.fx import Node

_KERNEL = re.compile(r"^triton_[a-z]+_(fused_\w+?|\w+?)(?:_\d+)?$")
"""`triton_poi_fused_gelu_mul_12`: the kind of kernel, the ops fused into it, a number."""
_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in ', re.MULTILINE)


class Origin(NamedTuple):
    """Where what a line of a wrapper does comes from."""

    name: str
    """Of the kernel that fills the buffer: `triton.fused_gelu_mul.kernel`, or of the op, `aten.mm.default`; empty if
    not known."""
    nodes: tuple[Node, ...] = ()
    """The fx nodes fused into it, the one whose value it is last."""


def origins_of(path: str, graph: Any) -> dict[int, Origin]:
    """Line of a wrapper → its origin.

    Args:
        path: the wrapper's file.
        graph: Inductor's `GraphLowering` of it.
    """
    tree = ast.parse(Path(path).read_text())
    buffers = {name: nodes_of(buffer) for name, buffer in graph.name_to_buffer.items()}
    found: dict[int, Origin] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            found |= _lines(_statements(function.body), buffers)
    return found


def nodes_of(buffer: Any) -> tuple[Node, ...]:
    """The fx nodes that a buffer of Inductor's is computed by, the one whose value it is last."""
    own = getattr(buffer, "origin_node", None)
    fused = [node for node in getattr(buffer, "get_origins", tuple)() if node is not own]  # a mutation has none
    return tuple(fused) if own is None else (*fused, own)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.With | ast.If | ast.For | ast.Try):
            yield from _statements(statement.body)
        else:
            yield statement


def _lines(statements: Iterator[ast.stmt], buffers: Mapping[str, tuple[Node, ...]]) -> dict[int, Origin]:
    """An allocation waits for the first kernel that is called with its buffer, which names it."""
    found: dict[int, Origin] = {}
    waiting: dict[str, int] = {}
    for statement in statements:
        call = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
        if not isinstance(call, ast.Call):
            continue
        if (target := _target(statement)) and _callee(call).startswith("empty_strided"):
            waiting[target] = statement.lineno
            found[statement.lineno] = Origin("", buffers.get(target, ()))
            continue
        if target and _callee(call) == "reinterpret_tensor" and isinstance(call.args[0], ast.Name):
            if call.args[0].id in waiting:
                waiting[target] = waiting[call.args[0].id]
            continue
        names = [node.id for node in ast.walk(call) if isinstance(node, ast.Name) and node.id in waiting]
        written = [target] if target in buffers else names[-1:]
        nodes = tuple(node for name in written if name for node in buffers.get(name, ()))
        found[statement.lineno] = Origin(_kernel_name(call, nodes), nodes)
        for name in names:
            line = waiting.pop(name)
            found[line] = Origin(_kernel_name(call, found[line].nodes), found[line].nodes)
    return found


def _target(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return ""


def _callee(call: ast.Call) -> str:
    """`triton_poi_fused_0.run` → `triton_poi_fused_0`; `extern_kernels.mm` → `extern_kernels.mm`."""
    return ast.unparse(call.func).removesuffix(".run")


def _kernel_name(call: ast.Call, nodes: tuple[Node, ...]) -> str:
    """The kernel's own name without kind and number; a library's is the op's."""
    if match := _KERNEL.match(_callee(call)):
        return f"triton.{match[1]}.kernel"
    return str(nodes[-1].target) if nodes else ""


def source_of(node: Node) -> tuple[str, int] | None:
    """File and line that the user wrote, the innermost one that Dynamo kept; for a backward node, of its forward."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    return (frames[-1]["file"], int(frames[-1]["line"])) if frames else None


def frames_of(node: Node) -> list[tuple[str, int]]:
    """All files and lines that Dynamo kept, the innermost first."""
    found = [(match["file"], int(match["line"])) for match in _FRAME.finditer(node.meta.get("stack_trace") or "")]
    return found[::-1]


def module_of(node: Node, paths: Mapping[str, str]) -> str:
    """Path of the module that a node was traced in; of the forward's for a backward node.

    Args:
        paths: the paths that are known, by the module's `id`, which is Dynamo's key.
    """
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    for key in reversed(stack):
        if str(key) in paths:
            return paths[str(key)]
    entries = [entry[0] for entry in stack.values()]
    return entries[-1].removeprefix(entries[0]).lstrip(".") if entries else ""
