"""The properties of this folder for as long as wished, over several processes; what came of them, counted.

    python -m tests.fuzz.many nets=2000 files=20000 lines=5000 signals=500 [--first SEED] [--processes N]
                               [--seconds S]

Seeds count up from the first. What fails is printed with its seed, with which it is tried again:

    python -m tests.fuzz.many nets=1 --first SEED
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memgraph
from memgraph.children import end_with
from memgraph.temporary import temporary_folder
from memgraph.trace import Trace
from tests import DATA

Check = Callable[[int], str]
_AT_ONCE = 10
"""Seeds that a process takes at once."""


def _folder() -> Path:
    """One of this process, with the toy trace in it."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["MEMGRAPH_FUZZ_FOLDER"]))
    _toy().save(folder / "toy.memgraph")
    os.chdir(folder)
    return folder


def _toy() -> Trace:
    return memgraph.load(DATA / "schema_1.memgraph")


def _nets() -> Check:
    from tests.fuzz.test_nets import check

    return check


def _files() -> Check:
    from tests.fuzz.originals import originals
    from tests.fuzz.test_readers import check

    return functools.partial(check, kinds=originals(_toy()), path=_folder() / "damaged")


def _lines() -> Check:
    from tests.fuzz.test_command_lines import check, stub

    stub(pytest.MonkeyPatch())
    folder = _folder()
    (folder / "link").symlink_to("nowhere")
    return functools.partial(check, saved=folder / "toy.memgraph")


def _signals() -> Check:
    from tests.fuzz.test_signals import check, prepare

    folder = _folder()
    prepare(folder)
    return functools.partial(check, folder=folder)


KINDS: dict[str, Callable[[], Check]] = {"nets": _nets, "files": _files, "lines": _lines, "signals": _signals}


@functools.cache
def _check(kind: str) -> Check:
    return KINDS[kind]()


def outcome(job: tuple[str, int]) -> str:
    """Of one example, in a word; of one that fails with where it did."""
    kind, seed = job
    try:
        return _check(kind)(seed)
    except BaseException:  # what a command raised is its outcome; who wants to end this process kills it
        return f"FAILED seed {seed}\n{traceback.format_exc()[-3000:]}"


def counted(kind: str, count: int, first: int, processes: int, seconds: float) -> Iterator[str]:
    """What came of `count` examples, or of those that were done in time: each failure, and the counts."""
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with multiprocessing.get_context("spawn").Pool(processes, end_with, (os.getpid(),)) as pool:
        for said in pool.imap_unordered(outcome, [(kind, first + number) for number in range(count)], _AT_ONCE):
            if said.startswith("FAILED"):
                yield f"{kind}: {said}"
            outcomes[said.partition(" seed")[0]] += 1
            if time.monotonic() > end:
                break
    yield f"{kind}: {outcomes.total()} of {count} from seed {first}: " + ", ".join(
        f"{n} {said}" for said, n in outcomes.most_common()
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("counts", nargs="+", metavar="KIND=COUNT", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--first", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each kind")
    told = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = False
    with temporary_folder("memgraph-fuzz-") as folder:
        os.environ["MEMGRAPH_FUZZ_FOLDER"] = str(folder)
        for word in told.counts:
            kind, _, count = word.partition("=")
            for said in counted(kind, int(count), told.first, told.processes, told.seconds):
                print(said, flush=True)
                failed |= "FAILED" in said
    sys.exit(failed)


if __name__ == "__main__":
    main()
