"""Python objects on their way to other ranks: pickled into byte tensors, as torch does, whose values are followed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed import distributed_c10d as c10d

from memgraph.virtual.patches import put, replaced
from memgraph.virtual.values import known as values
from memgraph.world.mail import Mail


@contextlib.contextmanager
def objects_are_pickled(
    assume: Callable[[str], None], where: Callable[[], str], mail: Mail | None = None
) -> Iterator[None]:
    """While open, `all_gather_object` and its kin run as they are: torch makes the byte tensors from a storage of its
    own, which a fake mode refuses; here they are made from the bytes, and carry them along as known values.

    Args:
        assume: told of an object of another rank's, in place of which there is this one's own.
        where: the user's line that runs.
        mail: what brings the objects of other ranks, if they can be reached.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(c10d, "_object_to_tensor", _to_tensor))
        stack.enter_context(replaced(c10d, "_tensor_to_object", _to_object))
        for name in ("broadcast_object_list", "scatter_object_list"):
            stands_in = _as_its_source(name, getattr(c10d, name), assume, where, mail)
            stack.enter_context(put(c10d, name, stands_in))
            stack.enter_context(put(dist, name, stands_in))
        yield


def _as_its_source(
    name: str, original: Callable[..., Any], assume: Callable[[str], None], where: Callable[[], str], mail: Mail | None
) -> Callable[..., Any]:
    """The function, called as the rank does that has the objects: what comes of it is what that rank says, or, where it
    cannot be asked, this rank's own."""
    broadcasts = name.startswith("broadcast")

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        group, source = given.get("group"), _source(given)
        if dist.get_rank(group) < 0:
            return original(*args, **kwargs)
        topic = f"{name} {c10d._group_or_default_group(group).group_name} {where()}"
        listed: Any = given.get("object_list" if broadcasts else "scatter_object_input_list")
        if source == dist.get_rank():
            if mail is not None:
                mail.tell(topic, _pickled(listed))
            return original(*args, **kwargs)
        content = None if mail is None else mail.told(source, topic)
        if content is None:
            assume(f"what rank {source} sends in {name} is taken to be what this rank has itself")
            if not broadcasts:
                return None  # its list stays as it is
        elif broadcasts:
            listed[:] = pickle.loads(content)
        else:
            given["scatter_object_input_list"] = pickle.loads(content)
        return original(**{**given, "src": dist.get_rank(), "group_src": None})

    return called


def _source(given: Mapping[str, Any]) -> int:
    """The global rank that has the objects."""
    if (place := given.get("group_src")) is not None:
        return dist.get_global_rank(given.get("group") or dist.group.WORLD, place)  # type: ignore[arg-type]
    return int(given.get("src") or 0)


def _pickled(thing: Any) -> bytes:
    with unset_fake_temporarily():
        return pickle.dumps(thing)


def _to_tensor(thing: Any, device: torch.device, *_: Any) -> tuple[Tensor, Tensor]:
    with unset_fake_temporarily():
        content = torch.frombuffer(bytearray(_pickled(thing)), dtype=torch.uint8)
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
