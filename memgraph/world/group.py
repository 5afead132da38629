"""Process groups on NCCL and Gloo without a network: torch's `fake` group under their names.

`torch.distributed` makes groups, meshes and sub-groups with its own code; only the backend that would talk is another.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.rendezvous as meeting
from torch._C import _distributed_c10d as c10d_cpp
from torch.distributed import device_mesh
from torch.distributed import distributed_c10d as c10d

from memgraph.virtual.patches import put
from memgraph.world.place import Place
from memgraph.world.store import LonelyStore

NCCL = (2, 28, 9)
"""The version that torch 2.11 to 2.13 are built with; DDP asks for 2.10 before it takes bf16."""

CUDA = "13.0"
"""What a build without CUDA says of itself here: DDP's hooks ask before they take bf16."""


class _Named(type):
    """The class of a backend's class: it makes torch's fake backend, and takes each of these for its own."""

    def __call__(cls, _store: Any, rank: int, size: int, *_: Any, **__: Any) -> Any:
        return c10d_cpp.FakeProcessGroup._create_internal(rank, size)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, c10d_cpp.FakeProcessGroup)


class Options(types.SimpleNamespace):
    """As `ProcessGroupNCCL.Options`: taken, and not looked at."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__(is_high_priority_stream=False, config=types.SimpleNamespace(), _timeout=None)


class VirtualNccl(metaclass=_Named):
    """What `ProcessGroupNCCL` is while a world is open."""

    Options = Options
    NCCL_CTA_POLICY_ZERO = 2
    NCCL_CTA_POLICY_EFFICIENCY = 1
    NCCL_CTA_POLICY_DEFAULT = 0


class VirtualGloo(metaclass=_Named):
    """What `ProcessGroupGloo` is while a world is open."""

    Options = Options


@contextlib.contextmanager
def groups_are_made(here: Place) -> Iterator[None]:
    """While open, `init_process_group` and what builds on it make groups of this world. What is left of them goes at
    the end, and torch.distributed is as before.

    Raises:
        TorchChanged: torch has not the names that are replaced.
    """
    store = LonelyStore(here)
    with contextlib.ExitStack() as stack:
        stack.callback(_destroy)
        stack.enter_context(_nothing_is_checked())
        for owner, name, value in _changes(here, store):
            stack.enter_context(put(owner, name, value))
        yield


@contextlib.contextmanager
def _nothing_is_checked() -> Iterator[None]:
    """With `TORCH_DISTRIBUTED_DEBUG=DETAIL`, read when torch.distributed is imported, a group is wrapped in one of Gloo
    that compares each collective with those of the other ranks, on the host (`_create_process_group_wrapper`)."""
    before = c10d_cpp.get_debug_level()
    c10d_cpp.set_debug_level(c10d_cpp.DebugLevel.OFF)
    try:
        yield
    finally:
        c10d_cpp.set_debug_level(before)


def _changes(here: Place, store: LonelyStore) -> list[tuple[Any, str, Any]]:
    def meet(_url: str, rank: int = -1, world_size: int = -1, **_: Any) -> Iterator[tuple[LonelyStore, int, int]]:
        yield store, here.rank if rank < 0 else rank, here.world if world_size < 0 else world_size

    def made_store(*_: Any, **__: Any) -> LonelyStore:
        return store

    fake = c10d_cpp.FakeProcessGroup
    return [
        (c10d, "ProcessGroupNCCL", VirtualNccl), (dist, "ProcessGroupNCCL", VirtualNccl),
        (c10d, "ProcessGroupGloo", VirtualGloo), (dist, "ProcessGroupGloo", VirtualGloo),
        *(_since_2_15(here) if hasattr(c10d, "_create_nccl2_process_group") else ()),
        (c10d, "_NCCL_AVAILABLE", True), (c10d, "_GLOO_AVAILABLE", True),
        (c10d, "split_group", _split), (dist, "split_group", _split), (device_mesh, "split_group", _split),
        (c10d, "rendezvous", meet), (meeting, "rendezvous", meet),
        (c10d, "_store_based_barrier", _nothing), (c10d, "monitored_barrier", _nothing),
        (dist, "monitored_barrier", _nothing),
        (dist, "TCPStore", made_store), (c10d, "default_pg_nccl_timeout", c10d.default_pg_timeout),
        (torch.cuda.nccl, "version", lambda: NCCL), (torch._C, "_nccl_version", _nccl_version),
        (torch._C, "_nccl_version_suffix", lambda: b""), (torch.version, "cuda", torch.version.cuda or CUDA),
        (fake, "_set_sequence_number_for_group", _nothing), (fake, "_get_sequence_number_for_group", lambda _self: 0),
        (fake, "abort", _nothing), (fake, "shutdown", _nothing), (fake, "_set_default_timeout", _nothing),
        (fake, "eager_connect_single_device", _nothing), (fake, "set_timeout", _nothing),
        (fake, "perform_nocolor_split", _nothing),
    ]  # fmt: skip


def _since_2_15(here: Place) -> list[tuple[Any, str, Any]]:
    """What `nccl` is from torch 2.15 on, and a variant of it (`_register_builtin_nccl_backend` of distributed_c10d.py);
    a group of theirs is split by itself. They are taken to do with tensors what ProcessGroupNCCL does: no run of theirs
    was recorded."""

    def split(_self: Any, _store: Any, ranks: Any, *_: Any, **__: Any) -> Any:
        return c10d_cpp.FakeProcessGroup._create_internal(list(ranks).index(here.rank), len(ranks))

    return [
        (c10d, "ProcessGroupNCCL2", VirtualNccl), (c10d, "ProcessGroupNCCLLazy", VirtualNccl),
        (c10d_cpp.FakeProcessGroup, "split", split),
    ]  # fmt: skip


def _split(
    parent_pg: Any = None, split_ranks: Any = None, timeout: Any = None, pg_options: Any = None,
    group_desc: str | None = None, **_: Any,
) -> Any:  # fmt: skip
    """As `split_group`: NCCL splits the parent's communicator, and the group that comes of it is the same as a new one.
    Ranks are those in the parent."""
    ranks = c10d.get_process_group_ranks(parent_pg or dist.group.WORLD)
    me = dist.get_rank()
    for part in ([ranks[rank] for rank in part] for part in split_ranks):
        if me in part:  # the others' groups are none of this rank's affair, and there may be a thousand
            return c10d.new_group(part, timeout=timeout, group_desc=group_desc, use_local_synchronization=True)
    return None


def _nccl_version() -> int:
    """As torch/csrc/cuda/python_nccl.cpp packs it, in the way that torch/cuda/nccl.py takes it apart."""
    major, minor, patch = NCCL
    return major << 32 | minor << 16 | patch


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _destroy() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
