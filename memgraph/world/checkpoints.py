"""Distributed checkpoints of one rank: torch plans them with all ranks, of which only this one is here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.distributed.checkpoint import default_planner, utils

from memgraph.virtual.patches import replaced


@contextlib.contextmanager
def checkpoints_are_of_this_rank() -> Iterator[None]:
    """While open, what is saved and loaded is this rank's part, planned as if there were no other: its shards are what
    it would write. torch checks that all shards of a tensor are there (`_validate_global_plan`), which they are not."""
    original, validate = utils._DistWrapper.__init__, default_planner._validate_global_plan

    def alone(self: Any, group: Any, use_dist: bool, coordinator_rank: int) -> None:
        original(self, group, False, coordinator_rank)
        self.is_coordinator = True

    def valid(*args: Any) -> Any:  # torch 2.13 lists what is wrong, earlier ones say whether all is well
        return [] if isinstance(validate(*args), list) else True

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(utils._DistWrapper, "__init__", alone))
        stack.enter_context(replaced(default_planner, "_validate_global_plan", valid))
        yield
