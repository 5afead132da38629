"""`torch.multiprocessing.spawn`, by which a script starts a process for each GPU: the one of this rank runs here."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch.multiprocessing

from memgraph.virtual.patches import replaced


@contextlib.contextmanager
def one_of_the_spawned_is_here(state: Callable[[str], None]) -> Iterator[None]:
    """While open, `fn(local_rank, *args)` is called where processes would be started, and no others are there.

    A process of its own would know nothing of the virtual GPU. Those that nobody waits for are started as ever.

    Args:
        state: writes down what is taken for granted.
    """
    module = importlib.import_module("torch.multiprocessing.spawn")  # in the package it is hidden by the function
    start = module.start_processes

    def run_one(
        fn: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True,
        daemon: bool = False, start_method: str = "spawn",
    ) -> Any:  # fmt: skip
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        if not join or rank >= nprocs:
            return start(fn, args, nprocs, join, daemon, start_method)
        if nprocs > 1:
            state(f"of {nprocs} processes that the script starts number {rank} is run, and in this process")
        _to_its_end(fn, rank, args)
        return None

    with replaced(module, "start_processes", run_one), replaced(torch.multiprocessing, "start_processes", run_one):
        yield


def _to_its_end(fn: Callable[..., Any], rank: int, args: tuple[Any, ...]) -> None:
    """A process that exits with 0 ends alone, not who waits for it."""
    try:
        fn(rank, *args)
    except SystemExit as exit_:
        if exit_.code:
            raise
