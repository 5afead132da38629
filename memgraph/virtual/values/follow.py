"""Carries what is known of values through one op: all of it, bounds, or what is supposed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.values import chosen, counted, partly
from memgraph.virtual.values import known as values
from memgraph.virtual.values.known import Choice


def partly_known(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any, *, view: bool, mutates: bool
) -> None:
    """An op of which not all arguments are known.

    Args:
        view: its outputs look at its arguments' storages.
        mutates: it writes into its first argument.
    """
    if mutates:
        _write(func, args, kwargs)
    elif view:
        _look(func, args, kwargs, outputs)
    elif isinstance(outputs, FakeTensor):
        if values.worth_following(outputs):
            most = counted.after(func, args, kwargs)
            values.keep(outputs, _bounds(func, args, kwargs, outputs), *guess(func, args, kwargs), most)
    elif values.all_worth_following(outputs):
        found, choice = guess(func, args, kwargs)
        for output, value in zip(outputs, found or (), strict=False):
            values.keep(output, None, value, choice)


_COMPARISONS = frozenset({torch.ops.aten.eq.Tensor, torch.ops.aten.ne.Tensor})


def _held_against_labels(left: Tensor, right: Tensor) -> bool:
    """Each choice with a number of its own that nobody chose, as an accuracy counts them: no row goes anywhere."""
    return left.shape == right.shape and None in (values.choice_of(left), values.choice_of(right))


def guess(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Choice | None]:
    """An op's result on what its arguments are supposed to be, and the choice that it follows from; None unless
    something is supposed, and all is known or supposed, or where choices are held against what was right."""
    choice = None
    if func in _COMPARISONS and _held_against_labels(*args):
        return None, None
    for tensor in values.tensors_in(args, kwargs):
        if isinstance(tensor, FakeTensor):
            value = values.value_of(tensor)
            if value is None:
                return None, None
            layers = values.layers_of(value)
            if layers is not None:
                if layers.supposed is None:
                    return None, None
                choice = choice or layers.choice
    return (values.run_on(values.supposed, func, args, kwargs), choice) if choice else (None, None)


_COPIES = frozenset({torch.ops.aten._to_copy.default, torch.ops.aten.clone.default})


def _bounds(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor) -> partly.Between | None:
    if output.numel() > (chosen.MAP if func in _COPIES else partly.LIMIT):
        return None
    pair = partly.between(func, args, kwargs)
    return pair if pair is not None and pair[0].shape == output.shape == pair[1].shape else None


def _write(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    target = args[0]
    if not isinstance(target, FakeTensor) or values.value_of(target) is None:
        values.forget(target)
        return
    pair = _bounds(func, args, kwargs, target)
    plain = partly.out_of_place(func)
    found, choice = guess(plain, args, kwargs) if plain is not None else (None, None)
    most = counted.of_storage(target, counted.after(func, args, kwargs))
    values.write(target, pair, found if isinstance(found, Tensor) else None, choice, most)


def overwritten(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], targets: Iterable[Any]) -> None:
    """An op of whose arguments nothing is known wrote into these."""
    for target in targets:
        first = target is args[0] if args else False
        most = counted.of_storage(target, counted.after(func, args, kwargs)) if first else None
        values.write(target, None, most=most) if most is not None else values.forget(target)


def _look(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any) -> None:
    """A view of what carries a value is one of that value too, with its layers."""
    if all(
        values.value_of(tensor) is not None
        for tensor in values.tensors_in(args, kwargs)
        if isinstance(tensor, FakeTensor)
    ):
        values.remember(outputs, values.run_for_real(func, args, kwargs), view=True)
