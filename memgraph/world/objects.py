"""Python objects on their way to other ranks: pickled into byte tensors, as torch does, whose values are followed."""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed import distributed_c10d as c10d

from memgraph.virtual.patches import replaced
from memgraph.virtual.values import known as values


@contextlib.contextmanager
def objects_are_pickled() -> Iterator[None]:
    """While open, `all_gather_object` and its kin run as they are: torch makes the byte tensors from a storage of its
    own, which a fake mode refuses; here they are made from the bytes, and carry them along as known values."""
    with replaced(c10d, "_object_to_tensor", _to_tensor), replaced(c10d, "_tensor_to_object", _to_object):
        yield


def _to_tensor(thing: Any, device: torch.device, _group: Any) -> tuple[Tensor, Tensor]:
    with unset_fake_temporarily():
        content = torch.frombuffer(bytearray(pickle.dumps(thing)), dtype=torch.uint8)
        size = torch.tensor([content.numel()], dtype=torch.int64)
    return content.to(device), size.to(device)


def _to_object(tensor: Tensor, size: Any, _group: Any) -> Any:
    """Raises:
    UnpicklingError: nobody knows what was sent.
    """
    known = values.known(tensor) if isinstance(tensor, FakeTensor) else tensor
    if known is None:
        raise pickle.UnpicklingError("an object of another rank is not known here: trace that rank as well")
    with unset_fake_temporarily():
        return pickle.load(io.BytesIO(known.reshape(-1).numpy().tobytes()[: int(size)]))
