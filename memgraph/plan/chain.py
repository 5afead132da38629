"""Several modules that follow each other, recomputed as one: only the first one's inputs are kept.

Nothing of the parent's code changes. The checkpoint opens when the first module is called and closes when the last one
returns, as torch's own composable checkpointing opens it in one hook and closes it in another
(torch/distributed/_composable/checkpoint_activation.py). What each module was called with is noted as it happens: an
argument that a module of the chain returned is taken from the recomputation, any other is kept as it is.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import checkpoint as torch_checkpoint

from memgraph.errors import MemgraphError, TorchChanged

Forward = Callable[..., Any]


class _From(NamedTuple):
    """Leaf `leaf` of what call number `call` returned."""

    call: int
    leaf: int


class _Call(NamedTuple):
    """What a module after the first was called with; `_From` stands for what the chain itself makes."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Chain:
    """Wraps the `forward` of modules.

    Args:
        forwards: the modules' own.
        names: their paths, for messages.
        contexts: `context_fn`, where some results are kept.
    """

    def __init__(self, forwards: Sequence[Forward], names: Sequence[str], contexts: Mapping[str, Any]) -> None:
        self.forwards = forwards
        self.names = names
        self.contexts = contexts
        self._run: _Run | None = None

    def call(self, place: int, *args: Any, **kwargs: Any) -> Any:
        """The `forward` of module number `place`.

        Raises:
            MemgraphError: the modules do not follow each other as the plan says.
        """
        if not torch.is_grad_enabled():
            return self.forwards[place](*args, **kwargs)
        if place == 0:
            self._begin(args, kwargs)
        if self._run is None or place != self._run.place:
            self._end()
            raise MemgraphError(
                f"{self.names[place]} does not run right after {self.names[place - 1]}, as the plan has it: plan again"
            )
        return self._step(self._run, place, args, kwargs)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._end()  # of a forward that was broken off
        self._run = _Run(self.forwards, self.contexts, args, kwargs)

    def _step(self, run: _Run, place: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        try:
            result = run.step(place, args, kwargs)
        except BaseException:
            self._end()
            raise
        if place == len(self.forwards) - 1:
            self._run = None
            run.finish()
        return result

    def _end(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.abandon()


class _Run:
    """One forward through the chain."""

    def __init__(
        self, forwards: Sequence[Forward], contexts: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.place = 0
        self._forwards = forwards
        self._calls: list[_Call] = []
        self._returned: list[list[weakref.ref[Tensor] | None]] = []
        self._frame = _open(_recomputation(forwards, self._calls), contexts, args, kwargs)
        next(self._frame)

    def step(self, place: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run one module, and note how it was called."""
        if place:
            self._calls.append(_Call(*pytree.tree_map(self._origin, (args, dict(kwargs)))))
        result = self._forwards[place](*args, **kwargs)
        self._returned.append([_reference(leaf) for leaf in pytree.tree_leaves(result)])
        self.place += 1
        return result

    def _origin(self, leaf: Any) -> Any:
        """An argument as the recomputation will find it. One from outside is detached: the graph that the chain is in
        must not be held by what the graph holds."""
        if not isinstance(leaf, Tensor):
            return leaf
        for call, references in enumerate(self._returned):
            for place, reference in enumerate(references):
                if reference is not None and reference() is leaf:
                    return _From(call, place)
        return leaf.detach().requires_grad_(leaf.requires_grad) if leaf.grad_fn is not None else leaf

    def finish(self) -> None:
        """The last module has returned."""
        next(self._frame, None)

    def abandon(self) -> None:
        """The forward was broken off."""
        self._frame.close()


def _reference(leaf: Any) -> weakref.ref[Tensor] | None:
    return weakref.ref(leaf) if isinstance(leaf, Tensor) else None


def _recomputation(forwards: Sequence[Forward], calls: Sequence[_Call]) -> Forward:
    """Runs the chain again. It makes no cycle: what it holds does not hold it."""

    def recompute(*args: Any, **kwargs: Any) -> None:
        made = [pytree.tree_leaves(forwards[0](*args, **kwargs))]
        wanted = _last_uses(calls)
        for place, call in enumerate(calls, 1):
            given, named = pytree.tree_map(
                lambda leaf: made[leaf.call][leaf.leaf] if isinstance(leaf, _From) else leaf,
                (call.args, call.kwargs), is_leaf=lambda leaf: isinstance(leaf, _From),
            )  # fmt: skip
            for number, leaves in enumerate(made):
                made[number] = [leaf if wanted.get((number, at), 0) > place else None for at, leaf in enumerate(leaves)]
            result = forwards[place](*given, **named)
            del given, named
            made.append(pytree.tree_leaves(result))
            del result

    return recompute


def _last_uses(calls: Sequence[_Call]) -> dict[tuple[int, int], int]:
    """By result: the last module that takes it. Later than that a recomputation has no use for it."""
    uses: dict[tuple[int, int], int] = {}
    for place, call in enumerate(calls, 1):
        for leaf in pytree.tree_leaves((call.args, call.kwargs), is_leaf=lambda leaf: isinstance(leaf, _From)):
            if isinstance(leaf, _From):
                uses[leaf.call, leaf.leaf] = place
    return uses


def _open(
    recompute: Forward, contexts: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Generator[None, None, None]:
    """A checkpoint that is open from the first `next` to the second.

    Torch's generator takes its settings by position before the arguments; their number differs between versions.

    Raises:
        TorchChanged: it is not there, or takes other settings than torch 2.11 to 2.15 do.
    """
    settings = {
        "fn": recompute, "preserve_rng_state": True, "context_fn": torch_checkpoint.noop_context_fn,
        "determinism_check": "default", "debug": False, "early_stop": True, **contexts,
    }  # fmt: skip
    generator = getattr(torch_checkpoint, "_checkpoint_without_reentrant_generator", None)
    if generator is None:
        raise TorchChanged(f"torch {torch.__version__} has no checkpoint that opens and closes: plan single modules")
    parameters = inspect.signature(generator).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if not set(names) <= set(settings):
        raise TorchChanged(f"torch {torch.__version__}'s checkpoint takes {', '.join(names)}: plan single modules")
    opened: Generator[None, None, None] = generator(*[settings[name] for name in names], *args, **kwargs)
    return opened
