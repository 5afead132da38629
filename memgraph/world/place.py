"""Which rank of which world a run is, as `torchrun` tells a script. Knows no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from memgraph.errors import UsageError

GPUS_PER_NODE = 8
"""Of the usual machine; a world that this does not divide has nodes as large as do."""
MOST_PER_NODE = 16
"""Devices that the virtual device's autograd threads are made for (`device.cpp`)."""


class Place(NamedTuple):
    """One rank of a world, on NCCL."""

    world: int
    """Ranks in all."""
    rank: int
    per_node: int
    """Ranks of one node; they share its GPUs one each."""

    @property
    def local_rank(self) -> int:
        """The number of this rank's GPU on its node."""
        return self.rank % self.per_node


def place(world: int, rank: int = 0, per_node: int | None = None) -> Place:
    """A rank of a world.

    Args:
        world: how many ranks there are.
        rank: which of them, from 0.
        per_node: GPUs of a node; by default 8, or the largest number below it that divides the world.

    Raises:
        UsageError: there is no such rank, or nodes of that size do not make up the world.
    """
    if world < 1:
        raise UsageError(f"a world of {world} has no ranks: it must have at least 1")
    if not 0 <= rank < world:
        raise UsageError(f"there is no rank {rank} in a world of {world}: its ranks are 0 to {world - 1}")
    if per_node is None:
        per_node = next(size for size in range(min(world, GPUS_PER_NODE), 0, -1) if world % size == 0)
    if not 1 <= per_node <= MOST_PER_NODE or world % per_node:
        raise UsageError(
            f"nodes of {per_node} GPUs do not make up a world of {world}: use a number up to {MOST_PER_NODE} "
            "that divides it"
        )
    return Place(world, rank, per_node)


@contextlib.contextmanager
def environment_of(here: Place) -> Iterator[None]:
    """While open, the environment is what `torchrun` gives this rank (torch/distributed/elastic/agent/server/
    local_elastic_agent.py); afterwards it is as it was."""
    before = {name: os.environ.get(name) for name in _FORGOTTEN}
    given = _variables(here)
    before |= {name: os.environ.get(name) for name in given}
    for name in _FORGOTTEN:
        os.environ.pop(name, None)
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_FORGOTTEN = ("TORCH_DISTRIBUTED_DEBUG", "TORCH_DIST_INIT_BARRIER", "TORCH_DISTRIBUTED_USE_TORCHCOMMS")
"""What makes torch check each collective against those of the other ranks, which are not there."""


def _variables(here: Place) -> Mapping[str, str]:
    node, nodes = here.rank // here.per_node, here.world // here.per_node
    return {
        "RANK": str(here.rank), "WORLD_SIZE": str(here.world),
        "LOCAL_RANK": str(here.local_rank), "LOCAL_WORLD_SIZE": str(here.per_node),
        "GROUP_RANK": str(node), "GROUP_WORLD_SIZE": str(nodes),
        "ROLE_NAME": "default", "ROLE_RANK": str(here.rank), "ROLE_WORLD_SIZE": str(here.world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
    }  # fmt: skip
