"""The allocator against ranks of a real world: every block where PyTorch put it, every figure to the byte."""

from __future__ import annotations

import pytest

from benchmarks.recordings.packed import as_columns, pack, unpack
from memgraph.analyze.served import placed, served, through
from memgraph.analyze.streams import reserved_by_stream
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.segments import RecordedAddresses
from memgraph.trace import Action
from tests.gpu.allocator.recorded_ranks import KINDS, MIB, RANKS, recorded


@pytest.mark.parametrize("rank", RANKS)
def test_every_block_is_where_pytorch_put_it(rank: str) -> None:
    trace, told = recorded(rank)
    trace.self_check()
    segments = [event.address for event in trace.events if event.action is Action.SEGMENT_ALLOC]
    allocator = Allocator(2**62, addresses=RecordedAddresses(segments), torch=(2, 11))
    assert through(allocator, trace) == len(trace.buffers)
    assert {kind: getattr(allocator, f"peak_{kind}") for kind in KINDS} == told


def test_what_check_says_of_them() -> None:
    trace, told = recorded("fsdp2")
    where = placed(trace)
    assert where is not None and (where.same, where.blocks) == (2586, 2586)
    assert tuple(served(trace)) == (told["requested"], told["allocated"], told["reserved"])


def test_segments_by_stream() -> None:
    trace, told = recorded("fsdp2")
    held = reserved_by_stream(trace)
    # FSDP2's copies in for the all-gather (470), its reduce-scatter's results (988), the rest on the default stream
    assert {stream: size // MIB for stream, size in held.items()} == {0: 7618, 1: 470, 2: 988}
    assert sum(held.values()) == trace.peak.reserved == told["reserved"]
    assert not trace.waits  # FSDP2 holds references, and records no stream


def test_blocks_that_a_send_still_reads_are_active_and_not_allocated() -> None:
    trace, told = recorded("pipeline")
    assert trace.waits and told["active"] - told["allocated"] == 16 * MIB  # two microbatches' outputs of 8 MiB
    assert trace.peak.requested == told["requested"] > told["allocated"]


def test_a_recording_on_one_stream_less_would_be_wrong() -> None:
    """The model told of one stream alone reserves less than was reserved."""
    trace, told = recorded("fsdp2")
    one = [buffer._replace(stream=0) for buffer in trace.buffers]
    alone = Allocator(2**62, torch=(2, 11))
    through(alone, type(trace)(**{**vars_of(trace), "buffers": tuple(one)}))
    assert alone.peak_reserved < told["reserved"]


def vars_of(trace: object) -> dict[str, object]:
    """Its fields."""
    return {name: getattr(trace, name) for name in trace.__dataclass_fields__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("rank", RANKS)
def test_a_rank_is_packed_with_its_streams(rank: str) -> None:
    trace, told = recorded(rank)
    back = unpack(pack(as_columns(trace)))
    assert [list(column) for column in back.events.columns[:4]] == [list(column) for column in trace.events.columns[:4]]
    assert [buffer[:2] + (buffer.stream,) for buffer in back.buffers] == [
        (buffer.size, -1, buffer.stream) for buffer in trace.buffers
    ]
    # blocks as they were, not requests rounded up
    assert (*back.peak[:2], back.peak.active, back.peak.reserved) == tuple(told.values())
