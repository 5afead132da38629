"""Where `torch.distributed` belongs to a run: in a world from the start, else once the script makes a group."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, Protocol

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from memgraph.capture.operators import Kinds
from memgraph.capture.recorder import Recorder
from memgraph.errors import UsageError
from memgraph.virtual.patches import as_torch_is, put
from memgraph.world.calls import Calls
from memgraph.world.mail import Mail
from memgraph.world.place import Place, place

Enter = Callable[[contextlib.AbstractContextManager[Any]], Any]


class Joins(Protocol):
    """What of a run takes part in a world."""

    recorder: Recorder
    kinds: Kinds
    calls: Calls | None
    mail: Mail | None


def take_place(run: Joins, here: Place, enter: Enter) -> None:
    """The run is this rank from now on, until what `enter` was given is left."""
    from memgraph.world.joined import joined  # imports much of torch.distributed

    kernels, handlers, run.calls = enter(joined(here, run.recorder, run.recorder.sources.current, run.mail))
    run.kinds.kernels |= kernels
    run.kinds.complete |= kernels.keys()
    run.kinds.handlers |= handlers


def take_place_when_asked(run: Joins, enter: Enter, enter_later: Enter) -> None:
    """A script that makes a group of its one process, as many do that also run under `torchrun`, is a world of one.
    Until it does, nothing of torch.distributed is imported for it; NCCL is there all the while, as beside any card.

    Args:
        enter: what is entered at once, while the run opens.
        enter_later: what is entered while it goes on.
    """
    make = dist.init_process_group

    def make_group(*args: Any, **kwargs: Any) -> Any:
        if run.calls is None:
            _check_alone(kwargs)
            with as_torch_is():  # it scripts some of its code when it is imported
                import memgraph.world.joined  # noqa: F401
            take_place(run, place(1), enter_later)
        return make(*args, **kwargs)

    enter(put(c10d, "_NCCL_AVAILABLE", True))
    for owner in (dist, c10d):
        enter(put(owner, "init_process_group", make_group))


def _check_alone(asked: dict[str, Any]) -> None:
    world = asked.get("world_size", -1)
    world = int(os.environ.get("WORLD_SIZE", "1")) if world < 1 else world
    if world != 1:
        raise UsageError(f"the script makes a group of {world} ranks: add --world {world}, and --rank for another one")
