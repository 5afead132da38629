"""How long a step takes: a host that issues ops one after another, and a card that runs them in that order.

The card begins an op once it was issued and the one before it is done; the host goes on meanwhile, and waits only where
it asks the card for a value or hands it one from pageable memory. Where the host is slower the card idles, and the
other way around: recomputation costs what it adds to the slower of the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.plan.cost import Spent, base_name
from memgraph.trace import Op, Trace


def step_time(trace: Trace, spent: Sequence[Spent]) -> int:
    """Nanoseconds of the run's last step, from an idle card to an idle card.

    Args:
        spent: what each op takes.
    """
    last = trace.phases[trace.ops[-1].phase].step if trace.ops else 0
    host = device = 0
    for op, took in zip(trace.ops, spent, strict=True):
        if trace.phases[op.phase].step != last:
            continue
        host += took.host
        if took.device:
            device = max(device, host) + took.device
        if _waits(trace, op):
            host = max(host, device)
    return max(host, device)


def _waits(trace: Trace, op: Op) -> bool:
    """Whether the host goes on only when the card has caught up: `.item()`, and inputs that are copied over."""
    return base_name(op) == "_local_scalar_dense" or trace.phases[op.phase].name == "input"
