"""Python objects on their way to other ranks: pickled into byte tensors, as torch does, whose values are followed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed import distributed_c10d as c10d

from memgraph.virtual.patches import put, replaced
from memgraph.virtual.values import known as values


@contextlib.contextmanager
def objects_are_pickled(assume: Callable[[str], None]) -> Iterator[None]:
    """While open, `all_gather_object` and its kin run as they are: torch makes the byte tensors from a storage of its
    own, which a fake mode refuses; here they are made from the bytes, and carry them along as known values.

    Args:
        assume: told of an object of another rank's, in place of which there is this one's own.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(c10d, "_object_to_tensor", _to_tensor))
        stack.enter_context(replaced(c10d, "_tensor_to_object", _to_object))
        for name in ("broadcast_object_list", "scatter_object_list"):
            stands_in = _as_its_source(name, getattr(c10d, name), assume)
            stack.enter_context(put(c10d, name, stands_in))
            stack.enter_context(put(dist, name, stands_in))
        yield


def _as_its_source(name: str, original: Callable[..., Any], assume: Callable[[str], None]) -> Callable[..., Any]:
    """The function, called as the rank does that has the objects: what comes of it is this rank's own."""
    broadcasts = name.startswith("broadcast")

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs)
        group, group_src = given.arguments.get("group"), given.arguments.get("group_src")
        source = given.arguments.get("src")
        if group_src is not None:
            source = dist.get_global_rank(group or dist.group.WORLD, group_src)  # type: ignore[arg-type]
        source = 0 if source is None else source
        if source == dist.get_rank() or dist.get_rank(group) < 0:
            return original(*args, **kwargs)
        assume(f"what rank {source} sends in {name} is taken to be what this rank has itself")
        if broadcasts:
            given.arguments |= {"src": dist.get_rank(), "group_src": None}
            return original(*given.args, **given.kwargs)
        return None  # its list stays as it is

    return called


def _to_tensor(thing: Any, device: torch.device, *_: Any) -> tuple[Tensor, Tensor]:
    with unset_fake_temporarily():
        content = torch.frombuffer(bytearray(pickle.dumps(thing)), dtype=torch.uint8)
        size = torch.tensor([content.numel()], dtype=torch.int64)
    return content.to(device), size.to(device)


def _to_object(tensor: Tensor, size: Any, *_: Any) -> Any:
    """Raises:
    UnpicklingError: nobody knows what was sent.
    """
    known = values.known(tensor) if isinstance(tensor, FakeTensor) else tensor
    if known is None:
        raise pickle.UnpicklingError("an object of another rank is not known here: trace that rank as well")
    with unset_fake_temporarily():
        return pickle.load(io.BytesIO(known.reshape(-1).numpy().tobytes()[: int(size)]))
