"""Causes that have a remedy, where the bytes at the peak show them; each rule is silent where they do not.

A rule asks of the ops that really ran, not of names or settings; and of bytes that are alive at the peak, for only they
can bring it down.
"""

from __future__ import annotations

from collections.abc import Callable

from memgraph.analyze.causes_of_attention import attention_by_steps
from memgraph.analyze.causes_of_compiling import compiled_order
from memgraph.analyze.causes_of_copies import expanded_casts, logits_in_fp32
from memgraph.analyze.causes_of_cycles import cycles
from memgraph.analyze.causes_of_gradients import gradients_and_buckets, no_gradient
from memgraph.analyze.causes_of_masks import expanded_masks
from memgraph.analyze.causes_of_precision import autocast_copies
from memgraph.analyze.causes_of_recurrence import recurrent_reserve
from memgraph.analyze.causes_of_scores import attention_by_hand
from memgraph.analyze.causes_of_training import caches, foreach, not_the_batch, whole_checkpoint
from memgraph.analyze.finding import Finding
from memgraph.analyze.fragmented import fragmented
from memgraph.trace import Trace

RULES: tuple[Callable[[Trace], tuple[Finding, ...]], ...] = (
    not_the_batch, whole_checkpoint, caches, expanded_casts, expanded_masks, logits_in_fp32, foreach, fragmented,
    cycles, no_gradient, attention_by_steps, attention_by_hand, autocast_copies, compiled_order, recurrent_reserve,
    gradients_and_buckets,
)  # fmt: skip

_LEAST = 2**26
"""Bytes below which nobody wants to know."""


def causes(trace: Trace) -> tuple[Finding, ...]:
    """Those that a run has, the largest first."""
    if not trace.peak.requested:
        return ()
    found = [one for rule in RULES for one in rule(trace) if one.bytes >= _LEAST]
    return tuple(sorted(found, key=lambda one: -one.bytes))
