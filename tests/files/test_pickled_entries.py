"""Entries that are read at once come out as Python's own reader has them, in whatever order their keys are."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
from collections.abc import Sequence
from typing import Any

import pytest

from memgraph.files import plain_pickle
from memgraph.files.plain_pickle import Forget, Items, Pairs, PickleError

FRAMES = [{"name": f"f{n}", "filename": "a.py", "line": n} for n in range(600)]


class Taken:
    """The rows of a list, with their frames."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.stacks: list[list[Any]] = []

    def rows(self, *columns: Sequence[Any]) -> None:
        for action, address, size, stream, site in zip(*columns, strict=True):
            self.told.append((action, address, size, stream, self.stacks[site] if site >= 0 else None))

    def stack(self, frames: Any) -> int:
        if isinstance(frames, int):
            return frames
        self.stacks.append(list(frames))
        return len(self.stacks) - 1


def read(text: bytes) -> tuple[Any, list[list[tuple[Any, ...]]], list[int]]:
    """What a pickle holds, the rows of each of its histories, and how many came as dictionaries."""
    lists: list[Items] = []
    single = [0]

    def taker(items: Items) -> Taken:
        if not hasattr(items, "taken"):
            items.taken = Taken()
            lists.append(items)
        return items.taken  # type: ignore[no-any-return]

    def take(items: Items, pairs: dict[Any, Any], forget: Forget) -> bool:
        if "action" not in pairs:
            return False
        taken, frames = taker(items), pairs.get("frames")
        site = -1 if frames is None else taken.stack(frames)
        taken.rows(*([pairs.get(name)] for name in ("action", "addr", "size", "stream")), [site])
        if isinstance(frames, list):
            forget(frames, site)  # type: ignore[arg-type]
        single[0] += 1
        return True

    whole = plain_pickle.load(io.BytesIO(text), take, taker)
    return whole, [items.taken.told for items in lists], single


def fresh(text: str) -> str:
    """The same text in a place of its own, which a pickle writes again."""
    return (text + " ")[:-1]


def entries(count: int, keys: list[str], depth: int, seed: int = 0) -> list[dict[str, Any]]:
    """As torch makes them: a list of frames of its own for most, the one before it for what completes a free."""
    chance = random.Random(seed)
    made = {
        "action": lambda: chance.choice(("alloc", "free_requested")),
        "addr": lambda: chance.choice((2**46 + 512, 2**33, 2**62, 7, 300, 70000, -1)),
        "size": lambda: chance.choice((0, 255, 256, 65535, 2**20, 2**31 - 1, 2**31)),
        "stream": lambda: chance.choice((0, 0, 7)),
        "time_us": lambda: chance.randrange(2**52),
        "compile_context": lambda: fresh("N/A"),
        "user_metadata": lambda: "",
        "frames": lambda: chance.choices(FRAMES, k=depth),
    }
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        row = {key: made[key]() for key in keys}
        if rows and "frames" in row and chance.random() < 0.3:
            row |= {"action": "free_completed", "frames": rows[-1]["frames"]}
        rows.append(row)
    return rows


def told(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row.get(key) for key in ("action", "addr", "size", "stream", "frames")) for row in rows]


KEYS = [
    ["action", "addr", "size", "stream", "time_us", "compile_context", "user_metadata", "frames"],
    ["frames", "compile_context", "stream", "size", "action", "addr"],
    ["action", "addr", "size", "stream", "time_us"],
]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("depth", [0, 1, 2, 40])
@pytest.mark.parametrize("keys", KEYS)
def test_as_python_reads_them(keys: list[str], depth: int, protocol: int) -> None:
    rows, more = entries(3000, keys, depth), entries(50, keys[::-1], depth, 1)
    after = {"last": [fresh("N/A"), rows[7].get("frames", "none")], "name": "frames"}
    text = pickle.dumps({"frames": FRAMES, "traces": [rows, more], **after}, protocol)
    whole, histories, single = read(text)
    assert histories == [told(rows), told(more)]
    assert whole["traces"] == [[], []] and whole["name"] == "frames"  # what it remembers has its places still
    assert whole["last"][0] == "N/A"
    assert protocol < 4 or single[0] < 120  # the first of each order, and what frames of 64 KiB cut in two


