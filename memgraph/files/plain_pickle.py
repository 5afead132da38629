"""Pickles of plain data, read as a stream: numbers, texts, lists, tuples and dictionaries.

Whatever would import or call something is refused where it stands, so a file from somebody else cannot run code; and
nothing is set aside for what a file only claims to hold. Python's own reader can be told the first, and not the second.
Dictionaries in lists can be taken as they come, so that a list of millions is never in memory whole. The operations are
those of protocols 0 to 5 that plain data is written with (Lib/pickletools.py says what each does).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

from memgraph.errors import shortened
from memgraph.files.pickled_entries import Entries, Orders

_BLOCK = 2**20
"""Bytes that are read at once."""
_ROOM = 16
"""Bytes that an operation of the loop takes at most."""
_FRAME, _HEAD = 0x95, 9
"""The operation that begins a frame, and the bytes of it with the frame's length."""
_LONGEST = 2**26
"""Bytes of one text. A snapshot's longest are file names, and pages that somebody attached."""
_WIDEST = 16
"""Bytes of one whole number."""
_KEYS = {str, int}
_REFERENCE = re.compile(rb"j.{4}|h.", re.DOTALL)
_RUN = re.compile(rb"(?:j.{4}|h.){8,}", re.DOTALL)
"""References to what is remembered, many in a row."""
_NO_RUN: tuple[int, int, int | None] = (-1, 0, None)
_RUNS = 100_000
"""Distinct ones that are kept in mind."""
_GAP = 1024
"""Places that a pickle may leave out where it numbers what it remembers."""

Forget = Callable[["Items", Any], None]
"""From here on something else stands where the pickle refers to a list again."""

Take = Callable[["Items", dict[Any, Any], Forget], bool]
"""Told of a dictionary that is being put into a list; True if it is done with it, and the list does without. If it does
not take the first of some that come together, it is not told of the others."""

Taker = Callable[["Items"], Entries]
"""Who takes the entries of a list that are read at once, and not as dictionaries."""


class PickleError(Exception):
    """It is no pickle, damaged, or not plain data."""


class Items(list[Any]):
    """A list of a pickle."""

    __slots__ = ("place", "same", "taken")

    place: int
    """Where the pickle remembers it; unset if it does not."""
    same: int | None
    """A number that lists of the same things share, where that was seen; else unset or None."""
    taken: Any
    """For whoever takes its dictionaries; unset at first."""


class Pairs(dict[Any, Any]):
    """A dictionary of a pickle."""

    __slots__ = ("place",)

    place: int


def load(file: BinaryIO, take: Take = lambda _items, _pairs, _forget: False, taker: Taker | None = None) -> Any:
    """Read a pickle.

    Args:
        take: told of each dictionary that is put into a list, but for entries of a history that are written alike.
        taker: of these; without one all are dictionaries.

    Raises:
        PickleError: it is not a pickle of plain data.
    """
    try:
        return _Reader(file, take, taker).run()
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise PickleError(f"it is damaged or no pickle: {type(error).__name__} {str(error)[:100]}") from error


