"""The collectives of c10d on tensors without values: what ProcessGroupNCCL allocates, and what comes out.

Each rank is taken to say what this one says. So a tensor whose values are known (counts, sizes, pickled objects) has a
known result too. Sources: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, Ops.cpp.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d_cpp
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from memgraph.virtual.patches import replaced
from memgraph.virtual.values import known as values
from memgraph.world.calls import MESSAGES, Calls
from memgraph.world.mail import Mail
from memgraph.world.nccl import Nccl
from memgraph.world.refused import check
from memgraph.world.works import made

Kernel = Callable[..., Any]
_WITH_RESULT = ("allreduce_", "broadcast_", "allgather_", "_allgather_base_", "_reduce_scatter_base_",
                "reduce_scatter_", "alltoall_", "scatter_")  # fmt: skip
"""They return their outputs beside the work."""
_WORK_ALONE = ("alltoall_base_", "send", "recv_", "recv_any_source_", "barrier", "allreduce_coalesced_",
               "allgather_into_tensor_coalesced_", "reduce_scatter_tensor_coalesced_", "gather_", "reduce_",
               "allgather_coalesced_")  # fmt: skip
_OUTPUTS = ("tensors", "output_tensor", "output_tensors", "outputs", "output", "output_lists", "tensor")
_INPUTS = ("input_tensor", "input_tensors", "inputs", "input", "input_list")
_sums: ContextVar[bool] = ContextVar("sums", default=True)


def collectives(mode: Any, calls: Calls, nccl: Nccl, mail: Mail | None) -> Mapping[OpOverload, Kernel]:
    """A kernel for each operator of c10d. On tensors of the host torch's own fake group computes.

    Args:
        mode: under which what is allocated is written down.
        calls: told of each call.
        nccl: keeps what works keep.
        mail: what takes small numbers to other ranks, if they can be reached.
    """
    kernels = {}
    for name in (*_WITH_RESULT, *_WORK_ALONE):
        func = getattr(torch.ops.c10d, name).default
        kernels[func] = functools.partial(_run, func, name, mode, calls, nccl, mail)
    return kernels


@contextlib.contextmanager
def reductions_are_known() -> Iterator[None]:
    """While open, it is noted whether a reduction sums: Python cannot look into the operator's own argument."""
    with contextlib.ExitStack() as stack:
        for name in ("allreduce", "reduce"):
            original = getattr(c10d_cpp.ProcessGroup, name)
            stack.enter_context(replaced(c10d_cpp.ProcessGroup, name, _noting(original)))
        yield