@pytest.mark.parametrize("block", [300, 1000, 4096, 9999])
def test_wherever_a_block_ends(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is cut in two is not taken for the one before it, which is as long."""
    monkeypatch.setattr(plain_pickle, "_BLOCK", block)
    rows = entries(700, KEYS[0], 12)
    _, histories, _ = read(pickle.dumps([FRAMES, rows, {"after": rows[5]["frames"]}], 4))
    assert histories == [told(rows)]
    lists = [[FRAMES[(n * 7 + k) % 600] for k in range(12)] for n in range(300)]
    assert plain_pickle.load(io.BytesIO(pickle.dumps([FRAMES, lists], 4)))[1] == lists
    same = [one.same for one in plain_pickle.load(io.BytesIO(pickle.dumps([FRAMES, lists], 4)))[1]]
    assert len(set(same) - {None}) == 300 - same.count(None)


def test_frames_of_a_pickle_are_read_as_one() -> None:
    """Of 64 KiB each: ten entries at most are cut, and read by themselves."""
    rows = entries(6000, KEYS[0], 20)
    text = pickle.dumps([FRAMES, rows], 4)
    assert text.count(b"\x95") >= 8 and len(text) > 8 * 2**16
    _, histories, single = read(text)
    assert histories == [told(rows)] and single[0] <= 4


@pytest.mark.parametrize("size", [0, 3, 2**40, 2**64 - 1])
def test_frames_that_lie_end_in_a_line(size: int) -> None:
    """What a frame claims is believed of where the next may begin, and of nothing else."""
    text = bytearray(pickle.dumps([FRAMES, entries(900, KEYS[0], 20)], 4))
    text[3:11] = size.to_bytes(8, "little")
    with contextlib.suppress(PickleError):
        assert read(bytes(text))[1] == [told(entries(900, KEYS[0], 20))]


@pytest.mark.parametrize("depth", [0, 1, 8, 40])
def test_without_somebody_who_takes_them_they_are_dictionaries(depth: int) -> None:
    whole = {"frames": FRAMES, "rows": entries(3000, KEYS[0], depth), "more": entries(50, KEYS[1], depth)}
    assert plain_pickle.load(io.BytesIO(pickle.dumps(whole, 4))) == whole


def test_entries_of_other_keys_keep_their_place_among_them() -> None:
    """What was refused has no address, and is read as a dictionary: before what follows it, and after what did not."""
    rows = entries(900, KEYS[0], 12)
    for place in (300, 301, 650):
        rows[place] = {"action": "oom", "device_free": 5, "size": place, "stream": 0, "frames": FRAMES[:9]}
    assert read(pickle.dumps([FRAMES, rows], 4))[1] == [told(rows)]


def test_what_is_no_entry_stays_in_its_list() -> None:
    rows: list[Any] = [*entries(40, KEYS[0], 12), 5, {"name": "x"}, (1, 2, 3, 4), *entries(40, KEYS[0], 12, 1)]
    whole, histories, _ = read(pickle.dumps([FRAMES, rows], 4))
    assert whole[1] == [5, {"name": "x"}, (1, 2, 3, 4)]
    assert histories == [told([row for row in rows if type(row) is dict and "action" in row])]


def test_frames_that_are_written_where_they_come_first_are_in_lists_of_their_own() -> None:
    """A list with a new frame in it, as long as the last one that was read by itself, is not taken for that one."""
    keys = ["action", "addr", "size", "stream", "frames"]
    rows = entries(40, keys, 9)
    rows[20] = {"action": "oom", "device_free": 5, "size": 20, "stream": 0, "frames": FRAMES[:9]}
    rows[30] |= {"frames": [*FRAMES[9:12], {"name": "new"}, *FRAMES[13:18]]}
    lists: list[Any] = []

    def take(items: Items, pairs: dict[Any, Any], forget: Forget) -> bool:
        if "action" in pairs:
            lists.append(pairs["frames"])
        return "action" in pairs

    plain_pickle.load(io.BytesIO(pickle.dumps([FRAMES, rows], 4)), take, lambda _: Taken())
    refused, new = lists[-2:]
    assert (refused, new) == (FRAMES[:9], rows[30]["frames"])
    assert refused.same is not None and new.same is None


def test_lists_of_the_same_frames_are_told_alike() -> None:
    frames = FRAMES[:12]
    whole = [FRAMES, [{"state": "active", "frames": list(frames)}, {"state": "active", "frames": list(frames)}]]
    one, other = plain_pickle.load(io.BytesIO(pickle.dumps(whole, 4)))[1]
    assert type(one) is Pairs and type(one["frames"]) is Items
    assert one["frames"].same == other["frames"].same is not None


def test_a_reference_to_nothing_is_damage() -> None:
    text = pickle.dumps([FRAMES, entries(5, KEYS[0], 9)], 4)
    place = text.rindex(b"]\x94(") + 3
    wrong = text[:place] + b"j\xff\xff\xff\x7f" + text[place + 5 :]
    with pytest.raises(PickleError):
        read(wrong)


def test_entries_of_a_list_that_is_none_are_damage() -> None:
    text = pickle.dumps([FRAMES, entries(50, KEYS[2], 0)], 4)
    with pytest.raises(PickleError, match="a list that is none"):
        read(text[: text.rindex(b"e")].rstrip(b"e") + b"t.")
