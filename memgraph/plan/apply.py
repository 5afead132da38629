"""Applies a checkpoint plan to a model: wraps the forward of the modules it names, and can take that back.

Non-reentrant checkpoints (`torch.utils.checkpoint`), which replay the random state and autocast, and stop recomputing
once the last tensor that the backward needs exists.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from memgraph.errors import MemgraphError, UsageError, unknown_name
from memgraph.models.chunked_loss import LogitsInChunks
from memgraph.plan.plan_file import LossChunks, Plan, Region

Forward = Callable[..., Any]

_ATTENTION = ("_scaled_dot_product_",)
_PRODUCTS = ("mm.", "addmm.", "bmm.", "baddbmm.", "convolution.", "linear.")
_KEPT = {"attention": _ATTENTION, "matmul": _ATTENTION + _PRODUCTS}
"""How the names of the ATen ops begin whose results a policy keeps."""


class Applied:
    """A plan in force. Take it back with `remove()`, or use it as a context manager."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._wrapped: list[tuple[nn.Module, Forward | None]] = []

    def remove(self) -> None:
        """Every module as it was before."""
        while self._wrapped:
            module, own = self._wrapped.pop()
            del module.forward
            if own is not None:
                module.forward = own  # type: ignore[method-assign]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def wrap(self, module: nn.Module, forward: Forward) -> None:
        """Let `module` run `forward`, and remember what it ran before."""
        self._wrapped.append((module, module.__dict__.get("forward")))
        module.forward = forward  # type: ignore[method-assign]


def apply_checkpoints(model: nn.Module, plan: Plan) -> Applied:
    """Checkpoint the modules that a plan names. Losses and gradients stay the same to the bit; only where the loss is
    taken in chunks are its sums added in another order.

    Args:
        model: the module whose paths the plan uses. A model that is wrapped for parallel training goes in unwrapped,
            before it is wrapped.
        plan: from `memgraph checkpoint`, or made by hand.

    Returns:
        The plan in force, to take back.

    Raises:
        UsageError: the model has no such module, or it was checkpointed by memgraph before.
    """
    applied = Applied(plan)
    try:
        for region in plan.regions:
            _apply_region(applied, [_find(model, path) for path in region.modules], region)
        if plan.loss is not None:
            _apply_loss(applied, model, plan.loss)
    except UsageError:
        applied.remove()
        raise
    return applied


def _find(model: nn.Module, path: str) -> nn.Module:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise unknown_name("module", path, [name for name, _ in model.named_modules() if name]) from None
    if getattr(module.forward, "_memgraph_checkpoint", False):
        raise UsageError(f"{path} is checkpointed already: remove the first plan before applying another")
    return module


def _apply_region(applied: Applied, modules: Sequence[nn.Module], region: Region) -> None:
    run = functools.partial(checkpoint, use_reentrant=False, **_contexts(region.policy))
    if len(modules) == 1:
        applied.wrap(modules[0], _marked(_checkpointed(modules[0].forward, run)))
        return
    chain = Chain(region.modules, [module.forward for module in modules], run)
    for place, module in enumerate(modules):
        applied.wrap(module, _marked(functools.partial(chain.call, place)))


def _checkpointed(forward: Forward, run: Forward) -> Forward:
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return run(forward, *args, **kwargs) if torch.is_grad_enabled() else forward(*args, **kwargs)

    return checkpointed


def _marked(forward: Any) -> Forward:
    forward._memgraph_checkpoint = True
    return forward


def _contexts(policy: str) -> dict[str, Any]:
    """The arguments of `checkpoint` that make it keep what a policy keeps."""
    if policy == "whole":
        return {}
    return {"context_fn": functools.partial(create_selective_checkpoint_contexts, functools.partial(_choose, policy))}


def _choose(policy: str, _context: Any, op: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    kept = str(op).removeprefix("aten.").startswith(_KEPT[policy])
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


class Chain:
    """Several modules as one region. The first one's call runs them all in one checkpoint; the calls of the others
    hand out what was computed for them, if they are called as was assumed: in order, each with the result of the one
    before it (the first of them, where it returns a tuple), and otherwise with the first one's arguments.

    Args:
        names: their paths, for messages.
        forwards: what each runs.
        run: `checkpoint` with its arguments.
    """

    def __init__(self, names: Sequence[str], forwards: Sequence[Forward], run: Forward) -> None:
        self.names = names
        self.forwards = forwards
        self.run = run
        self._results: list[Any] = []
        self._rest: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})

    def call(self, place: int, *args: Any, **kwargs: Any) -> Any:
        """Module number `place` is called."""
        if not torch.is_grad_enabled():
            return self.forwards[place](*args, **kwargs)
        if place == 0:
            self._start(args, kwargs)
        else:
            self._check(place, args, kwargs)
        result = self._results[place]
        if place:  # the caller has passed it on, so the chain need not hold it longer
            self._results[place - 1] = None
        if place == len(self.forwards) - 1:
            self._results, self._rest = [], ((), {})
        return result

    def _start(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not args:
            raise MemgraphError(f"{self.names[0]} is called without a positional argument: checkpoint modules one by one")
        self._results = self.run(self._all, *args, **kwargs)
        self._rest = (args[1:], kwargs)

    def _all(self, x: Any, *args: Any, **kwargs: Any) -> list[Any]:
        results = []
        for forward in self.forwards:
            results.append(forward(x, *args, **kwargs))
            x = _first(results[-1])
        return results

    def _check(self, place: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        same = (
            len(self._results) == len(self.forwards)
            and self._results[place - 1] is not None
            and args[:1] != ()
            and args[0] is _first(self._results[place - 1])
            and _identical(args[1:], self._rest[0])
            and kwargs.keys() == self._rest[1].keys()
            and _identical(kwargs.values(), [self._rest[1][name] for name in kwargs])
        )
        if not same:
            self._results = []
            raise MemgraphError(
                f"{self.names[place]} is not called with what {self.names[place - 1]} returned and the same other "
                f"arguments: these cannot be one region, checkpoint them one by one"
            )


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, (tuple, list)) else result


def _identical(left: Any, right: Any) -> bool:
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        a is b or (not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and a == b)
        for a, b in zip(left, right, strict=True)
    )


def _apply_loss(applied: Applied, model: nn.Module, loss: LossChunks) -> None:
    head = _find(model, loss.head)
    if not isinstance(head, nn.Linear):
        raise UsageError(f"{loss.head} is a {type(head).__name__}: the loss is taken in chunks after a linear layer")
    forward = head.forward

    def in_chunks(hidden: torch.Tensor) -> Any:
        return LogitsInChunks(forward, hidden, head.out_features, loss.chunks) if torch.is_grad_enabled() else forward(hidden)

    applied.wrap(head, _marked(in_chunks))