def _noting(original: Kernel) -> Kernel:
    def reduce(group: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        asked = next(iter((*args, *kwargs.values())), c10d_cpp.ReduceOp.SUM)
        token = _sums.set(getattr(asked, "reduceOp", asked) == c10d_cpp.ReduceOp.SUM)
        try:
            return original(group, tensors, *args, **kwargs)
        finally:
            _sums.reset(token)

    return reduce


def _run(
    func: OpOverload, name: str, mode: Any, calls: Calls, nccl: Nccl, mail: Mail | None, *args: Any, **kwargs: Any
) -> Any:  # fmt: skip
    given = _by_name(func, args, kwargs)
    outputs, inputs = _first(given, _OUTPUTS), _first(given, _INPUTS)
    results, sources = list(each(outputs)), list(each(inputs))
    if not any(isinstance(tensor, FakeTensor) for tensor in (*results, *sources)) and name != "barrier":
        return func(*args, **kwargs)
    group = c10d_cpp.ProcessGroup.unbox(given["process_group"])
    check(name, given, results, sources, group.size())
    peer = calls.made(name, group, results, sources, _peer(given))
    with mode:
        _move(name, given, results, sources, group)
    if mail is not None and peer is not None:
        _exchange(mail, name, peer, results)
    waited = _waited(name, given, group, nccl, (*sources, *results))
    nccl.enqueued(group, waited)
    work = made(results, waited)
    return (outputs, work) if name in _WITH_RESULT else work


def _waited(name: str, given: Mapping[str, Any], group: Any, nccl: Nccl, tensors: Sequence[Tensor]) -> Any:
    """What waiting for the work does, if anything."""
    if name in MESSAGES:
        return nccl.sent(group, _peer(given) or 0, [tensor for tensor in tensors if isinstance(tensor, FakeTensor)])
    return nccl.shelf(name, group, tensors).let_go if given.get("async_op") else None


def _move(name: str, given: Mapping[str, Any], results: list[Tensor], sources: list[Tensor], group: Any) -> None:
    """What is allocated on the way, and which values arrive."""
    flat = None
    if name == "allgather_" and _alike(results):
        flat = _flattened(results)  # `newLikeFlat(outputTensors)`, from which the results are copied
    elif name == "reduce_scatter_" and _alike(sources):
        flat = _flattened(sources)
    elif name == "barrier":
        flat = torch.zeros(1, device=given["tensor"].device)  # `barrierTensor`
    del flat
    _arrive(name, given, results, sources, group)


def _exchange(mail: Mail, name: str, peer: int, tensors: Sequence[Tensor]) -> None:
    """Whole numbers go to the other rank, and come from it: counts, votes, sizes, pickled objects."""
    for tensor in tensors:
        if tensor.dtype not in values.EXACT or not values.worth_following(tensor):
            continue
        with unset_fake_temporarily():
            if name == "send":
                value = _value(tensor)
                mail.send(peer, None if value is None else value.numpy())
            elif (content := mail.take(peer)) is not None:
                values.remember(tensor, torch.from_numpy(content).reshape(tensor.shape))


def _flattened(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor that has room for all of them, and a copy of each (ProcessGroupNCCL.cpp, `newLikeFlat`)."""
    first = tensors[0]
    return torch.empty((len(tensors), *first.shape), dtype=first.dtype, device=first.device)


def _alike(tensors: Sequence[Tensor]) -> bool:
    """Whether all have one shape; if not, each is broadcast or reduced by itself."""
    return bool(tensors) and all(tensor.shape == tensors[0].shape for tensor in tensors)


def _arrive(name: str, given: Mapping[str, Any], results: list[Tensor], sources: list[Tensor], group: Any) -> None:
    """Results are forgotten, and known again where what was sent is known."""
    sent = [_value(tensor) for tensor in sources or results]
    for result in results:
        if name not in ("broadcast_", "send", "barrier"):
            values.forget(result)
    if not sent or any(value is None for value in sent) or name in ("send", "barrier", "recv_", "recv_any_source_"):
        return
    with unset_fake_temporarily():
        arrived = _received(name, sent, len(results), group)
        for result, value in zip(results, arrived, strict=False):
            if isinstance(result, FakeTensor):
                values.remember(result, value.reshape(result.shape))
            else:
                result.copy_(value.reshape(result.shape))


def _received(name: str, sent: list[Any], results: int, group: Any) -> Iterator[Tensor]:
    size = group.size()
    if name in ("allreduce_", "allreduce_coalesced_", "reduce_"):
        return (value * size if _sums.get() else value.clone() for value in sent)
    if name == "broadcast_":
        return iter(sent)
    if name in ("allgather_", "allgather_coalesced_", "gather_"):
        return (sent[place % len(sent)] for place in range(results))
    if name in ("_allgather_base_", "allgather_into_tensor_coalesced_"):
        return (torch.cat([value.reshape(-1)] * size) for value in sent)
    if name in ("alltoall_", "alltoall_base_"):
        return iter(sent)
    if name == "scatter_" and len(sent) == size:  # this rank has what all get
        return iter(sent[group.rank() : group.rank() + 1])
    return iter(())


def _value(tensor: Tensor) -> Tensor | None:
    return values.known(tensor) if isinstance(tensor, FakeTensor) else tensor


def _by_name(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}


def _first(given: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((given[name] for name in names if name in given), None)


def _peer(given: Mapping[str, Any]) -> int | None:
    """The rank in the group that a message goes to or comes from."""
    return next((given[name] for name in ("dst", "src") if name in given), None)


def each(tensors: Any) -> Iterator[Tensor]:
    """The tensors in lists of lists, one by one."""
    if isinstance(tensors, Tensor):
        yield tensors
    elif isinstance(tensors, (list, tuple)):
        for part in tensors:
            yield from each(part)
