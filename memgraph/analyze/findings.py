"""Every diagnosis of a run, the one that matters most first."""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.analyze.causes import causes
from memgraph.analyze.failures import failures
from memgraph.analyze.finding import Finding
from memgraph.analyze.leaks import leaks
from memgraph.analyze.lines import both, own_lines
from memgraph.analyze.remedies import Remedy
from memgraph.analyze.unread import unread
from memgraph.trace import Trace
from memgraph.trace.garbage import no_garbage_collection

_RULES = (leaks, unread, causes)


@no_garbage_collection()  # millions of rows are made and held for a while
def findings(trace: Trace, tried: Sequence[Remedy] | None = None) -> tuple[Finding, ...]:
    """What is wrong with a run: why it failed, what grows, and what takes most; empty if nothing is wrong.

    Args:
        tried: what helps of the changes that a script was run with.
    """
    lines = own_lines(trace)
    found = [one._replace(where=both(lines, one.where)) for rule in _RULES for one in rule(trace)]
    return (*failures(trace, tried), *sorted(found, key=lambda one: (not one.name.startswith("growing"), -one.bytes)))
