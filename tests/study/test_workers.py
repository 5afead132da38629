"""Runs traced in processes of their own are the runs traced here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap

import pytest

from memgraph.errors import MemgraphError
from memgraph.options import Options
from memgraph.study.workers import Workers, traced

SMALL = {"lm_n_blocks": "1", "vit_n_blocks": "1"}
TINY = Options(batch=1, seq=64, set=SMALL, steps=1)

ASIDE = """
import contextlib
from memgraph.options import Options
from memgraph.study.workers import Workers, traced
options = Options(batch=1, seq=64, set={"lm_n_blocks": "1", "vit_n_blocks": "1"}, steps=1)
with contextlib.closing(Workers(2)) as workers:
    workers.ask("a", options)
    aside, calls = workers.take("a", options)
here, again = traced(options)
print((aside.ops, aside.buffers, aside.peak) == (here.ops, here.buffers, here.peak))
print(calls == again, len(aside.buffers) > 100, workers.count)
"""
"""Autocast's weight copies are freed in the order of a hash table of addresses: that may differ from run to run."""


def test_a_run_elsewhere_is_the_run_here() -> None:
    """In a process of its own, for this one has run backwards already."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ASIDE)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["True", "True", "True", "2"]


def test_after_a_backward_here_it_runs_here() -> None:
    """Autograd's threads do not survive a fork; nobody notices."""
    here, _ = traced(TINY)
    with contextlib.closing(Workers(2)) as workers:
        workers.ask("a", TINY)
        aside, _ = workers.take("a", TINY)
    assert (aside.ops, aside.buffers, aside.peak) == (here.ops, here.buffers, here.peak)


def test_an_error_elsewhere_is_the_error_here() -> None:
    wrong = Options(batch=1, seq=10, set=SMALL)
    with contextlib.closing(Workers(2)) as workers:
        workers.ask("a", wrong)
        with pytest.raises(MemgraphError, match="seq 10 has no room"):
            workers.take("a", wrong)


def test_without_workers_nothing_is_forked() -> None:
    workers = Workers(1)
    workers.ask("a", TINY)
    assert workers._pool is None


AFTER_ADDITIONS = """
import contextlib, torch
from memgraph.options import Options
from memgraph.study.workers import Workers
torch.set_num_threads(2)
for _ in range(50):
    torch.ones(1 << 20).add(1)  # large enough for OpenMP's threads
with contextlib.closing(Workers(2)) as workers:
    workers.ask("a", Options(batch=1, seq=1024, set={"lm_n_blocks": "1", "vit_n_blocks": "1"}, steps=1))
    trace, _ = workers._asked.pop("a").result(timeout=90)
print(len(trace.buffers) > 100)
"""


def test_ops_that_used_many_threads_here_do_not_hang_a_worker() -> None:
    """Threads of OpenMP do not survive a fork."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AFTER_ADDITIONS)], capture_output=True, text=True, check=False,
        timeout=120, env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.stdout.split() == ["True"], done.stderr[-500:]
