"""Carries what is known of values through the ops of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from memgraph.capture.operators import Operator
from memgraph.capture.provenance import ModulePaths, SourceLines
from memgraph.virtual.values import chosen, counted, follow
from memgraph.virtual.values import known as values
from memgraph.virtual.values.assumed import Assumptions
from memgraph.virtual.values.known import Knowledge


class Following:
    """See the module's text.

    Args:
        assumptions: told of what is taken for granted.
        sources: say lines.
        paths: say whether a module runs.
    """

    def __init__(self, assumptions: Assumptions, sources: SourceLines, paths: ModulePaths) -> None:
        self._assumptions, self._line, self._paths = assumptions, sources.current, paths

    def op(
        self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any, known: Knowledge
    ) -> None:
        """Carry what is known of values through the op, if its result is small; or forget those that it overwrote."""
        func = operator.func
        if func is torch.ops.aten._amp_foreach_non_finite_check_and_unscale_.default:
            for gradient in args[0]:
                values.forget(gradient)
            self._assumptions.state("gradients that a scaler checks are taken to be finite: each step is taken")
            return
        if (known is Knowledge.ALL or operator.factory) and not operator.by_value:
            if values.all_worth_following(outputs, view=operator.only_aliases):
                if operator.like:
                    args = (values.stand_in(args[0], outputs), *args[1:])
                found = values.run_for_real(func, args, kwargs)
                if found is not None:
                    values.remember(outputs, found, view=operator.only_aliases)
                    return
            elif operator.zeros:
                counted.begin(args, outputs)
        elif known is Knowledge.PARTLY and not operator.by_value:
            follow.partly_known(func, args, kwargs, outputs, view=operator.only_aliases, mutates=operator.mutates)
            if not operator.source:
                return
        if operator.source:
            chosen.follow(func, args, kwargs, outputs, source=self._line, inside_a_module=self._paths.runs)
        elif operator.written:
            follow.overwritten(func, args, kwargs, operator.targets(args, kwargs))
