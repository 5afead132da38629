"""Requests and checks for the tests of the allocator model. Not a test."""

from __future__ import annotations

import contextlib
from itertools import pairwise

from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory

MIB = 2**20
CARD = 2**40
"""More than any of these tests takes."""


def fresh(config: str = "", capacity: int = CARD) -> Allocator:
    """An allocator of an empty card, with a setting as PYTORCH_CUDA_ALLOC_CONF has it."""
    return Allocator(capacity, AllocatorConfig.parse(config))


def sizes(block: Block) -> list[int]:
    """Bytes of the blocks in a block's segment, the free ones negative."""
    return [each.size if each.in_use else -each.size for each in block.segment.blocks()]


def serve(allocator: Allocator, choice: int, live: list[Block]) -> None:
    """A positive choice asks for that many bytes; any other frees a living block or, now and then, empties the cache.
    What is refused is not asked again."""
    if choice > 0:
        with contextlib.suppress(OutOfMemory):
            live.append(allocator.malloc(choice))
    elif choice % 17 == 0:
        allocator.empty_cache()
    elif live:
        allocator.free(live.pop(choice % len(live)))


def check(allocator: Allocator, live: list[Block]) -> None:
    """The laws that hold after every call, whatever the configuration."""
    blocks = [block for segment in allocator.segments.values() for block in segment.blocks()]
    assert {id(block) for block in blocks if block.in_use} == {id(block) for block in live}
    assert allocator.requested == sum(block.requested for block in live)
    assert allocator.allocated == sum(block.size for block in live)
    assert allocator.reserved == sum(block.size for block in blocks if block.mapped)
    assert allocator.requested <= allocator.allocated <= allocator.reserved <= allocator.capacity
    for segment in allocator.segments.values():
        _check_tiling(list(segment.blocks()), segment.address, segment.size)
    stretches = sorted((segment.address, segment.address + segment.size) for segment in allocator.segments.values())
    assert all(stop <= start for (_, stop), (start, _) in pairwise(stretches)), "two segments overlap"
    _check_free_lists(allocator, blocks)


def _check_tiling(blocks: list[Block], address: int, size: int) -> None:
    """The blocks of a segment follow one another without a gap; no two free neighbours are left unmerged."""
    assert blocks[0].address == address
    assert blocks[-1].address + blocks[-1].size == address + size
    for left, right in pairwise(blocks):
        assert left.address + left.size == right.address
        assert right.previous is left
        assert left.in_use or right.in_use or left.mapped != right.mapped, "two free neighbours"
    assert all(block.size % 512 == 0 and block.size > 0 for block in blocks)


def _check_free_lists(allocator: Allocator, blocks: list[Block]) -> None:
    """What can be given out is what is free and mapped, each once, and in order."""
    listed = [block for pool in allocator._pools.values() for block in pool]
    assert sorted(map(id, listed)) == sorted(id(block) for block in blocks if block.mapped and not block.in_use)
    for pool in allocator._pools.values():
        assert pool.keys == sorted(pool.keys)
