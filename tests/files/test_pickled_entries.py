"""Entries that are read at once come out as Python's own reader has them, in whatever order their keys are."""

from __future__ import annotations

import io
import pickle
import random
from typing import Any

import pytest

from memgraph.files import plain_pickle
from memgraph.files.plain_pickle import Items, PickleError

FRAMES = [{"name": f"f{n}", "filename": "a.py", "line": n} for n in range(600)]


def entries(count: int, keys: list[str], depth: int) -> list[dict[str, Any]]:
    chance = random.Random(0)
    made = {
        "action": lambda: chance.choice(("alloc", "free_requested")),
        "addr": lambda: chance.choice((2**46 + 512, 2**33, 2**62, 7, 300, 70000, -1)),
        "size": lambda: chance.choice((0, 255, 256, 65535, 2**20, 2**31 - 1, 2**31)),
        "frames": lambda: chance.choices(FRAMES, k=depth),
    }
    return [{key: made[key]() for key in keys} for _ in range(count)]


@pytest.mark.parametrize("depth", [0, 1, 7, 8, 40])
@pytest.mark.parametrize(
    "keys", [["action", "addr", "size", "frames"], ["frames", "size", "action"], ["addr", "frames"]]
)
def test_as_python_reads_them(keys: list[str], depth: int) -> None:
    whole = {"frames": FRAMES, "rows": entries(3000, keys, depth), "more": entries(50, keys[::-1], depth)}
    text = pickle.dumps(whole, 4)
    assert plain_pickle.load(io.BytesIO(text)) == whole


def test_lists_of_the_same_frames_are_told_alike() -> None:
    frames = FRAMES[:12]
    whole = [FRAMES, [{"action": "alloc", "frames": list(frames)}, {"action": "alloc", "frames": list(frames)}]]
    one, other = plain_pickle.load(io.BytesIO(pickle.dumps(whole, 4)))[1]
    assert type(one["frames"]) is Items
    assert one["frames"].same == other["frames"].same is not None


def test_a_reference_to_nothing_is_damage() -> None:
    text = pickle.dumps([FRAMES, entries(5, ["action", "frames"], 9)], 4)
    place = text.rindex(b"]\x94(") + 3
    wrong = text[:place] + b"j\xff\xff\xff\x7f" + text[place + 5 :]
    with pytest.raises(PickleError):
        plain_pickle.load(io.BytesIO(wrong))
