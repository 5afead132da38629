"""How long a property is tried: for seconds with a fixed seed in a usual run, for as long as wished with `make fuzz`.

`MEMGRAPH_FUZZ=20` tries twenty times as many examples as a usual run, each time others. An example is a function of a
seed, and a failure names it: `python -m tests.fuzz.many nets=1 --first SEED` tries it again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("MEMGRAPH_FUZZ", "0"))
"""How many times the usual number; 0 for a usual run with its seed."""


def examples(usual: int) -> int:
    """So many in this run."""
    return usual * max(1, TIMES)


def seeds(usual: int, first: int = 0) -> range:
    """The seeds of so many examples: the same in each usual run, others where more are asked for."""
    start = random.SystemRandom().randrange(10**9) if TIMES else first
    return range(start, start + examples(usual))


def seeded(usual: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a test of hypothesis: `usual` examples, the same each time, or more and others where that is asked."""
    return settings(
        max_examples=examples(usual), derandomize=TIMES == 0, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
