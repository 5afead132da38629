"""Among equal blocks it is all the same to a solver which are taken; a person would rather read `blocks.0-13`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memgraph.plan.problem import Problem

Choice = tuple[int, ...]


def tidy(problem: Problem, stacks: Sequence[Sequence[str]], choice: Choice, budget: int) -> Choice:
    """The same options at blocks that follow each other, if that costs no more and stays within the budget.

    Args:
        stacks: the candidates that follow each other, by name.
    """
    ways = [_arranged(problem, stacks, choice, backwards) for backwards in (False, True)]
    cost = problem.cost(choice)
    usable = [way for way in ways if way is not None and problem.cost(way) <= cost and problem.peak(way) <= budget]
    return min(usable, key=problem.peak, default=choice)


def _arranged(problem: Problem, stacks: Sequence[Sequence[str]], choice: Choice, backwards: bool) -> Choice | None:
    """The single options of each stack, those that save most first; None if some block has no such option."""
    single = {(option.covers[0], option.kind): number for number, option in enumerate(problem.options)
              if len(option.covers) == 1}  # fmt: skip
    in_stacks = {name for stack in stacks for name in stack}
    moved = [
        number for number in choice if _is_single(problem, number) and problem.options[number].covers[0] in in_stacks
    ]
    kept = [number for number in choice if number not in moved]
    taken = {name for number in kept for name in problem.options[number].covers}
    for stack in stacks:
        free = [name for name in stack if name not in taken]
        kinds = _by_saving(problem, [number for number in moved if problem.options[number].covers[0] in stack])
        places = free[-len(kinds) :] if backwards and kinds else free
        wanted = [(name, kind) for name, kind in zip(places, kinds, strict=False)]
        if any(key not in single for key in wanted):
            return None
        kept += [single[key] for key in wanted]
    return tuple(sorted(kept))


def _is_single(problem: Problem, number: int) -> bool:
    return len(problem.options[number].covers) == 1


def _by_saving(problem: Problem, numbers: Iterable[int]) -> list[str]:
    """Kinds of the options, the dearest first: these save most."""
    return [problem.options[number].kind for number in sorted(numbers, key=lambda n: -problem.options[n].nanoseconds)]
