"""Segments of the card's memory, the blocks that they are cut into, and the pools of those that are free."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator


class Segment:
    """Memory taken from the card. An expandable one reserves addresses and maps pages of them as needed."""

    __slots__ = ("address", "expandable", "first", "page", "pool", "size", "small", "stream")

    def __init__(
        self, address: int, size: int, small: bool, stream: int, page: int = 0, order: int = 0, pool: int = 0
    ) -> None:
        self.address = address
        self.size = size
        self.small = small
        self.stream = stream
        self.pool = pool
        """The number of the private pool that it belongs to; 0 is everybody's."""
        self.page = page
        """Bytes that are mapped at once; 0 for a plain segment."""
        self.expandable = page > 0
        self.first: Block = Block(address, size, self, order)

    def blocks(self) -> Iterator[Block]:
        """Its blocks in order of address."""
        block: Block | None = self.first
        while block is not None:
            yield block
            block = block.next


class Block:
    """A stretch of a segment. `size` counts as allocated while it is in use; `requested` is what was asked."""

    __slots__ = ("address", "age", "in_use", "mapped", "next", "order", "previous", "requested", "segment", "size")

    def __init__(self, address: int, size: int, segment: Segment, order: int = 0) -> None:
        self.address = address
        self.size = size
        self.segment = segment
        self.order = order
        """Its place among blocks of one size; blocks of equal order go by address."""
        self.requested = 0
        self.in_use = False
        self.mapped = True
        self.previous: Block | None = None
        self.next: Block | None = None
        self.age = 0


def is_whole(block: Block) -> bool:
    """Whether it is a plain segment of its own."""
    return block.previous is None and block.next is None and not block.segment.expandable


def cut(block: Block, size: int) -> Block:
    """Shorten a block to `size`; the rest is a block of its own, after it."""
    rest = Block(block.address + size, block.size - size, block.segment, block.order)
    rest.previous, rest.next = block, block.next
    if block.next is not None:
        block.next.previous = rest
    block.next, block.size = rest, size
    return rest


def join(block: Block, neighbour: Block) -> None:
    """Make `neighbour`, which is next to it, part of `block`."""
    if neighbour is block.previous:
        block.address, block.previous = neighbour.address, neighbour.previous
        if block.previous is not None:
            block.previous.next = block
        else:
            block.segment.first = block
    else:
        block.next = neighbour.next
        if block.next is not None:
            block.next.previous = block
    block.size += neighbour.size


def expandable_size(block: Block) -> int:
    """Its bytes, and those that could be mapped right behind it."""
    following = block.next
    return block.size + (following.size if following is not None and not following.mapped else 0)


def stretch(block: Block | None, enough: int) -> int:
    """Free bytes from a block on, mapped or not, counted until there are enough."""
    total = 0
    while block is not None and not block.in_use and total < enough:
        total += block.size
        block = block.next
    return total


_Key = tuple[int, int, int]


class Clock:
    """Counts the requests of one kind, of all streams: the age of a free block."""

    def __init__(self) -> None:
        self.now = 0


class Pool:
    """The free blocks of one stream and kind, sorted by (size, order, address)."""

    __slots__ = ("by_key", "clock", "keys")

    def __init__(self, clock: Clock) -> None:
        self.keys: list[_Key] = []
        self.by_key: dict[_Key, Block] = {}
        self.clock = clock

    def add(self, block: Block) -> None:
        """A block became free."""
        key = (block.size, block.order, block.address)
        insort(self.keys, key)
        self.by_key[key] = block
        block.age = self.clock.now

    def remove(self, block: Block) -> None:
        """A block is used, or becomes part of another."""
        key = (block.size, block.order, block.address)
        del self.keys[bisect_left(self.keys, key)]
        del self.by_key[key]

    def take(self, at: int) -> None:
        """The block whose key is number `at` is used."""
        del self.by_key[self.keys.pop(at)]

    def __iter__(self) -> Iterator[Block]:
        return iter([self.by_key[key] for key in self.keys])


def least_expandable(pool: Pool, at: int) -> Block:
    """From key number `at` on, among expandable blocks each counts as large as it could grow."""
    block = pool.by_key[pool.keys[at]]
    for key in pool.keys[at + 1 :]:
        following = pool.by_key[key]
        if not block.segment.expandable or expandable_size(following) >= expandable_size(block):
            break
        block = following
    return block
