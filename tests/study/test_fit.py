"""What fits: the search finds the edge, whatever it asks; and a fresh trace agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgraph.analyze.fit import MOST, Cell, Limit, largest, refusal, row
from memgraph.analyze.regions import Sizes
from memgraph.cli.fit import parse_headroom
from memgraph.errors import UsageError
from memgraph.options import Options
from memgraph.render import fit_json, heatmap, table_fit
from memgraph.study.study import Headroom, Study
from memgraph.trace import Trace, Usage
from tests.analyze.test_growth import SMALL

GIB, MIB = 2**30, 2**20


@given(st.integers(0, 500), st.integers(1, 40), st.integers(0, 4000), st.integers(0, 300))
def test_the_batch_found_fits_and_the_next_does_not(fixed: int, each: int, available: int, waste: int) -> None:
    """Requested is `fixed + each·B`; reserved is up to `waste` more, in no order."""

    def requested(batch: int) -> int:
        return fixed + each * batch

    def fits(batch: int) -> bool:
        return requested(batch) + batch * 7919 % (waste + 1) <= available

    found = largest(requested, fits, available)
    assert found == 0 or fits(found)
    assert not fits(found + 1)


def test_the_allocator_is_asked_near_the_edge_alone() -> None:
    # 100 + 10 B ≤ 1000 up to B = 90; 5 % are lost, 1.05 · (100 + 10 B) ≤ 1000 up to B = 85
    asked: list[int] = []

    def fits(batch: int) -> bool:
        asked.append(batch)
        return 105 * (100 + 10 * batch) <= 100 * 1000

    assert largest(lambda batch: 100 + 10 * batch, fits, 1000) == 85
    assert min(asked) >= 83
    assert len(asked) <= 6


def test_no_batch_and_any_batch() -> None:
    assert largest(lambda _: 2000, lambda _: True, 1000) == 0
    assert largest(lambda _: 500, lambda _: True, 1000) == MOST


def test_a_row_of_a_grid_asks_the_allocator_once_at_its_edge() -> None:
    asked: list[int] = []

    def fits(batch: int) -> bool:
        asked.append(batch)
        return batch <= 8

    cells = row("rtx3090", 512, [1, 2, 4, 8, 16, 32], lambda batch: 100 * batch, fits, 2000)
    assert asked == [16, 8]  # 32 requests 3200 of 2000
    assert [cell.fits for cell in cells] == [True, True, True, True, False, False]
    assert cells[3] == Cell("rtx3090", 512, 8, 800, 0.4, True)


# With real runs of a small model.


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(Options(set=SMALL, memory=64 * MIB))


@pytest.mark.parametrize("seq", [64, 128])
def test_fresh_traces_agree_with_the_limit(study: Study, seq: int) -> None:
    (found,) = [limit for limit in study.limits(["rtx3090"], [64, 96, 128], confirm=False) if limit.seq == seq]
    at, beyond = (study.run(Sizes(found.batch + more, seq), "rtx3090", 64 * MIB).trace for more in (0, 1))
    assert at.fits
    assert not beyond.fits
    assert refusal(at) == ""
    assert "step 1" in refusal(beyond) or "step 2" in refusal(beyond)


def test_confirmed_limits_carry_the_traces_figures(study: Study) -> None:
    (limit,) = study.limits(["rtx3090"], [64], Headroom(bytes=16 * MIB))
    assert limit.sure
    assert limit.peak is not None
    assert limit.beyond is not None
    assert limit.available == 48 * MIB
    assert limit.peak.reserved <= 48 * MIB < limit.beyond.reserved
    fresh = study.run(Sizes(limit.batch, 64), "rtx3090", 48 * MIB).trace
    assert limit.peak == Usage(*fresh.peak[:3])


def test_a_grid_is_what_traces_say(study: Study) -> None:
    cells = study.grid(["rtx3090"], [64, 96, 128], [2, 16, 64])
    assert len(cells) == 9
    for cell in cells[::4]:
        fresh = study.run(Sizes(cell.batch, cell.seq), "rtx3090", 64 * MIB).trace
        assert cell.fits == fresh.fits
        assert cell.requested == fresh.peak.requested
        assert cell.share == cell.requested / (64 * MIB)


def test_not_even_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    tight = Study(Options(set=SMALL, memory=4 * MIB))
    (limit,) = tight.limits(["rtx3090"], [64])
    assert (limit.batch, limit.peak, limit.sure) == (0, None, True)
    assert limit.refused


# Text.


@pytest.mark.parametrize(
    ("text", "headroom", "free"),
    [("10%", Headroom(share=0.1), 100), ("1GiB", Headroom(bytes=GIB), GIB), ("0%", Headroom(), 0)],
)
def test_headroom_is_read(text: str, headroom: Headroom, free: int) -> None:
    assert parse_headroom(text) == headroom
    assert headroom.of(1000) == free


@pytest.mark.parametrize("text", ["100%", "some", "-1GiB", "%"])
def test_headroom_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_headroom(text)


LIMITS = [
    Limit("rtx3090", 128, 72, 23 * GIB, Usage(20 * GIB, 21 * GIB, 22 * GIB), Usage(21 * GIB, 22 * GIB, 24 * GIB),
          "mm in the forward of step 1", True, ""),
    Limit("t4", 512, 0, 4 * GIB, None, Usage(5 * GIB, 5 * GIB, 5 * GIB),
          "mm in the forward of step 1", True, "no law: x"),
    Limit("h100", None, MOST, 80 * GIB, None, None, "", False, ""),
]  # fmt: skip


def test_the_table_of_limits(golden: Callable[[str, str], None]) -> None:
    golden("fit.txt", table_fit.report(LIMITS))


def test_the_object_of_limits() -> None:
    found: dict[str, Any] = json.loads(json.dumps(fit_json.report(LIMITS, [Cell("t4", 512, 8, 800, 0.4, True)])))
    assert [limit["batch"] for limit in found["limits"]] == [72, 0, None]
    assert found["limits"][0]["peak"] == {"requested": 20 * GIB, "allocated": 21 * GIB, "reserved": 22 * GIB}
    assert found["grid"] == [{"gpu": "t4", "seq": 512, "batch": 8, "requested": 800, "share": 0.4, "fits": True}]


@pytest.mark.parametrize("fancy", [True, False])
def test_the_map(golden: Callable[[str, str], None], fancy: bool) -> None:
    cells = [
        Cell("rtx3090", seq, batch, seq * batch * 2**20, seq * batch / 2**12, seq * batch <= 2**12)
        for seq in (128, 256, 512, 1024) for batch in (1, 2, 4, 8, 16)
    ]  # fmt: skip
    golden(f"heatmap_{'shades' if fancy else 'numbers'}.txt", heatmap.report(cells, fancy=fancy))


def test_nothing_was_refused_in_a_run_that_fits(toy: Trace) -> None:
    assert refusal(toy) == ""
