"""A rank of a world, and what torchrun tells it."""

from __future__ import annotations

import os

import pytest

from memgraph.errors import UsageError
from memgraph.world.place import environment_of, place


@pytest.mark.parametrize(
    ("world", "rank", "per_node", "local"),
    [(8, 3, 8, 3), (16, 11, 8, 3), (12, 7, 6, 1), (13, 4, 1, 0), (2, 1, 2, 1), (1, 0, 1, 0)],
)
def test_nodes_are_as_large_as_they_can_be(world: int, rank: int, per_node: int, local: int) -> None:
    here = place(world, rank)
    assert (here.per_node, here.local_rank) == (per_node, local)


@pytest.mark.parametrize(
    ("world", "rank", "per_node", "message"),
    [
        (8, 8, None, "there is no rank 8 in a world of 8: its ranks are 0 to 7"),
        (8, -1, None, "there is no rank -1 in a world of 8"),
        (0, 0, None, "a world of 0 has no ranks"),
        (8, 0, 3, "nodes of 3 GPUs do not make up a world of 8"),
        (64, 0, 32, "nodes of 32 GPUs do not make up a world of 64: use a number up to 16"),
    ],
)
def test_what_is_no_rank_is_refused(world: int, rank: int, per_node: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        place(world, rank, per_node)


def test_the_environment_is_torchruns_and_then_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "mine")
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    before = dict(os.environ)
    with environment_of(place(16, 11)):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
        assert [os.environ[name] for name in names] == ["11", "16", "3", "8", "1"]
        assert "TORCH_DISTRIBUTED_DEBUG" not in os.environ
    assert dict(os.environ) == before
