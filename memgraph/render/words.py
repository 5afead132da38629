"""Words of others on a terminal: names come from models and files, and may be made to command it, or to mislead."""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = min(400, max(60, int(os.environ["COLUMNS"]))) if os.environ.get("COLUMNS", "").isdecimal() else 80
"""Columns that a report takes: what the caller says, or 80."""
_SPACES = re.compile(r"[ \t\n\r\f\v]+")
_WIDE = ("W", "F")
"""Kinds of signs that take two columns (Unicode Standard Annex 11, East Asian Width)."""
_FIRST = 0xE000
"""Of the private signs, which stand for others while columns are counted; no name keeps its own (`shown`)."""


def shown(text: str) -> str:
    """On one line, and what is not seen as its number, `\\x1b` or `\\u202e`: controls, marks of direction, private and
    unassigned signs."""
    if text.isprintable():
        return text
    return "".join(map(_seen, _SPACES.sub(" ", text)))


def _seen(sign: str) -> str:
    if unicodedata.category(sign) == "Zs":
        return " "
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode()


def fill(text: str, width: int = WIDTH, **options: Any) -> str:
    """As `textwrap.fill`, of anybody's words, as wide as a terminal shows them."""
    counted = _Counted()
    return counted.back(_Wrapper(width=width, **options).fill(counted.columns(shown(text))))


class _Wrapper(textwrap.TextWrapper):
    """Cuts no sign of two columns in two."""

    def _handle_long_word(self, reversed_chunks: list[str], cur_line: list[str], cur_len: int, width: int) -> None:
        if cur_line and cur_len >= width:
            return
        left = max(1, width - cur_len)
        if reversed_chunks[-1][left : left + 1] == chr(_FIRST):
            left -= 1
        super()._handle_long_word(reversed_chunks, cur_line, cur_len, cur_len + left)


def tabulate(rows: Iterable[Sequence[Any]], headers: Sequence[str], **options: Any) -> str:
    """As `tabulate.tabulate`, of anybody's words, as wide as a terminal shows them."""
    from tabulate import tabulate as drawn

    counted = _Counted()
    return counted.back(drawn([[counted.cell(cell) for cell in row] for row in rows], headers, **options))


class _Counted:
    """A sign for each column of a text, so that whoever counts signs counts columns: a wide sign is followed by a
    private one, and a sign with marks on it is replaced by one."""

    def __init__(self) -> None:
        self._signs: list[str] = [""]
        """What each private sign stands for: the first for nothing."""

    def cell(self, value: Any) -> Any:
        """A cell's lines are kept."""
        if not isinstance(value, str) or (value.isascii() and value.isprintable()):
            return value
        return "\n".join(self.columns(shown(line)) for line in value.split("\n"))

    def columns(self, text: str) -> str:
        if text.isascii():
            return text
        found: list[str] = []
        for sign in text:
            if unicodedata.combining(sign) and found:
                found[-1] = self._together(found[-1] + sign)
            else:
                found.append(sign + chr(_FIRST) if unicodedata.east_asian_width(sign) in _WIDE else sign)
        return "".join(found)

    def _together(self, signs: str) -> str:
        head, tail = (signs[:-2], signs[-1]) if signs[-2] == chr(_FIRST) else (signs[:-1], signs[-1])
        self._signs.append(self.back(head) + tail)
        wide = chr(_FIRST) if len(signs) > 2 and signs[-2] == chr(_FIRST) else ""
        return chr(_FIRST + len(self._signs) - 1) + wide

    def back(self, text: str) -> str:
        if text.isascii():
            return text
        return "".join(self._signs[ord(s) - _FIRST] if 0 <= ord(s) - _FIRST < len(self._signs) else s for s in text)
