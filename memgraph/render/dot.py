"""Pictures by graphviz: the only file that uses it. A `.dot` needs no program, any other kind needs `dot`."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from memgraph import children
from memgraph.errors import MemgraphError

Picture: TypeAlias = Any
"""A `graphviz.Digraph`; the package has no types."""

KINDS = ("dot", "svg", "png", "pdf")
"""What can be made of a picture."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What XML does not allow, and what no name needs."""


def new(title: str, **attributes: str) -> Picture:
    """An empty picture."""
    from graphviz import Digraph  # type: ignore[import-untyped]

    picture = Digraph(title, engine="neato")
    picture.attr(fontname="Helvetica,Arial,sans-serif", **attributes)
    picture.attr("node", fontname="Helvetica,Arial,sans-serif")
    picture.attr("edge", fontname="Helvetica,Arial,sans-serif")
    return picture


def text(words: str) -> str:
    """Words as they are: graphviz takes none of them for an escape or for markup. Lines stay lines. A
    backslash becomes a sign that looks like one: a tooltip's escapes are taken out twice, a label's once."""
    from graphviz import escape

    lines = (_CONTROL.sub("?", line).replace("&", "&amp;").replace("\\", "\u29f5") for line in words.split("\n"))
    return "\\n".join(escape(line) for line in lines)


def rendered(picture: Picture, kind: str, *, fixed: bool) -> bytes:
    """The content of a file.

    Args:
        kind: one of `KINDS`.
        fixed: the nodes say where they are (`neato -n2`); else `dot` places them.

    Raises:
        MemgraphError: the program `dot` is not there, or fails.
    """
    if kind == "dot":
        return picture.source.encode()
    program = ["neato", "-n2"] if fixed else ["dot"]
    try:
        done = children.run([*program, f"-T{kind}"], picture.source.encode())
    except OSError as error:
        raise MemgraphError(
            f"a .{kind} needs the program dot: install graphviz (apt-get install graphviz, brew install graphviz), "
            "or write a .dot"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise MemgraphError(f"dot failed: {said[:300]}; write a .dot instead")
    return done.stdout
