"""Entries of a history as a pickle writes them, read where they stand: dictionaries of the same texts in the same
order, of numbers, texts and a list of what is remembered, the frames. All that stand in a block are followed at once,
field by field; and only what somebody wants of them is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from memgraph.files.pickled_bytes import Bytes

if TYPE_CHECKING:
    from memgraph.files.pickled_bytes import Numbers

_REF = rb"(?:j.{4}|h.)"
_NUMBER = rb"\x8a(?:\x06.{6}|\x07.{7}|\x05.{5}|\x08.{8})|J.{4}|K.|M.{2}"
_LIST = rb"\]\x94(?:\((?:" + _REF + rb")*+e|" + _REF + rb"a)?"
_ONE = re.compile(_REF, re.DOTALL)
_VALUE = re.compile(
    rb"(?P<ref>" + _REF + rb")|(?P<number>" + _NUMBER + rb")|(?P<list>" + _LIST + rb")|(?P<text>\x8c[\x00-\x1f])",
    re.DOTALL,
)
_BEGIN, _END, _BETWEEN = b"}\x94(", b"u", b"e("
"""Of an entry, and between the thousand that a pickle appends at once and the next."""
_STACKS = 100_000
"""Distinct lists that are kept in mind."""
_ORDERS = 16
"""Orders that are learned; what is written in others is read operation by operation."""
_FRAMES = "frames"
NAMES = ("action", "addr", "size", "stream")
"""What is read of an entry, but for its frames."""
_KINDS = ["ref", "number", "number", "number"]
"""How these are written."""


class Entries(Protocol):
    """Whoever takes the entries of a list."""

    def rows(
        self, actions: Sequence[Any], addresses: Sequence[int], sizes: Sequence[int], streams: Sequence[int],
        sites: Sequence[int], /,
    ) -> None:  # fmt: skip
        """The next ones."""

    def stack(self, frames: Any, /) -> int:
        """The number that a list of frames, or what stands for one, has there."""


class _Field(NamedTuple):
    """A key of an entry, with its value as it is written there."""

    name: str
    key: bytes
    kind: str
    text: bytes


class _Sites(dict[bytes, int]):
    """The numbers of lists of frames, by how a pickle writes them."""

    def __init__(self, memory: list[Any], entries: Entries) -> None:
        super().__init__()
        self._memory, self.entries = memory, entries

    def of(self, place: int) -> int:
        """That of a list that is remembered."""
        return self.entries.stack(self._memory[place])

    def __missing__(self, text: bytes) -> int:
        if not text.startswith(b"]"):  # a reference
            return self.of(int.from_bytes(text[1:], "little"))
        if len(self) > _STACKS:
            self.clear()
        frames = [
            self._memory[int.from_bytes(one[1:], "little")] for one in _ONE.findall(text, 2 + (text[2:3] == b"("))
        ]
        found = self[text] = self.entries.stack(frames)
        return found


class Orders:
    """The orders of a pickle, learned from its first entries.

    Args:
        memory: what the pickle remembers.
    """

    def __init__(self, memory: list[Any]) -> None:
        self._memory = memory
        self._known: list[tuple[_Field, ...]] = []
        self._block: _Block | None = None
        self._sites: _Sites | None = None

    def begins(self, data: bytes, at: int) -> bool:
        """Whether an entry stands there that can be read at once."""
        if self._known and (self._block is None or self._block.bytes.data is not data):
            self._block = _Block(data, self._known)
        if self._block is not None and self._block.row(at) >= 0:
            return True
        order = self._order(data, at) if len(self._known) < _ORDERS else ()
        if not order:
            return False
        self._known.append(order)
        self._block = _Block(data, self._known)
        return self._block.row(at) >= 0

    def follow(self, data: bytes, at: int, entries: Entries) -> int:
        """Hand on the entries that stand there in a row, of which there is one; where the first other operation is."""
        assert self._block is not None and self._block.bytes.data is data
        if self._sites is None or self._sites.entries is not entries:
            self._sites = _Sites(self._memory, entries)
        rows = self._block.rows(at)
        sites = self._numbered(rows, self._sites)
        actions = [self._memory[place] for place in rows.numbers["action"].tolist()]
        addresses, sizes, streams = (rows.numbers[name].tolist() for name in NAMES[1:])
        entries.rows(actions, addresses, sizes, streams, sites)
        return rows.stop

    def _numbered(self, rows: _Rows, sites: _Sites) -> Sequence[int]:
        """The sites of entries, and places in the memory for what a pickle remembers of them."""
        import numpy as np

        before = len(self._memory)
        first, last = rows.frames
        places = np.where((rows.lists < 0) & (first < last), rows.bytes.references(first)[0], -1)
        among = (places >= before).nonzero()[0]
        """Entries with the frames of one of them before."""
        rest = ((places < before) & (first < last)).nonzero()[0]
        data = rows.bytes.data
        written = [data[one:other] for one, other in zip(first[rest].tolist(), last[rest].tolist(), strict=True)]
        found = np.full(len(first), -1, np.int64)
        found[rest] = list(map(sites.__getitem__, written))
        self._memory.extend(_remembered(rows, found))
        found[among] = [sites.of(place) for place in places[among].tolist()]
        return found.tolist()

    def _order(self, data: bytes, at: int) -> tuple[_Field, ...]:
        """That of the entry that stands there; empty if it is none, or not of those that can be read at once."""
        fields = [_Field(self._word(key), key, kind, text) for key, kind, text in _pairs(data, at)]
        kinds = {field.name: field.kind for field in fields}
        lists = [field.name for field in fields if field.kind == "list"]
        good = (
            len(kinds) == len(fields)
            and [kinds.get(name) for name in NAMES] == _KINDS
            and kinds.get(_FRAMES, "list") in ("list", "ref")
            and lists in ([], [_FRAMES])
        )
        return tuple(fields) if good else ()

    def _word(self, reference: bytes) -> str:
        found = self._memory[int.from_bytes(reference[1:], "little")]
        return found if type(found) is str else ""


class _Rows(NamedTuple):
    """Entries in a row, in columns."""

    bytes: Bytes
    stop: int
    """Where they end."""
    numbers: dict[str, Numbers]
    """Of each its address, size and stream; and the place of its action in the memory."""
    frames: tuple[Numbers, Numbers]
    """Where they begin and end; the same if there are none."""
    lists: Numbers
    """How many things are remembered of an entry before its frames; -1 if they are not a list that is written there."""
    texts: tuple[tuple[str, Numbers], ...]
    """Likewise of texts."""
    remembered: Numbers
    """How many things are."""


def _remembered(rows: _Rows, sites: Numbers) -> list[Any]:
    """What a pickle remembers of entries, in order: of lists their sites, and of dictionaries nothing."""
    import numpy as np

    ends = rows.remembered.cumsum()
    begins = ends - rows.remembered
    found = np.full(int(ends[-1]), None, object)
    listed = (rows.lists >= 0).nonzero()[0]
    found[(begins + rows.lists)[listed]] = sites[listed].tolist()
    for text, offsets in rows.texts:
        found[(begins + offsets)[offsets >= 0]] = text
    return found.tolist()


class _Block:
    """Every place of a stretch where an entry may stand, followed in each order that is known."""

    def __init__(self, data: bytes, orders: Sequence[tuple[_Field, ...]]) -> None:
        import numpy as np

        self.bytes = Bytes(data)
        self._starts = self.bytes.places(_BEGIN)
        count = len(self._starts)
        self._stops = np.full(count, -1, np.int64)
        self._numbers = {name: np.zeros(count, np.int64) for name in NAMES}
        self._frames = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._lists = np.full(count, -1, np.int64)
        self._texts: list[tuple[str, Numbers]] = []
        self._remembered = np.zeros(count, np.int64)
        for order in orders:
            self._follow(order, (self._stops < 0).nonzero()[0])
        next_ = self._starts[1:]
        joined = (self._stops[:-1] == next_) | (
            (self._stops[:-1] + len(_BETWEEN) == next_) & self.bytes.stands(self._stops[:-1], _BETWEEN)
        )
        self._breaks = np.append((~joined).nonzero()[0], count - 1)
        """The last of each that follow one another."""

    def row(self, at: int) -> int:
        """The number of the entry that stands there, -1 if none that is of a known order."""
        place = int(self._starts.searchsorted(at))
        good = place < len(self._starts) and self._starts[place] == at and self._stops[place] >= 0
        return place if good else -1

    def rows(self, at: int) -> _Rows:
        """The entries that stand there in a row."""
        first = self.row(at)
        last = int(self._breaks[self._breaks.searchsorted(first)])
        last -= bool(self._stops[last] < 0)
        these = slice(first, last + 1)
        return _Rows(
            self.bytes, int(self._stops[last]), {name: column[these] for name, column in self._numbers.items()},
            (self._frames[0][these], self._frames[1][these]), self._lists[these],
            tuple((text, offsets[these]) for text, offsets in self._texts), self._remembered[these],
        )  # fmt: skip

    def _follow(self, order: Sequence[_Field], rows: Numbers) -> None:
        """Fill in what stands there in an order."""
        import numpy as np

        at = self._starts[rows] + len(_BEGIN)
        good, remembered = np.ones(len(rows), np.bool_), np.ones(len(rows), np.int64)
        for field in order:
            good &= self.bytes.stands(at, field.key)
            at = self.bytes.within(at + len(field.key))
            lengths, written = self._value(field, rows, at, remembered)
            good &= lengths > 0
            at = self.bytes.within(at + lengths)
            remembered = remembered + written
        good &= self.bytes.stands(at, _END)
        self._stops[rows[good]] = at[good] + len(_END)
        self._remembered[rows] = remembered
        others = rows[~good]
        for offsets in (self._lists, *(offsets for _, offsets in self._texts)):
            offsets[others] = -1
        for places in self._frames:
            places[others] = 0

    def _value(self, field: _Field, rows: Numbers, at: Numbers, remembered: Numbers) -> tuple[Numbers, Numbers]:
        """The bytes of a field's values, none where they are of another kind; and 1 where one is remembered."""
        import numpy as np

        none = np.zeros(len(rows), np.int64)
        if field.kind == "number":
            values, lengths = self.bytes.numbers(at)
            if field.name in self._numbers:
                self._numbers[field.name][rows] = values
            return lengths, none
        values, lengths = self.bytes.references(at)
        if field.name in self._numbers:
            self._numbers[field.name][rows] = values
        written = none > 0
        if field.kind == "text":
            written = self.bytes.stands(at, field.text)
            lengths = np.where(written, len(field.text), lengths)
            offsets = np.full(len(self._starts), -1, np.int64)
            offsets[rows[written]] = remembered[written]
            self._texts.append((field.text[2:-1].decode("utf-8", "surrogatepass"), offsets))
        elif field.name == _FRAMES:
            whole = self.bytes.lists(at)
            written = whole > 0
            lengths = np.where(written, whole, lengths)
            self._lists[rows] = np.where(written, remembered, -1)
            self._frames[0][rows], self._frames[1][rows] = at, at + lengths
        return lengths, written.astype(np.int64)


def _pairs(data: bytes, at: int) -> list[tuple[bytes, str, bytes]]:
    """The keys of an entry with the kinds of their values, and these as they are written; empty if it is none."""
    if not data.startswith(_BEGIN, at):
        return []
    at += len(_BEGIN)
    rows: list[tuple[bytes, str, bytes]] = []
    while data[at : at + 1] != _END and len(rows) < 24:
        key = _ONE.match(data, at)
        value = _VALUE.match(data, key.end()) if key else None
        if key is None or value is None:
            return []
        kind, stop = str(value.lastgroup), value.end()
        if kind == "text":
            stop += data[stop - 1] + 1
            if data[stop - 1 : stop] != b"\x94":
                return []
        rows.append((key[0], kind, data[value.start() : stop]))
        at = stop
    return rows if data[at : at + 1] == _END else []
