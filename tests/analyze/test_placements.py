"""Reserved bytes over placements of the segments: they differ where the lowest address decides a tie."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import memgraph
from memgraph.analyze.placements import reserved_interval
from memgraph.capture.session import torch_version
from memgraph.errors import UsageError
from memgraph.render import table
from memgraph.trace import Trace

MIB = 2**20


def two_equal_blocks(release: str) -> Trace:
    """Two cached segments of 40 MiB; the one that a request of 30 MiB cuts decides whether 40 MiB find room again
    beside what else is alive. Both are equally good, so addresses decide; the result is the same either way."""
    with memgraph.virtual_gpu("h200", torch=release) as gpu:
        first, second = (torch.empty(40 * MIB, dtype=torch.uint8, device="cuda") for _ in range(2))
        del first, second
        kept = torch.empty(30 * MIB, dtype=torch.uint8, device="cuda")
        again = torch.empty(40 * MIB, dtype=torch.uint8, device="cuda")
        del kept, again
    return gpu.trace


def tied(release: str, *, used_elsewhere: bool = False) -> Trace:
    """Segments A of 22 MiB and B of 24 are each cut in two. Their freed fronts of 12 MiB are equal; which of them the
    next request takes decides whether A can become whole again for the last one.

    Args:
        used_elsewhere: 2 MiB come before, a small segment, that another stream used, and then 2 MiB more.
    """
    with memgraph.virtual_gpu("h200", torch=release) as gpu:
        new = lambda mib: torch.empty(int(mib * MIB), dtype=torch.uint8, device="cuda")  # noqa: E731
        if used_elsewhere:
            first = [new(1), new(1)]
            side = torch.cuda.Stream()
            first[0].record_stream(side), first[1].record_stream(side)
            del first
            second = [new(1), new(1)]
            torch.cuda.synchronize()
        a, b = new(22), new(24)
        del a, b
        front_a, back_a = new(12), new(10)
        front_b, back_b = new(12), new(12)
        del front_a, front_b
        taken = new(12)  # a tie: the front of A or of B
        del back_a  # if the front of A is free, A is whole
        whole = new(22)
        del taken, back_b, whole
        if used_elsewhere:
            del second
    return gpu.trace


def test_where_addresses_decide_there_is_an_interval() -> None:
    """46 MiB if the tie left A whole, 22 more if it did not."""
    found = reserved_interval(tied("2.11"))
    assert found == (46 * MIB, 68 * MIB)


def test_addresses_and_streams_are_one_interval() -> None:
    """The 2 MiB come back in time or not: 2 or 4 beside the 46 or 68."""
    trace = tied("2.11", used_elsewhere=True)
    assert reserved_interval(trace) == (48 * MIB, 72 * MIB)
    assert "depending on where the driver puts segments and when blocks come back" in " ".join(
        table.report(trace, 5).split()
    )


def test_where_they_do_not_there_is_none() -> None:
    assert reserved_interval(two_equal_blocks("2.11")) is None
    assert reserved_interval(tied("2.13")) is None
    assert reserved_interval(dataclasses.replace(tied("2.11"), origin="measured")) is None


def test_the_release_is_said() -> None:
    major, minor = torch_version()
    own = tied(f"{major}.{minor}")
    other = tied("2.11") if (major, minor) != (2, 11) else tied("2.12")
    assert own.torch == torch.__version__
    assert not [text for text in own.assumptions if "installed" in text]
    assert other.torch in ("2.11", "2.12")
    assert [text for text in other.assumptions if torch.__version__ in text]


@pytest.mark.parametrize("release", ["1.13", "2.10", "3.0", "two", "", "2", "2.11x", "2.11" * 40])
def test_a_release_that_is_not_known(release: str) -> None:
    with pytest.raises(UsageError, match=r"give a release from 2\.11 to 2\.15"):
        memgraph.virtual_gpu("h200", torch=release)
