"""Distributed checkpoints of one rank: torch plans them with all ranks, of which only this one is here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor
from torch.cuda import _pin_memory_utils
from torch.distributed.checkpoint import _state_dict_stager, default_planner, filesystem, utils

from memgraph.virtual.patches import replaced


@contextlib.contextmanager
def checkpoints_are_of_this_rank() -> Iterator[None]:
    """While open, what is saved and loaded is this rank's part, planned as if there were no other: its shards are what
    it would write. torch checks that all shards of a tensor are there (`_validate_global_plan`), which they are not.
    Each rank but the first has a folder of its own in the one that is named, for others may write there too."""
    original, validate = utils._DistWrapper.__init__, default_planner._validate_global_plan

    def alone(self: Any, group: Any, use_dist: bool, coordinator_rank: int) -> None:
        original(self, group, False, coordinator_rank)
        self.is_coordinator = True

    def valid(*args: Any) -> Any:  # torch 2.13 lists what is wrong, earlier ones say whether all is well
        return [] if isinstance(validate(*args), list) else True

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(utils._DistWrapper, "__init__", alone))
        stack.enter_context(replaced(default_planner, "_validate_global_plan", valid))
        stack.enter_context(_before(filesystem._FileSystemWriter, "prepare_local_plan", _into_its_own))
        for name in ("pin_memory", "unpin_memory"):  # the latter may be called when no device is left
            stack.enter_context(replaced(_pin_memory_utils, name, _nothing))
        stack.enter_context(_before(_state_dict_stager.StateDictStager, "_offload_tensor", _to_the_host))
        stack.enter_context(_before(filesystem.FileSystemReader, "read_metadata", _from_its_own))
        yield


@contextlib.contextmanager
def _before(owner: Any, name: str, first: Callable[..., None]) -> Iterator[None]:
    original = getattr(owner, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        first(self, *args)
        return original(self, *args, **kwargs)

    with replaced(owner, name, method):
        yield


def _own(path: Any) -> Any:
    """The folder of this rank in a checkpoint's."""
    name = f"rank-{dist.get_rank()}" if dist.is_initialized() else "rank-0"
    return path if name in ("rank-0", path.name) else path / name


def _into_its_own(writer: Any, *_: Any) -> None:
    if isinstance(writer.path, Path):
        writer.path = _own(writer.path)


def _from_its_own(reader: Any, *_: Any) -> None:
    if isinstance(reader.path, Path) and _own(reader.path).exists():
        reader.path = _own(reader.path)


def _to_the_host(_stager: Any, tensor: Any, memo: Any, *_: Any) -> None:
    """`async_save` copies what is written beside a tensor too, of which its place is a part here; the copy is another's
    place, and of the same run."""
    if isinstance(tensor, FakeTensor):
        memo[id(tensor.fake_mode)] = tensor.fake_mode
        memo[id(tensor.fake_device)] = torch.device("cpu")


def _nothing(*_: Any) -> None:
    pass
