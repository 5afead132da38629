"""The bytes of blocks whose addresses are known, against the model that chose the addresses."""

from __future__ import annotations

import random

import pytest

from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.followed import Followed
from memgraph.gpu.allocator.out_of_memory import OutOfMemory

MIB = 2**20
SETTINGS = ["", "expandable_segments:True", "max_split_size_mb:32", "roundup_power2_divisions:4"]


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_block_is_as_large_as_the_allocator_made_it(settings: str) -> None:
    """A thousand requests of all sizes, freed in any order, on a card that is full now and then: no address is chosen
    here, and each block has the model's bytes."""
    config, chance = AllocatorConfig.parse(settings), random.Random(7)
    followed = Followed(config)

    def told(taken: bool, address: int, size: int) -> None:
        if taken:
            followed.map(address, size, whole=not config.expandable_segments)
        else:
            followed.unmap(address, size)

    allocator = Allocator(700 * MIB, config, on_segment=told)
    live = []
    larger = 0
    for _ in range(1500):
        if live and chance.random() < 0.5:
            block = live.pop(chance.randrange(len(live)))
            assert followed.give(block.address) == block.size
            allocator.free(block)
        size = int(2 ** chance.uniform(4, 26))
        try:
            block = allocator.malloc(size)
        except OutOfMemory:
            continue
        live.append(block)
        assert followed.take(block.address, size) == block.size
        larger += block.size > -(-size // 512) * 512
    assert bool(larger) == (settings != "expandable_segments:True")


def test_a_block_that_is_not_split() -> None:
    """20 MiB less 19.5 leaves half a MiB, which the large pool does not split off; less 18 it leaves two, which it
    does."""
    followed = Followed(AllocatorConfig())
    followed.map(0, 20 * MIB, whole=True)
    assert followed.take(0, 39 * MIB // 2) == 20 * MIB
    assert followed.give(0) == 20 * MIB
    assert followed.take(0, 18 * MIB) == 18 * MIB
    assert followed.take(18 * MIB, 3 * MIB // 2) == 2 * MIB


def test_blocks_of_two_segments_are_not_one() -> None:
    """Two segments of 2 MiB side by side: a request of 1 MiB at the end of the first leaves nothing of the second."""
    followed = Followed(AllocatorConfig())
    followed.map(0, 2 * MIB, whole=True)
    followed.map(2 * MIB, 2 * MIB, whole=True)
    assert followed.take(0, MIB) == MIB
    assert followed.take(MIB, MIB - 512) == MIB - 512
    assert followed.take(2 * MIB - 512, 100) == 512


def test_what_the_file_says_counts_more_than_the_rule() -> None:
    followed = Followed(AllocatorConfig())
    followed.map(0, 2 * MIB, whole=True)
    assert followed.take(0, 100, known=1024) == 1024
    assert followed.take(1024, 100) == 512
