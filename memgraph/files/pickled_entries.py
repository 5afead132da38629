"""Entries of a history as a pickle writes them, read where they stand: dictionaries of the same texts in the same
order, of numbers, texts and a list of what is remembered, the frames. One expression for each order reads an entry at
once, and only what somebody wants of it is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

_REF = rb"(?:j.{4}|h.)"
_NUMBER = rb"\x8a(?:\x06.{6}|\x07.{7}|\x05.{5}|\x08.{8})|J.{4}|K.|M.{2}"
_LIST = rb"\]\x94(?:\((?:" + _REF + rb")*+e|" + _REF + rb"a)?"
_ONE = re.compile(_REF, re.DOTALL)
_VALUE = re.compile(
    rb"(?P<ref>" + _REF + rb")|(?P<number>" + _NUMBER + rb")|(?P<list>" + _LIST + rb")|(?P<text>\x8c[\x00-\x1f])",
    re.DOTALL,
)
_BEGIN = b"}\x94("
_WORDS = 100_000
"""Distinct texts and numbers that are kept in mind, and lists."""
_ORDERS = 16
"""Orders that are learned; what is written in others is read operation by operation."""
_LONG1 = 0x8A
_LONG = (_LONG1, 0x4A)


class Entries(Protocol):
    """Whoever takes the entries of a list."""

    def row(self, action: Any, address: Any, size: Any, stream: Any, site: int, /) -> None:
        """The next."""

    def stack(self, frames: Any, /) -> int:
        """The number that a list of frames, or what stands for one, has there."""


NAMES = ("action", "addr", "size", "stream")
"""What is read of an entry, but for its frames."""
_KINDS = ["ref", "number", "number", "number"]
"""How these are written."""
_FRAMES = "frames"


class Order(NamedTuple):
    """How entries are written."""

    match: Callable[[bytes, int], re.Match[bytes] | None]
    wanted: tuple[int, int, int, int]
    """The groups of `NAMES`."""
    frames: int
    """The group of the frames, -1 if there are none."""
    remembered: tuple[tuple[int, str], ...]
    """Groups of what the pickle remembers where it stands there, and not elsewhere: texts, and the list, in order."""


class _Words(dict[bytes, Any]):
    """Numbers, and texts that are remembered, by how a pickle writes them."""

    def __init__(self, memory: list[Any]) -> None:
        super().__init__()
        self._memory = memory

    def __missing__(self, text: bytes) -> Any:
        if text[0] in _LONG:
            found = int.from_bytes(text[2 if text[0] == _LONG1 else 1 :], "little", signed=True)
        else:
            number = int.from_bytes(text[1:], "little")
            found = self._memory[number] if text[0] in b"jh" else number
            if type(found) is not str and type(found) is not int:  # it may be forgotten
                return found
        if len(self) > _WORDS:
            self.clear()
        self[text] = found
        return found


class _Sites(dict[bytes, int]):
    """The numbers of lists of frames, by how a pickle writes them."""

    def __init__(self, memory: list[Any], entries: Entries) -> None:
        super().__init__()
        self._memory, self.entries = memory, entries

    def __missing__(self, text: bytes) -> int:
        if text[0] != 0x5D:  # a reference
            return self.entries.stack(self._memory[int.from_bytes(text[1:], "little")])
        if len(self) > _WORDS:
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
        self._known: list[Order] = []
        self._words = _Words(memory)
        self._sites: _Sites | None = None

    def begins(self, data: bytes, at: int) -> bool:
        """Whether an entry stands there that can be read at once."""
        return any(order.match(data, at) for order in self._known) or self._learn(data, at)

    def follow(self, data: bytes, at: int, entries: Entries) -> int:
        """Hand on the entries that stand there in a row; where the first other operation is."""
        memory, words = self._memory, self._words
        sites = self._sites
        if sites is None or sites.entries is not entries:
            sites = self._sites = _Sites(memory, entries)
        row = entries.row
        while True:
            for order in self._known:
                found = order.match(data, at)
                if found is not None:
                    break
            else:
                return at
            values = found.groups()
            action, address, size, stream = order.wanted
            listed = values[order.frames] if order.frames >= 0 else None
            site = -1 if listed is None else sites[listed]
            memory.append(None)
            for group, text in order.remembered:
                if group == order.frames:
                    if values[group][0] == 0x5D:
                        memory.append(site)
                elif values[group] is not None:
                    memory.append(text)
            place = values[address]  # hardly ever the same twice, so that it is not kept in mind
            where = int.from_bytes(place[2:], "little", signed=True) if place[0] == _LONG1 else words[place]
            row(words[values[action]], where, words[values[size]], words[values[stream]], site)
            at = found.end()

    def _learn(self, data: bytes, at: int) -> bool:
        pairs = _pairs(data, at) if len(self._known) < _ORDERS else []
        names = [self._words[key] for key, _, _ in pairs]
        if not set(NAMES) <= set(names) or len(set(names)) < len(names):
            return False
        kinds = {name: (group, kind) for group, (name, (_, kind, _)) in enumerate(zip(names, pairs, strict=True))}
        wanted = tuple(kinds[name] for name in NAMES)
        frames = kinds.get(_FRAMES, (-1, "list"))
        lists = [group for group, (_, kind, _) in enumerate(pairs) if kind == "list"]
        if [kind for _, kind in wanted] != _KINDS or frames[1] not in ("list", "ref") or lists not in ([], [frames[0]]):
            return False
        parts = [re.escape(key) + _pattern(kind, text, listed=group == frames[0])
                 for group, (key, kind, text) in enumerate(pairs)]  # fmt: skip
        remembered = tuple(
            (group, _text(text) if kind == "text" else "")
            for group, (_, kind, text) in enumerate(pairs) if kind == "text" or group == frames[0]
        )  # fmt: skip
        match = re.compile(re.escape(_BEGIN) + b"".join(parts) + b"u", re.DOTALL).match
        a, b, c, d = (group for group, _ in wanted)
        self._known.append(Order(match, (a, b, c, d), frames[0], remembered))
        return match(data, at) is not None


def _pairs(data: bytes, at: int) -> list[tuple[bytes, str, bytes]]:
    """The keys of an entry with the kinds of their values, and these as they are written; empty if it is none."""
    if not data.startswith(_BEGIN, at):
        return []
    at += len(_BEGIN)
    rows: list[tuple[bytes, str, bytes]] = []
    while data[at : at + 1] != b"u" and len(rows) < 24:
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
    return rows if data[at : at + 1] == b"u" else []


def _text(text: bytes) -> str:
    return text[2:-1].decode("utf-8", "surrogatepass")


def _pattern(kind: str, text: bytes, *, listed: bool) -> bytes:
    """An expression of one group for values of a kind. A text may be remembered already the next time."""
    if listed:
        return rb"(" + _LIST + rb"|" + _REF + rb")"
    if kind == "text":
        return rb"(?:" + _REF + rb"|(" + re.escape(text) + rb"))"
    return rb"(" + (_REF if kind == "ref" else _NUMBER) + rb")"
