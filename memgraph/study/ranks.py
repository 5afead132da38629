"""A script as several ranks of a world: a process for each; they share a folder for their messages and results."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from memgraph.capture.ended import Ended
from memgraph.errors import MemgraphError, UsageError
from memgraph.temporary import temporary_folder
from memgraph.trace import Trace
from memgraph.trace.trace_file import load
from memgraph.world.mail import Mail, runs
from memgraph.world.place import Place, place

_PAUSE = 0.05
Call = tuple[str, tuple[int, ...], str]
"""A collective's name, the ranks that it is for, and the line that calls it."""
Message = tuple[str, int | None, str]
"""Its name, the rank at the other end, None for any, and the line."""


class Script(NamedTuple):
    """What each rank runs, as `memgraph.api.run_script` has it."""

    script: str
    arguments: Sequence[str]
    module: bool
    gpu: str
    memory: int | None
    alloc_conf: str | None
    steps: int | None
    fraction: float
    torch: str | None = None
    changes: Sequence[str] = ()
    """By the names of `memgraph.capture.script_changes`."""
    world: int = 1
    per_node: int = 1
    plan: str | None = None
    """The text of a plan: what of its model is computed again."""
    goes_on: bool = False
    """Whether it goes on where the card is full."""

    def place(self, rank: int) -> Place:
        """That of one of its ranks."""
        return place(self.world, rank, self.per_node)


class Ran(NamedTuple):
    """What came of one rank."""

    rank: int
    trace: Trace
    ended: Ended
    peers: tuple[int, ...]
    """The ranks that it sends messages to, or has them from."""
    calls: tuple[Call, ...]
    """Collectives of whole groups, in order."""
    messages: tuple[Message, ...] = ()


@contextlib.contextmanager
def mail_of(script: Script, rank: int) -> Iterator[Mail]:
    """The mail of a rank that runs in this process. Ranks that it needs are started, and ended when it is done."""
    with temporary_folder() as folder:
        _note(script, folder)
        mail = Mail(rank, folder, start)
        mail.announce()
        try:
            with _lifeline(folder):
                yield mail
        finally:
            _end(folder, but=rank)


def run_ranks(script: Script, wanted: Iterable[int] | None) -> tuple[Ran, ...]:
    """Run a script as these ranks, or as those that may differ.

    Args:
        wanted: the ranks; None for the first, the last, whose shards are the smallest, and those that they exchange
            messages with.

    Raises:
        MemgraphError: a rank failed, or two call collectives that do not meet.
    """
    with temporary_folder() as folder:
        _note(script, folder)
        try:
            with _lifeline(folder):
                if wanted is not None:
                    found = _run(folder, sorted(wanted))
                else:
                    found = _run_as_they_write(folder, {0, script.world - 1})
        finally:
            _end(folder)
    check_that_they_meet(found)
    return tuple(found)


@contextlib.contextmanager
def _lifeline(folder: Path) -> Iterator[None]:
    """A pipe into which nobody writes. Ranks hand its end on to the ranks that they start, by its number, and when the
    process that began it all is no more, however it ended, they read that it is over."""
    reads, writes = os.pipe()
    (folder / "lifeline").write_text(str(reads))
    try:
        yield
    finally:
        os.close(writes)
        os.close(reads)


def start(rank: int, folder: Path) -> int:
    """Start the process of a rank; its id. What it prints goes to a file, but for the first rank's."""
    out = None if rank == 0 and (folder / "loud").exists() else (folder / f"out-{rank}").open("wb")
    lifeline = (folder / "lifeline").read_text()
    return subprocess.Popen(
        [sys.executable, "-m", "memgraph.study.rank", str(folder), str(rank), lifeline],
        stdout=out, stderr=subprocess.STDOUT if out else None, pass_fds=(int(lifeline),),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # interrupts are for who began it all
    ).pid  # fmt: skip


def check_that_they_meet(ran: Sequence[Ran]) -> None:
    """That ranks call the same collectives on the groups that they share, in the same order, and that each message has
    two ends.

    Raises:
        MemgraphError: naming the first at which one waits for another that never comes.
    """
    for one, other in ((a, b) for a in ran for b in ran if a.rank < b.rank):
        shared = {group for _, group, _ in (*one.calls, *other.calls) if {one.rank, other.rank} <= set(group)}
        for group in sorted(shared):
            mine, theirs = ([call for call in side.calls if call[1] == group] for side in (one, other))
            _meet(one.rank, mine, other.rank, theirs)
        _are_taken(one, other)
        _are_taken(other, one)


