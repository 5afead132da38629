"""Every diagnosis of a run, the one that matters most first."""

from __future__ import annotations

from memgraph.analyze.failures import failures
from memgraph.analyze.finding import Finding
from memgraph.analyze.leaks import leaks
from memgraph.analyze.unread import unread
from memgraph.trace import Trace

_RULES = (failures, leaks, unread)


def findings(trace: Trace) -> tuple[Finding, ...]:
    """What is wrong with a run, rule by rule; empty if nothing is."""
    return tuple(found for rule in _RULES for found in rule(trace))
