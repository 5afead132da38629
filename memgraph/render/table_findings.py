"""What is wrong with a run, as text: the first ten lines of a report name the two largest causes, their
lines, and what to do.

One cause is told at length. Of several each has its name, size, line and remedy first, and the sentences after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memgraph.analyze.finding import Finding
from memgraph.render.words import fill
from memgraph.units import format_bytes

Paint = Callable[[str, str], str]
"""Colours a text: `paint("red", text)`; the identity where colour is not wanted."""


def blocks(found: Sequence[Finding], paint: Paint) -> list[str]:
    """The paragraphs of a report about these."""
    if len(found) < 2:
        return [_named(f"{one.name}: {_sentence(one)}", one, paint) + _do(one) + _why(one) for one in found]
    heads = "\n".join(_named(_head(one), one, paint) + _do(one) for one in found)
    return [heads, *(_named(f"{one.name}: {_sentence(one)}", one, paint) + _why(one) for one in found)]


def _head(found: Finding) -> str:
    often = " a call" if " a call: " in found.what else " a step"
    per = {"growing": often, "growing-graph": often, "out-of-memory": " more than was left"}
    size = f"{format_bytes(found.bytes)}{per.get(found.name, '')}" if found.bytes else "in one piece"
    known = found.bytes or found.name == "out-of-memory"
    return f"{found.name}: {', '.join(filter(None, [size if known else '', found.where]))}"


def _sentence(found: Finding) -> str:
    told = found.what + found.why
    return found.what + (f" At {found.where}." if found.where and found.where not in told else "")


def _named(text: str, found: Finding, paint: Paint) -> str:
    return fill(text, subsequent_indent="  ").replace(found.name, paint("red", found.name), 1)


def _do(found: Finding) -> str:
    return "\n" + fill(f"  do: {found.help}", subsequent_indent="    ", break_on_hyphens=False)


def _why(found: Finding) -> str:
    return "\n" + fill(f"  why: {found.why}", subsequent_indent="    ")