def _are_taken(one: Ran, other: Ran) -> None:
    """Raises MemgraphError where one sends what the other does not receive, or receives what it does not send."""
    sent = [line for name, peer, line in one.messages if peer == other.rank and name == "send"]
    taken = [line for name, peer, line in other.messages if peer == one.rank and name != "send"]
    if any(name == "recv_any_source_" for name, _, _ in other.messages):
        return  # whose message that was is not known
    for rank, name, waiting, peer, does in (
        (one.rank, "send", sent[len(taken) :], other.rank, "receives"),
        (other.rank, "recv", taken[len(sent) :], one.rank, "sends"),
    ):
        if waiting:
            raise MemgraphError(
                f"rank {rank} waits in {name} at {waiting[0]}, and rank {peer} never {does} that: a real run would hang"
            )


def _meet(rank: int, mine: Sequence[Call], other: int, theirs: Sequence[Call]) -> None:
    """Raises MemgraphError where the two calls of one number are not of one name, or one is missing."""
    for here, there in itertools.zip_longest(mine, theirs):
        if here is None:
            here, there, rank, other = there, here, other, rank
        if there is None or there[0] != here[0]:
            does = "never calls it" if there is None else f"calls {there[0].rstrip('_')} at {there[2]}"
            raise MemgraphError(
                f"rank {rank} waits in {here[0].rstrip('_')} at {here[2]}, and rank {other} {does}: "
                "a real run would hang"
            )


def alike(ran: Sequence[Ran]) -> tuple[tuple[Ran, ...], ...]:
    """The ranks whose runs are the same, event by event, together."""
    groups: dict[object, list[Ran]] = {}
    for one in ran:
        sizes = tuple(buffer.size for buffer in one.trace.buffers)
        groups.setdefault((one.trace.events, sizes), []).append(one)
    return tuple(tuple(group) for group in groups.values())


def _note(script: Script, folder: Path) -> None:
    (folder / "script.json").write_text(json.dumps(script._asdict()), encoding="utf-8")


def noted(folder: Path) -> Script:
    """The script that the ranks of a folder run."""
    return Script(**json.loads((folder / "script.json").read_text(encoding="utf-8")))


def _run(folder: Path, ranks: Sequence[int]) -> list[Ran]:
    """As many at once as there are processors; one that others wait for is started by them."""
    (folder / "loud").touch()
    parent = Mail(-1, folder, start)
    waiting = list(ranks)
    while waiting or any(runs(folder, rank) for rank in ranks):
        busy = sum(runs(folder, rank) for rank in ranks)
        if waiting and busy < (os.cpu_count() or 1):
            parent.see_to(waiting.pop(0))
        else:
            time.sleep(_PAUSE)
        _reap()
    return [_result(folder, rank) for rank in ranks]


def _run_as_they_write(folder: Path, wanted: set[int]) -> list[Ran]:
    """These ranks, those that they exchange messages with, and so on."""
    found: list[Ran] = []
    while wanted:
        found += _run(folder, sorted(wanted))
        wanted = {peer for ran in found for peer in ran.peers} - {ran.rank for ran in found}
    return sorted(found, key=lambda ran: ran.rank)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _result(folder: Path, rank: int) -> Ran:
    try:
        told = json.loads((folder / f"result-{rank}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MemgraphError(f"rank {rank} ended without a result: {_last_line(folder, rank)}") from None
    if told["error"]:
        sys.stderr.write(told["traceback"])
        raise MemgraphError(f"rank {rank}: {told['error']}")
    calls = tuple((name, tuple(ranks), line) for name, ranks, line in told["calls"])
    trace = load(folder / f"rank-{rank}.memgraph")
    messages = tuple((name, peer, line) for name, peer, line in told["messages"])
    return Ran(rank, trace, Ended(told["code"], told["message"]), tuple(told["peers"]), calls, messages)


def _last_line(folder: Path, rank: int) -> str:
    try:
        lines = (folder / f"out-{rank}").read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _end(folder: Path, but: int = -1) -> None:
    """End what still runs of a folder's ranks, by their ids."""
    for path in folder.glob("runs-*"):
        rank = int(path.name.partition("-")[2])
        if rank != but and runs(folder, rank) and (process := path.read_text()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGTERM)
    _reap()


def parse_ranks(text: str, world: int) -> tuple[int, ...] | None:
    """`all`, `distinct` or `0,3,7`; None for those that may differ.

    Raises:
        UsageError: it is none of these, or there is no such rank.
    """
    if text == "distinct":
        return None
    if text == "all":
        return tuple(range(world))
    try:
        ranks = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UsageError(f"--ranks {text}: write all, distinct, or numbers like 0,3") from None
    for rank in ranks:
        place(world, rank)
    return ranks
