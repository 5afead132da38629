"""Entries of a history as a pickle writes them: dictionaries of the same texts in the same order, of whole numbers and
one list of what is remembered, the frames. One expression for each order reads an entry at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

_REF = rb"j.{4}|h."
_NUMBER = rb"K.|M..|J.{4}|\x8a\x06.{6}|\x8a\x07.{7}|\x8a\x05.{5}|\x8a\x08.{8}"
_LIST = rb"\]\x94\(((?:j.{4}|h.){8,})e"
_VALUE = rb"(" + _REF + rb"|" + _NUMBER + rb")"
_PAIRS = re.compile(rb"(" + _REF + rb")(?:" + _VALUE + rb"|" + _LIST + rb")", re.DOTALL)
_ENTRY = re.compile(
    rb"\}\x94\((?:(?:" + _REF + rb")(?:" + _REF + rb"|" + _NUMBER + rb"|\]\x94\((?:j.{4}|h.){8,}e)){2,24}?u", re.DOTALL
)
_WORDS = 100_000
"""Distinct texts and short numbers that are kept in mind."""
_ORDERS = 16
"""Orders that are learned; what is written in others is read operation by operation."""
_LONG = (0x8A, 0x4A)


class Order(NamedTuple):
    """How entries are written."""

    match: Callable[[bytes, int], re.Match[bytes] | None]
    """Its groups are the values, the list's inside among them."""
    names: tuple[str, ...]
    """Of the values, but for the list."""
    frames: str
    place: int
    """The list's name, and its place among the values."""


class Orders:
    """The orders of a pickle, learned from its first entries.

    Args:
        memory: what the pickle remembers.
    """

    def __init__(self, memory: list[Any]) -> None:
        self._memory = memory
        self._known: list[Order] = []
        self.words: dict[bytes, Any] = {}
        """Texts and short numbers, as `word` says them."""

    def find(self, data: bytes, at: int) -> tuple[Order, re.Match[bytes]] | None:
        """The entry there, if it is one."""
        for order in self._known:
            found = order.match(data, at)
            if found is not None:
                return order, found
        return self._learn(data, at) if len(self._known) < _ORDERS else None

    def _learn(self, data: bytes, at: int) -> tuple[Order, re.Match[bytes]] | None:
        whole = _ENTRY.match(data, at)
        pairs = _PAIRS.findall(whole[0][3:-1]) if whole else []
        keys = [self.word(key) for key, _, _ in pairs]
        lists = [number for number, (_, _, frames) in enumerate(pairs) if frames]
        if len(lists) != 1 or not all(type(key) is str for key in keys):
            return None
        parts = (re.escape(key) + (_LIST if frames else _VALUE) for key, _, frames in pairs)
        pattern = re.compile(rb"\}\x94\(" + b"".join(parts) + b"u", re.DOTALL)
        place = lists[0]
        self._known.append(Order(pattern.match, (*keys[:place], *keys[place + 1 :]), keys[place], place))
        found = pattern.match(data, at)
        return None if found is None else (self._known[-1], found)

    def word(self, text: bytes) -> Any:
        """A number, or what is remembered."""
        known = self.words.get(text)
        if known is not None:
            return known
        code = text[0]
        if code in _LONG:
            return int.from_bytes(text[2 if code == 0x8A else 1 :], "little", signed=True)
        number = int.from_bytes(text[1:], "little")
        found = self._memory[number] if code in b"jh" else number
        if type(found) is str or type(found) is int:  # what is remembered of other kinds may be forgotten
            if len(self.words) > _WORDS:
                self.words.clear()
            self.words[text] = found
        return found
