"""The line that a report gives: the program's own, with that of a library that it calls beside it."""

from __future__ import annotations

from collections.abc import Mapping

from memgraph.trace import Trace


def own_lines(trace: Trace) -> Mapping[str, str]:
    """Of lines of installed libraries those of the program that reach them, `train.py:25`."""
    return dict(trace.callers)


def both(lines: Mapping[str, str], source: str) -> str:
    """`train.py:25 (modeling_t5.py:304)`; a line of the program itself as it is."""
    return f"{lines[source]} ({source})" if source in lines else source