class _Reader:
    """A pickle is a program for a machine with a stack and a memory; this is one that knows no names."""

    def __init__(self, file: BinaryIO, take: Take, taker: Taker | None) -> None:
        self.file, self.take, self.taker = file, take, taker
        self.stack: list[Any] = []
        self.marks: list[int] = []
        """How high the stack was at each mark."""
        self.memory: list[Any] = []
        self.runs: dict[bytes, Items] = {}
        """What references in a row stand for, each with a number."""
        self.orders = Orders(self.memory)
        self.handed_on = -1
        """How many marks there are at that of the list whose entries were handed on; -1 if that is over."""
        self.last_run = _NO_RUN
        """The last of them: how high the stack was, how many, and its number."""
        self.run_count = 0
        self.data, self.at, self.safe = b"", 0, -1
        """What was read and not yet followed; where the next operation is; where the last may be before more is
        needed."""
        self.frame = -1
        """Where in it a frame of the pickle ends, -1 if that is not known."""

    def run(self) -> Any:
        """Follow it to its end. One long loop on purpose, the frequent operations first: calls would take most of the
        time."""
        stack, marks, memory = self.stack, self.marks, self.memory
        push, number = stack.append, struct.Struct("<I").unpack_from
        data, at, safe = self.data, self.at, self.safe
        while True:
            while at > safe:
                self.at = at
                self.read_on()
                data, at, safe = self.data, self.at, self.safe
            code = data[at]
            if code == 0x6A:  # LONG_BINGET, the frames of a stack
                while code == 0x6A and at <= safe:
                    push(memory[number(data, at + 1)[0]])
                    at += 5
                    code = data[at]
            elif code == 0x68:  # BINGET
                push(memory[data[at + 1]])
                at += 2
            elif code == 0x4B:  # BININT1
                push(data[at + 1])
                at += 2
            elif code == 0x94:  # MEMOIZE
                self.remember(len(memory))
                at += 1
            elif code == 0x8A and data[at + 1] <= 8:  # LONG1
                end = at + 2 + data[at + 1]
                push(int.from_bytes(data[at + 2 : end], "little", signed=True))
                at = end
            elif code == 0x4A:  # BININT
                push(int.from_bytes(data[at + 1 : at + 5], "little", signed=True))
                at += 5
            elif code == 0x4D:  # BININT2
                push(data[at + 1] | data[at + 2] << 8)
                at += 3
            elif code == 0x7D:  # EMPTY_DICT
                after = self.entries(data, at) if marks and self.taker is not None else at
                if after == at:
                    push(Pairs())
                    after += 1
                at = after
            elif code == 0x28:  # MARK
                marks.append(len(stack))
                at += 1
                run = _RUN.match(data, at) if stack and type(stack[-1]) is Items else None
                if run is not None:  # a list of what is remembered: the frames of a stack
                    self.push_run(run[0])
                    at = run.end()
                else:  # or one of which too few are read yet: the run before is none of its own
                    self.last_run = _NO_RUN
            elif code == 0x2E:  # STOP
                return stack.pop()
            else:
                self.at = at + 1
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise PickleError(f"it is damaged or no plain data: there is no operation {code:#x}")
                operation(self)
                data, at, safe = self.data, self.at, self.safe

    def push_run(self, text: bytes) -> None:
        """Many references in a row."""
        found = self.followed(text)
        self.last_run = len(self.stack), len(found), found.same
        self.stack.extend(found)

    def followed(self, text: bytes) -> Items:
        """What references in a row stand for, and the number of that. Equal ones come again and again, and are followed
        once."""
        known = self.runs.get(text)
        if known is None:
            if len(self.runs) > _RUNS:
                self.runs.clear()
            self.run_count += 1
            places = (int.from_bytes(one[1:], "little") for one in _REFERENCE.findall(text))
            known = self.runs[text] = Items([self.memory[place] for place in places])
            known.same = self.run_count
        return known

    def entries(self, data: bytes, at: int) -> int:
        """Hand on the entries of a history that stand there, after what the list was given before; where they end."""
        height = self.marks[-1]
        target = self.stack[height - 1] if height else None
        if type(target) is not Items or self.taker is None or not self.orders.begins(data, at):
            return at
        self.handed_on = -1
        self.append(self.since_mark())
        self.marks.append(height)
        self.handed_on = len(self.marks)
        return self.orders.follow(data, at, self.taker(target))

    def extend(self) -> None:
        """A list gets what is since the mark; `same` if that is one run, and all of it."""
        start, length, number = self.last_run
        whole = self.marks[-1] == start and len(self.stack) == start + length
        if len(self.marks) == self.handed_on:
            self.handed_on = -1
        items = self.since_mark()
        target = self.stack[-1]
        if type(target) is Items:
            target.same = number if whole and not target else None
        self.append(items)

    def read_on(self) -> None:
        more = self.file.read(_BLOCK)
        self.frame = max(-1, self.frame - self.at)
        self.data, self.at = self._unframed(self.data[self.at :] + more), 0
        self.safe = len(self.data) - _ROOM if more else len(self.data)

    def begin_frame(self) -> None:
        """Frames say how long they are, for whoever reads them one at a time."""
        size = self.number(8)
        self.frame, before = self.at + size, len(self.data)
        self.data = self._unframed(self.data)
        self.safe -= before - len(self.data)

    def _unframed(self, data: bytes) -> bytes:
        """Without the beginnings of the frames that follow the one that is being read: what is in them is one."""
        pieces, start, end = [], 0, self.frame
        while 0 <= end <= len(data) - _HEAD and data[end] == _FRAME:
            pieces.append(data[start:end])
            start, size = end + _HEAD, int.from_bytes(data[end + 1 : end + _HEAD], "little")
            self.frame += size
            end = start + size
        return b"".join((*pieces, data[start:])) if pieces else data

    def take_bytes(self, size: int) -> bytes:
        """The next so many."""
        if size > _LONGEST:
            raise PickleError(f"it is damaged or no snapshot: a text of {size:,} bytes")
        while len(self.data) - self.at < size:
            before = len(self.data) - self.at
            self.read_on()
            if len(self.data) == before:
                raise PickleError("it is cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take_bytes(size), "little")

    def line(self) -> bytes:
        """Up to the end of a line, as the oldest protocol writes."""
        while (end := self.data.find(b"\n", self.at)) < 0:
            before = len(self.data) - self.at
            self.read_on()
            if len(self.data) == before or before > _LONGEST:
                raise PickleError("it is cut short")
        line = self.data[self.at : end]
        self.at = end + 1
        return line

    def remember(self, place: int) -> None:
        top, memory = self.stack[-1], self.memory
        if type(top) is Pairs or type(top) is Items:
            top.place = place
        if place >= len(memory):
            if place > len(memory) + _GAP:
                raise PickleError("it is damaged: it numbers what it remembers in no order")
            memory.extend([None] * (place + 1 - len(memory)))
        memory[place] = top

    def forget(self, old: Items | Pairs, new: Any = None) -> None:
        place = getattr(old, "place", -1)
        if place >= 0:
            self.memory[place] = new

    def since_mark(self) -> list[Any]:
        if len(self.marks) == self.handed_on:
            raise PickleError("it is damaged: entries of a list that is none")
        height = self.marks.pop()
        found = self.stack[height:]
        del self.stack[height:]
        return found

    def text(self, size: int) -> None:
        self.stack.append(self.take_bytes(size).decode("utf-8", "surrogatepass"))

    def raw(self, size: int) -> None:
        self.stack.append(self.take_bytes(size))

    def long(self, size: int) -> None:
        if size > _WIDEST:
            raise PickleError(f"it is damaged or no snapshot: a number of {size} bytes")
        self.stack.append(int.from_bytes(self.take_bytes(size), "little", signed=True))

    def old_number(self) -> None:
        """`I` also writes booleans, as 00 and 01."""
        line = self.line()
        booleans = {b"00": False, b"01": True}
        self.stack.append(booleans[line] if line in booleans else int(line.rstrip(b"L")))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not Items:
            raise PickleError("it is damaged: what is appended to is no list")
        if not items or not self.takes(target, items[0]):
            target.extend(items)
        else:
            target.extend(item for item in items[1:] if not self.takes(target, item))

    def takes(self, target: Items, item: Any) -> bool:
        taken = type(item) is Pairs and self.take(target, item, self.forget)
        if taken:
            self.forget(item)
        return taken

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not Pairs or not set(map(type, items[::2])) <= _KEYS:
            raise PickleError("it is damaged: no dictionary, or one with keys that are neither texts nor numbers")
        target.update(zip(items[::2], items[1::2], strict=True))

    def new(self, kind: type[Any], fill: Callable[[list[Any]], None]) -> None:
        items = self.since_mark()
        self.stack.append(kind())
        fill(items)

    def tuple_of(self, count: int) -> None:
        found = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(found)

    def refuse(self, module: str, name: str) -> NoReturn:
        asked = " ".join(f"{module}.{name}".split())
        raise PickleError(f"it asks for {shortened(asked)}, and a snapshot is plain data: it will not be run")


def _asks_by_line(reader: _Reader) -> NoReturn:
    module, name = reader.line(), reader.line()
    reader.refuse(module.decode("utf-8", "replace"), name.decode("utf-8", "replace"))


def _asks_by_stack(reader: _Reader) -> NoReturn:
    reader.refuse(*map(str, reader.stack[-2:]))


def _calls(_: _Reader) -> NoReturn:
    raise PickleError("it calls something, and a snapshot is plain data: it will not be run")


_OPERATIONS: dict[int, Callable[[_Reader], object]] = {
    ord("N"): lambda r: r.stack.append(None),
    0x88: lambda r: r.stack.append(True),
    0x89: lambda r: r.stack.append(False),
    ord("I"): _Reader.old_number,
    ord("L"): _Reader.old_number,
    ord("F"): lambda r: r.stack.append(float(r.line())),
    ord("G"): lambda r: r.stack.append(struct.unpack(">d", r.take_bytes(8))[0]),
    0x8A: lambda r: r.long(r.number(1)),
    0x8B: lambda r: r.long(r.number(4)),
    0x8C: lambda r: r.text(r.number(1)),
    ord("X"): lambda r: r.text(r.number(4)),
    0x8D: lambda r: r.text(r.number(8)),
    ord("V"): lambda r: r.stack.append(r.line().decode("raw-unicode-escape")),
    ord("U"): lambda r: r.text(r.number(1)),
    ord("T"): lambda r: r.text(r.number(4)),
    ord("C"): lambda r: r.raw(r.number(1)),
    ord("B"): lambda r: r.raw(r.number(4)),
    0x8E: lambda r: r.raw(r.number(8)),
    ord("]"): lambda r: r.stack.append(Items()),
    ord("l"): lambda r: r.new(Items, r.append),
    ord("a"): lambda r: r.append([r.stack.pop()]),
    ord("e"): _Reader.extend,
    ord("d"): lambda r: r.new(Pairs, r.set_items),
    ord("s"): lambda r: r.set_items([r.stack.pop(-2), r.stack.pop()]),
    ord("u"): lambda r: r.set_items(r.since_mark()),
    ord(")"): lambda r: r.stack.append(()),
    0x85: lambda r: r.tuple_of(1),
    0x86: lambda r: r.tuple_of(2),
    0x87: lambda r: r.tuple_of(3),
    ord("t"): lambda r: r.stack.append(tuple(r.since_mark())),
    ord("q"): lambda r: r.remember(r.number(1)),
    ord("r"): lambda r: r.remember(r.number(4)),
    ord("p"): lambda r: r.remember(int(r.line())),
    ord("g"): lambda r: r.stack.append(r.memory[int(r.line())]),
    ord("0"): lambda r: r.stack.pop(),
    ord("1"): _Reader.since_mark,
    ord("2"): lambda r: r.stack.append(r.stack[-1]),
    0x80: lambda r: r.take_bytes(1),  # PROTO: what follows says the same whatever it is
    _FRAME: _Reader.begin_frame,
    ord("c"): _asks_by_line,
    ord("i"): _asks_by_line,
    0x93: _asks_by_stack,
    **dict.fromkeys((ord("R"), ord("o"), ord("b"), 0x81, 0x92, ord("P"), ord("Q"), 0x82, 0x83, 0x84), _calls),
}
