"""Streams and events of the virtual GPU, as c10/cuda/CUDAStream.cpp and torch.cuda have them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
import torch

import memgraph
from memgraph.capture.session import VirtualGpu
from memgraph.errors import UsageError
from memgraph.trace import Action, Trace

MIB = 2**20


@pytest.fixture
def gpu() -> Iterator[VirtualGpu]:
    with memgraph.virtual_gpu("h100") as opened:
        yield opened
    opened.trace.self_check()


def mebibytes(count: int) -> torch.Tensor:
    return torch.empty(count * MIB, dtype=torch.uint8, device="cuda")


def active() -> int:
    return torch.cuda.memory_stats()["active_bytes.all.current"]


# Which stream is current.


@pytest.mark.usefixtures("gpu")
def test_the_current_stream_is_the_one_that_is_set() -> None:
    side, other = torch.cuda.Stream(), torch.cuda.Stream()
    default = torch.cuda.default_stream()
    assert torch.cuda.current_stream() == default and default.stream_id == 0 and side != other != default
    with torch.cuda.stream(side):
        assert torch.cuda.current_stream() == torch.accelerator.current_stream() == side
        with torch.cuda.stream(None), other:
            assert torch.cuda.current_stream() == other
        assert torch.cuda.current_stream() == side
    torch.cuda.set_stream(other)
    assert torch.cuda.current_stream() == other
    torch.accelerator.set_stream(side)
    assert torch.cuda.current_stream() == side
    assert isinstance(side, torch.cuda.Stream) and isinstance(side, torch.Stream)
    anywhere = torch.Stream("cuda")
    assert anywhere.device == torch.device("cuda", 0)  # the current one
    with anywhere:
        assert torch.accelerator.current_stream() == anywhere


@pytest.mark.usefixtures("gpu")
def test_each_thread_has_a_current_stream_of_its_own() -> None:
    side, seen = torch.cuda.Stream(), list[torch.cuda.Stream]()
    with torch.cuda.stream(side):
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_stream()))
        thread.start()
        thread.join()
    assert seen == [torch.cuda.default_stream()]


@pytest.mark.usefixtures("gpu")
def test_pools_of_32_streams_for_each_priority_go_round() -> None:
    streams = [torch.cuda.Stream() for _ in range(33)]
    high = [torch.cuda.Stream(priority=-1) for _ in range(2)]
    assert len(set(streams)) == 32 and streams[32] == streams[0]
    assert [stream.stream_id for stream in (*streams[:2], *high)] == [3, 35, 5, 37]  # index << 5 | priority << 1 | 1
    assert [stream.priority for stream in (*streams[:2], *high)] == [0, 0, -1, -1]
    assert torch.cuda.Stream(priority=-9).priority == -3  # the highest
    assert torch.Stream("cuda").stream_id == 1 << 5 | 3  # of the same pool
    with pytest.raises(RuntimeError, match="less than or equal to 0, got 1"):
        torch.cuda.Stream(priority=1)


@pytest.mark.usefixtures("gpu")
def test_a_stream_of_somebody_elses_is_known_by_its_pointer() -> None:
    stream = torch.cuda.ExternalStream(0x7F00)
    assert stream.cuda_stream == stream.stream_id == 0x7F00 and stream.priority == 0
    with torch.cuda.stream(stream):
        mebibytes(4)
    assert [segment["stream"] for segment in torch.cuda.memory_snapshot()] == [0x7F00]


def test_afterwards_all_is_as_before() -> None:
    names = ("Stream", "Event", "ExternalStream", "current_stream", "set_stream")
    before = [getattr(torch.cuda, name) for name in names]
    with memgraph.virtual_gpu("h100"):
        side = torch.cuda.Stream()
        torch.cuda.set_stream(side)
    assert [getattr(torch.cuda, name) for name in names] == before
    with pytest.raises(UsageError, match="closed"):
        side.synchronize()
    with memgraph.virtual_gpu("h100"):
        assert torch.cuda.current_stream().stream_id == 0 and torch.cuda.Stream().stream_id == 3


# What is allocated where.


def test_blocks_go_back_to_the_pool_of_their_stream(gpu: VirtualGpu) -> None:
    side = torch.cuda.Stream()
    first = mebibytes(16)
    del first
    with torch.cuda.stream(side):
        second = mebibytes(16)
    assert torch.cuda.memory_reserved() == 32 * MIB
    del second  # on the default stream, and yet the side stream's
    third = mebibytes(16)
    assert torch.cuda.memory_reserved() == 32 * MIB
    del third
    assert {segment["stream"] for segment in torch.cuda.memory_snapshot()} == {0, side.cuda_stream}
    assert [buffer.stream for buffer in gpu.trace.buffers] == [0, 1, 0]


def test_a_product_takes_a_workspace_on_each_stream(gpu: VirtualGpu) -> None:
    with torch.no_grad():
        a = torch.randn(64, 64, device="cuda")
        a @ a
        for _ in range(2):
            with torch.cuda.stream(torch.cuda.Stream()):
                a @ a
    workspaces = [buffer.stream for buffer in gpu.trace.buffers if buffer.size == 32 * MIB]
    assert workspaces == [0, 1, 2]


# Blocks that other streams used.


def test_a_block_that_another_stream_used_is_active_until_the_host_knows_that_it_is_done(gpu: VirtualGpu) -> None:
    side = torch.cuda.Stream()
    block = mebibytes(16)
    block.record_stream(side)
    del block
    assert (torch.cuda.memory_allocated(), active()) == (0, 16 * MIB)
    states = [b["state"] for segment in torch.cuda.memory_snapshot() for b in segment["blocks"]]
    assert states == ["active_pending_free"]
    other = mebibytes(16)  # nobody knows that the side stream is done
    assert (torch.cuda.memory_allocated(), active(), torch.cuda.memory_reserved()) == (16 * MIB, 32 * MIB, 32 * MIB)
    side.synchronize()
    assert active() == 32 * MIB  # it is asked at the next malloc
    third = mebibytes(16)
    assert (active(), torch.cuda.memory_reserved()) == (32 * MIB, 32 * MIB)
    del other, third
    stats = torch.cuda.memory_stats()
    assert stats["active_bytes.all.peak"] == stats["requested_bytes.all.peak"] == 32 * MIB
    assert (stats["allocated_bytes.all.peak"], stats["active_bytes.all.current"]) == (32 * MIB, 0)
    trace = gpu.trace
    assert trace.waits and [(event.action.name, event.buffer) for event in trace.events if event.buffer == 0] == [
        ("ALLOC", 0), ("FREE_REQUESTED", 0), ("FREE_COMPLETED", 0)
    ]  # fmt: skip
    assert trace.peak.active == 32 * MIB and trace.active[-1] == 0


@pytest.mark.usefixtures("gpu")
def test_its_own_stream_is_no_other() -> None:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        block = mebibytes(16)
    block.record_stream(side)
    del block
    assert active() == 0


@pytest.mark.usefixtures("gpu")
def test_a_tensor_that_holds_others_is_recorded_with_them() -> None:
    parts = [mebibytes(1), mebibytes(3)]
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged, device="cuda")
    del parts
    jagged.record_stream(torch.cuda.Stream())
    del jagged
    gc.collect()
    assert active() - torch.cuda.memory_allocated() >= 4 * MIB


@pytest.mark.usefixtures("gpu")
def test_sparse_tensors_are_recorded_with_their_parts() -> None:
    indices, values = torch.zeros(2, 3, dtype=torch.long, device="cuda"), torch.ones(3, device="cuda")
    sparse = torch.sparse_coo_tensor(indices, values, (4, 4))
    sparse.record_stream(torch.cuda.Stream())
    del sparse, indices, values
    assert active() - torch.cuda.memory_allocated() == 2 * 512  # indices and values


WAITS = {
    "stream": lambda side, _event: side.synchronize(),
    "event": lambda _side, event: event.synchronize(),
    "query": lambda _side, event: event.query(),
    "device": lambda _side, _event: torch.cuda.synchronize(),
    "another stream that waited": lambda side, _event: _through_another(side),
    "a value, on the stream": lambda side, _event: _read_on(side),
    "a copy to the host, on the stream": lambda side, _event: _copied_on(side),
    "torch.Event": lambda side, _event: _generic(side),
}


def _through_another(side: torch.cuda.Stream) -> None:
    torch.cuda.current_stream().wait_stream(side)
    torch.ones(1, device="cuda").item()


def _read_on(side: torch.cuda.Stream) -> None:
    with torch.cuda.stream(side):
        torch.ones(1, device="cuda").item()


def _copied_on(side: torch.cuda.Stream) -> None:
    with torch.cuda.stream(side):
        torch.ones(1, device="cuda").cpu()


def _generic(side: torch.cuda.Stream) -> None:
    event = torch.Event("cuda")
    event.record(side)
    event.synchronize()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("how", WAITS)
def test_the_host_learns_that_the_other_stream_is_done(how: str) -> None:
    side, event = torch.cuda.Stream(), torch.cuda.Event()
    block = mebibytes(16)
    block.record_stream(side)
    del block
    event.record(side)
    WAITS[how](side, event)
    mebibytes(1)
    assert active() == 0


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("how", ["an event before it", "another stream", "a copy that does not wait"])
def test_what_does_not_say_so(how: str) -> None:
    side, event, small = torch.cuda.Stream(), torch.cuda.Event(), torch.ones(1, device="cuda")
    event.record(side)
    block = mebibytes(16)
    block.record_stream(side)
    del block
    if how == "an event before it":
        event.synchronize()
    elif how == "another stream":
        small.item()
    else:
        with torch.cuda.stream(side):
            small.to("cpu", non_blocking=True)
    mebibytes(1)
    assert active() == 16 * MIB + 512


def test_emptying_the_cache_waits_for_all_streams(gpu: VirtualGpu) -> None:
    block = mebibytes(16)
    block.record_stream(torch.cuda.Stream())
    del block
    torch.cuda.empty_cache()
    assert (active(), torch.cuda.memory_reserved()) == (0, 0)
    assert [event.action for event in gpu.trace.events][-2:] == [Action.FREE_COMPLETED, Action.SEGMENT_FREE]


def test_a_training_loop_that_reads_ahead_on_a_side_stream() -> None:
    """Each batch of 1 MiB is made on a side stream and used on the default one; the host reads a loss once."""
    with memgraph.virtual_gpu("h100") as gpu:
        model = torch.nn.Linear(256, 1).cuda()
        optimizer, side = torch.optim.SGD(model.parameters()), torch.cuda.Stream()
        for step in range(4):
            with torch.cuda.stream(side):
                x = torch.ones(1024, 256, device="cuda")
            torch.cuda.current_stream().wait_stream(side)
            x.record_stream(torch.cuda.current_stream())
            loss = model(x).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 2:
                loss.item()
    trace = gpu.trace
    trace.self_check()
    batches = [index for index, buffer in enumerate(trace.buffers) if buffer.size == MIB and buffer.stream == 1]
    lives = [trace.lives[index] for index in batches]
    ends = [trace.phase_at(life.stop).step for life in lives]
    # The first two batches come back when the host has read the loss of the third step; that of the third was still
    # held by its name, and was freed after.
    assert len(batches) == 4 and ends[:2] == [4, 4] and [life.stop for life in lives[2:]] == [len(trace.events)] * 2


# Events.


def test_the_time_between_two_events_is_taken_for_granted() -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        end.record()
        assert start.elapsed_time(end) == 1.0
    assert len(gpu.trace.assumptions) == 1 and "taken to be 1 ms at" in gpu.trace.assumptions[0]


@pytest.mark.usefixtures("gpu")
def test_an_event_that_was_never_recorded_has_happened() -> None:
    event = torch.cuda.Event()
    event.wait()
    event.synchronize()
    torch.cuda.Stream().wait_event(event)
    assert event.query()


# Autograd.


def test_a_backward_runs_on_the_stream_of_its_forward() -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        side = torch.cuda.Stream()
        x = torch.zeros(4 * MIB, device="cuda", requires_grad=True)  # 16 MiB
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = x.exp()
        torch.cuda.current_stream().wait_stream(side)
        y.sin().sum().backward()
    trace = gpu.trace
    trace.self_check()
    assert _streams(trace, 16 * MIB) == [
        # what, on which stream
        ("zeros", 0), ("exp", 1), ("sin", 0),  # forward
        ("cos", 0), ("mul", 0),  # backward of sin, on the default stream
        ("mul", 1),  # of exp, on the side stream: the gradient of x
    ]  # fmt: skip
    # The gradient of y was made on the default stream and used on the side stream: autograd recorded that.
    waiting = [event.buffer for event in trace.events if event.action is Action.FREE_REQUESTED]
    assert [trace.ops[trace.buffers[buffer].op].name for buffer in waiting] == ["aten.mul.Tensor"]


def _streams(trace: Trace, size: int) -> list[tuple[str, int]]:
    return [(trace.ops[buffer.op].name.split(".")[1], buffer.stream) for buffer in trace.buffers if buffer.size == size]


def test_the_raw_stream_is_there_on_every_build() -> None:
    """bitsandbytes asks torch._C for it on import."""
    with memgraph.virtual_gpu("t4"):
        side = torch.cuda.Stream()
        assert torch._C._cuda_getCurrentRawStream(0) == 0
        with torch.cuda.stream(side):
            assert torch._C._cuda_getCurrentRawStream(0) == side.stream_id != 0
