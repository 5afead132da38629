"""A virtual GPU takes its place in a world: everything in this room at once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
import torch.distributed.optim
import torch.distributed.tensor.parallel  # before the GPU opens: some of these script code on import
from torch import Tensor
from torch._ops import OpOverload

from memgraph.virtual.threads import Here
from memgraph.virtual.values.known import run_by
from memgraph.world.calls import Calls
from memgraph.world.checkpoints import checkpoints_are_of_this_rank
from memgraph.world.collectives import collectives, reductions_are_known
from memgraph.world.ddp import ddp_runs
from memgraph.world.fsdp import packing, shards_are_few
from memgraph.world.functional import functional, on_values
from memgraph.world.group import groups_are_made
from memgraph.world.mail import Mail
from memgraph.world.nccl import Ledger, Nccl, Stage, Storages, batches_are_one_work
from memgraph.world.objects import objects_are_pickled
from memgraph.world.place import Place, environment_of
from memgraph.world.untraced import nobody_traces, sharding_is_no_part
from memgraph.world.works import works_are_waited_for
from memgraph.world.zero import state_is_alike

Kernels = Mapping[OpOverload, Callable[..., Any]]


class Stated(Protocol):
    """What is needed of the recorder's."""

    def state(self, text: str) -> None:
        """Something is taken for granted."""


class Marks(Protocol):
    """What is needed of the recorder's."""

    def communicated(self, tensor: Tensor) -> None:
        """A collective reads or writes this tensor."""


class Recorder(Protocol):
    """What a world needs of the recorder."""

    @property
    def here(self) -> Here:
        """As `memgraph.world.untraced.Recording`."""

    @property
    def marks(self) -> Marks:
        """Where it is written what a storage is to the step."""

    def record_stream(self, tensor: Tensor, stream: torch.Stream) -> None:
        """As `Tensor.record_stream`."""

    @property
    def assumptions(self) -> Stated:
        """Where it is written what is taken for granted."""

    @property
    def ledger(self) -> Ledger:
        """As `memgraph.world.nccl.Recording`."""

    @property
    def storages(self) -> Storages:
        """The same."""

    @property
    def stage(self) -> Stage:
        """The same."""


@contextlib.contextmanager
def joined(
    here: Place, recorder: Recorder, where: Callable[[], str], mail: Mail | None = None
) -> Iterator[tuple[Kernels, Kernels, Calls]]:  # fmt: skip
    """While open, `torch.distributed` is that of this rank; afterwards it is as it was.

    Args:
        here: the rank.
        recorder: who writes the run down.
        where: the user's line that runs.
        mail: what takes small numbers to other ranks, if they can be reached.

    Returns:
        What fake tensors need for the functional collectives; the operators of c10d; and what is called.
    """
    calls, nccl = Calls(where, recorder.marks.communicated), Nccl(recorder)
    hook = sys.excepthook
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, sys, "excepthook", hook)
        stack.callback(nccl.over)
        stack.enter_context(environment_of(here))
        stack.enter_context(works_are_waited_for(recorder.assumptions.state, recorder.record_stream))
        stack.enter_context(sharding_is_no_part(recorder))
        stack.enter_context(nobody_traces())
        stack.enter_context(run_by(on_values()))
        stack.enter_context(reductions_are_known())
        stack.enter_context(objects_are_pickled(recorder.assumptions.state, where, mail))
        stack.enter_context(state_is_alike(recorder.assumptions.state))
        stack.enter_context(ddp_runs())
        stack.enter_context(shards_are_few())
        stack.enter_context(checkpoints_are_of_this_rank())
        stack.enter_context(batches_are_one_work(nccl))
        stack.enter_context(groups_are_made(here))
        yield functional(calls, nccl), {**collectives(recorder, calls, nccl, mail), **packing(recorder)}, calls
