"""A plan applied to a model: the modules' `forward` is wrapped, nothing else is touched, and it can be undone.

Non-reentrant checkpointing throughout: torch.utils.checkpoint keeps random state and autocast as they were.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from memgraph.errors import UsageError, unknown_name
from memgraph.models.caches import Undo, keep_none
from memgraph.plan.chain import Chain
from memgraph.plan.plan_file import Plan, Region, keeps

_LOSS = "loss_chunks"


class Applied:
    """A plan that is in force. Call `undo`, or use it as a context manager, to have the model as it was."""

    def __init__(self, undos: list[Undo]) -> None:
        self._undos = undos

    def undo(self) -> None:
        """Take it back; a second time does nothing."""
        while self._undos:
            self._undos.pop()()

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def apply_plan(model: nn.Module, plan: Plan) -> Applied:
    """Wrap the modules that the plan names.

    Raises:
        UsageError: the model has no such module or no `loss_chunks`; it is left as it was.
    """
    undos: list[Undo] = []
    try:
        for region in plan.regions:
            undos += _apply_region([_module(model, path) for path in region.modules], region)
        if not plan.use_cache:
            undos += keep_none(model)
        if plan.loss_chunks > 1:
            undos += _chunk_loss(model, plan.loss_chunks)
    except BaseException:
        Applied(undos).undo()
        raise
    return Applied(undos)


def _module(model: nn.Module, path: str) -> nn.Module:
    modules = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        raise unknown_name("module", path, [name for name in modules if name])
    return modules[path]


def _apply_region(modules: list[nn.Module], region: Region) -> Iterator[Undo]:
    """One checkpoint over one module, or over several that follow each other."""
    contexts = _contexts(region.keep)
    if len(modules) == 1:
        yield _replace(modules[0], _checkpointed(modules[0].forward, contexts))
        return
    chain = Chain([module.forward for module in modules], region.modules, contexts)
    for place, module in enumerate(modules):
        yield _replace(module, functools.partial(chain.call, place))


def _checkpointed(forward: Callable[..., Any], contexts: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **contexts, **kwargs)

    return checkpointed


def _replace(module: nn.Module, forward: Callable[..., Any]) -> Undo:
    """Put another `forward` in front of the module's own, and say how to undo it."""
    own = vars(module).get("forward")
    module.forward = forward  # type: ignore[method-assign]

    def undo() -> None:
        if own is None:
            del module.forward
        else:
            module.forward = own  # type: ignore[method-assign]

    return undo


def _contexts(keep: str) -> dict[str, Any]:
    """What `checkpoint` is told so that it keeps some ops' results."""
    if keep == "nothing":
        return {}

    def contexts() -> Any:
        """Anew for each forward, for ops are counted in it, and in its recomputation."""
        ran: tuple[dict[str, int], dict[str, int]] = ({}, {})

        def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            name, draws = _known(op)
            counts = ran[context.is_recompute]
            place = counts[name] = counts.get(name, -1) + 1
            if keeps(keep, name, place) and not (draws and _draws(op, args, kwargs)):
                return CheckpointPolicy.MUST_SAVE
            return CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    return {"context_fn": contexts}


@functools.cache
def _known(op: Any) -> tuple[str, bool]:
    """An op's name without overload, and whether it may take random numbers. Asked at every call of a region."""
    return op.name().removeprefix("aten::").partition(".")[0], torch.Tag.nondeterministic_seeded in op.tags


def _draws(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an op that may take random numbers does. Such a result is always computed again: were it kept, the ops
    after it would find the generator elsewhere than in the forward, and the gradients would be wrong. Attention takes
    none where its dropout is 0."""
    names = [argument.name for argument in op._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return "dropout_p" not in names or bool(given.get("dropout_p"))


def _chunk_loss(model: nn.Module, chunks: int) -> Iterator[Undo]:
    """Set `loss_chunks` wherever the model has it."""
    having = [module for module in model.modules() if isinstance(vars(module).get(_LOSS), int)]
    if not having:
        raise UsageError("the plan computes the loss in chunks, and the model has no loss_chunks")
    for module in having:
        yield functools.partial(setattr, module, _LOSS, vars(module)[_LOSS])
        setattr(module, _LOSS, chunks)
