"""A script as several ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from memgraph.capture.ended import Ended
from memgraph.errors import MemgraphError, UsageError
from memgraph.study.ranks import Call, Message, Ran, Script, alike, check_that_they_meet, parse_ranks, run_ranks
from memgraph.trace import Trace

PIPELINE = """
import os, torch, torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
device = torch.device("cuda", torch.cuda.current_device())
part = torch.nn.Linear(256, 256 if rank else 512).to(device) if rank == 0 else torch.nn.Linear(512, 256).to(device)
stage = PipelineStage(part, rank, size, device)
schedule = ScheduleGPipe(stage, 2, loss_fn=lambda out, target: (out - target).square().mean())
x = torch.zeros(8, 256, device=device)
schedule.step(*((x,) if rank == 0 else ()), **({"target": x} if rank == size - 1 else {}))
"""


def ran(toy: Trace, rank: int, *calls: Call) -> Ran:
    return Ran(rank, toy, Ended(0), (), calls)


def test_stages_tell_each_other_their_shapes(tmp_path: Path) -> None:
    """Rank 1 does not say what it is given: 8 rows in 2 microbatches, of 512 numbers of 4 bytes, come from rank 0."""
    script = tmp_path / "pipeline.py"
    script.write_text(PIPELINE)
    found = run_ranks(Script(str(script), (), False, "h100", None, None, None, 1.0, world=2, per_node=2), None)
    assert [one.rank for one in found] == [0, 1]
    assert [one.peers for one in found] == [(1,), (0,)]
    received = [buffer for buffer in found[1].trace.buffers if buffer.shape == (4, 512)]
    assert {buffer.size for buffer in received} == {4 * 512 * 4}
    assert len(alike(found)) == 2


def test_a_failure_on_one_rank_is_a_line(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("import os\nassert os.environ['RANK'] != '1', 'no'\n")
    with pytest.raises(MemgraphError, match="rank 1: the script failed: AssertionError: no"):
        run_ranks(Script(str(script), (), False, "h100", None, None, None, 1.0, world=2, per_node=2), [0, 1])


BOTH = (0, 1)


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        ([("barrier", BOTH, "a.py:1")], [], "rank 0 waits in barrier at a.py:1, and rank 1 never calls it"),
        (
            [("allreduce_", BOTH, "a.py:1")],
            [("allreduce_", BOTH, "a.py:1"), ("barrier", BOTH, "a.py:2")],
            "rank 1 waits in barrier at a.py:2, and rank 0 never calls it",
        ),
        (
            [("barrier", BOTH, "a.py:1")],
            [("allreduce_", BOTH, "a.py:2")],
            "rank 0 waits in barrier at a.py:1, and rank 1 calls allreduce at a.py:2",
        ),
    ],
)
def test_collectives_that_do_not_meet(toy: Trace, mine: list[Call], theirs: list[Call], message: str) -> None:
    with pytest.raises(MemgraphError, match=message):
        check_that_they_meet([ran(toy, 0, *mine), ran(toy, 1, *theirs)])


def test_those_of_other_groups_need_not_meet(toy: Trace) -> None:
    both = ("barrier", BOTH, "a.py:1")
    check_that_they_meet([ran(toy, 0, ("allreduce_", (0, 2), "a.py:3"), both), ran(toy, 1, both)])


def test_each_message_has_two_ends(toy: Trace) -> None:
    """The second of three messages is never received, or is waited for and never sent; who takes any is not asked."""
    sent, taken = ("send", 1, "a.py:5"), ("recv_", 0, "b.py:7")

    def check(mine: list[Message], theirs: list[Message]) -> None:
        check_that_they_meet([ran(toy, 0)._replace(messages=tuple(mine)), ran(toy, 1)._replace(messages=tuple(theirs))])

    check([sent, sent], [taken, taken])
    check([sent, sent], [("recv_any_source_", None, "b.py:7")])
    with pytest.raises(MemgraphError, match=r"rank 0 waits in send at a\.py:5, and rank 1 never receives that"):
        check([sent, sent], [taken])
    with pytest.raises(MemgraphError, match=r"rank 1 waits in recv at b\.py:7, and rank 0 never sends that"):
        check([sent], [taken, taken])


def test_equal_runs_are_alike(toy: Trace) -> None:
    assert [[one.rank for one in group] for group in alike([ran(toy, 0), ran(toy, 3)])] == [[0, 3]]


def test_which_ranks() -> None:
    assert parse_ranks("all", 4) == (0, 1, 2, 3)
    assert parse_ranks("3,0,3", 4) == (0, 3)
    assert parse_ranks("distinct", 4) is None
    for text in ("some", "0,9"):
        with pytest.raises(UsageError):
            parse_ranks(text, 4)
