"""What ProcessGroupNCCL keeps, and on which streams it uses it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

import memgraph
from memgraph.analyze.served import lately
from memgraph.analyze.streams import bounds
from memgraph.trace import Action, Trace
from memgraph.world.fsdp import Chunks

MIB = 2**20


def ran(go: object) -> Trace:
    with memgraph.virtual_gpu("h100", world=2, rank=0) as gpu:
        dist.init_process_group("nccl")
        go()  # type: ignore[operator]
    gpu.trace.self_check()
    return gpu.trace


def block() -> Tensor:
    return torch.zeros(MIB // 4, device="cuda")


def ends(trace: Trace) -> list[Action]:
    """Of the blocks of 1 MiB, in order."""
    return [event.action for event in trace.events if event.action in (Action.FREE, Action.FREE_REQUESTED)
            and trace.buffers[event.buffer].size == MIB]  # fmt: skip


def test_a_message_is_used_on_a_stream_of_its_own() -> None:
    """`pointToPoint` records it, so it is active until that stream is done; a collective's tensors are not recorded."""
    assert ends(ran(lambda: dist.send(block(), 1))) == [Action.FREE_REQUESTED]
    assert ends(ran(lambda: dist.all_reduce(block()))) == [Action.FREE]


def test_a_batch_of_messages_is_one_work() -> None:
    """As NCCL does; waiting for it tells the current stream, and the host knows once that is done."""

    def go() -> None:
        works = dist.batch_isend_irecv([dist.P2POp(dist.isend, block(), 1), dist.P2POp(dist.irecv, block(), 1)])
        assert len(works) == 1
        works[0].wait()
        torch.cuda.synchronize()
        block()

    done = [event.action for event in ran(go).events if event.action is Action.FREE_COMPLETED]
    assert len(done) == 2


def test_a_work_that_is_waited_for_lets_go() -> None:
    def go() -> None:
        work = dist.all_reduce(block(), async_op=True)
        assert torch.cuda.memory_allocated() == MIB
        work.wait()
        del work  # which has its result
        assert torch.cuda.memory_allocated() == 0

    assert ran(go).late == ()


def test_a_work_that_nobody_waits_for_may_keep_its_tensors_until_the_next() -> None:
    def go() -> None:
        dist.all_reduce(block(), async_op=True)
        torch.zeros(1, device="cuda")
        dist.barrier()

    trace = ran(go)
    ((buffer, late),) = trace.late
    assert trace.buffers[buffer].size == MIB
    assert late - trace.lives[buffer].stop >= 2  # the one number lives and dies before the barrier
    assert lately(trace).requested > trace.peak.requested == MIB


def test_works_that_nobody_waits_for_may_keep_their_tensors_through_a_step() -> None:
    """Two collectives of one backward, and the one that comes after the optimizer's step: a watchdog that looks every
    100 ms has not looked between the two."""

    def go() -> None:
        weight = torch.nn.Parameter(torch.zeros(8, device="cuda"))
        optimizer = torch.optim.SGD([weight])
        weight.register_hook(lambda _: (dist.all_reduce(block(), async_op=True), None)[1])
        for _ in range(2):
            (weight.sum() + weight.sum()).backward()
            dist.all_reduce(block(), async_op=True)
            optimizer.step()

    trace = ran(go)
    backwards = [phase for phase in trace.phases if phase.name == "backward"]
    ends = [at for _, at in trace.late]
    assert all(backwards[1].start < at < backwards[1].stop for at in ends[:2])
    assert ends[2:] == [len(trace.events)] * 2


def test_what_is_chained_to_a_work_runs_on_a_stream_of_its_own() -> None:
    """A callback of NCCL's future has another stream of the pool each time, where a product takes 32 MiB for cuBLAS;
    one of a future that Python made runs where it is."""
    streams = []

    def multiply(done: torch.futures.Future[object]) -> Tensor:
        streams.append(torch.cuda.current_stream().stream_id)
        matrix: Tensor = done.value()[0]  # type: ignore[index]
        return matrix @ matrix

    def go() -> None:
        for _ in range(2):
            matrix = torch.zeros(64, 64, device="cuda")
            work = dist.all_reduce(matrix, async_op=True)
            assert work is not None
            work.get_future().then(multiply).wait()
        made: torch.futures.Future[list[Tensor]] = torch.futures.Future()
        made.then(multiply)
        made.set_result([torch.zeros(64, 64, device="cuda")])

    trace = ran(go)
    first, second, third = streams
    assert len({first, second}) == 2 and third == 0
    assert sum(buffer.size == 32 * MIB for buffer in trace.buffers) == 3
    assert {bound.kind for bound in bounds(trace)} <= {"requested", "allocated", "active", "reserved"}


def test_shards_are_those_of_chunk() -> None:
    for size, count in ((10, 4), (3, 8), (8, 8), (7, 1), (9, 4)):
        whole = torch.arange(size * 2).reshape(size, 2)
        usual = [*torch.chunk(whole, count), *[whole.new_empty(0)] * count][:count]
        assert [part.tolist() for part in Chunks(whole, count, 0)] == [part.tolist() for part in usual]
        assert [part.shape for part in Chunks(whole, count, 0)[1:]] == [part.shape for part in usual[1:]]
