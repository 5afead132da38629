"""What an op gives that nothing is remembered of: its results without values, and what is remembered of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from memgraph.capture.no_kernel import says_that_no_kernel_is_there, without_kernel
from memgraph.capture.operators import Operator
from memgraph.capture.provenance import SourceLines
from memgraph.capture.stage import Stage
from memgraph.capture.tags import Arguments
from memgraph.virtual.ops.shapes import Recipe, Shapes
from memgraph.virtual.threads import Here
from memgraph.virtual.values.assumed import Assumptions
from memgraph.virtual.values.known import Knowledge


class Inferring:
    """See the module's text.

    Args:
        mode: makes the results.
        shapes: remembers them.
        assumptions: asked where values decide.
        sources: say lines.
        stage: says steps.
        here: what belongs to the thread that asks.
    """

    def __init__(
        self, mode: FakeTensorMode, shapes: Shapes, assumptions: Assumptions, sources: SourceLines, stage: Stage,
        here: Here,
    ) -> None:  # fmt: skip
        self._mode, self._shapes, self._assumptions = mode, shapes, assumptions
        self._sources, self._stage, self._here = sources, stage, here

    def op(
        self,
        operator: Operator,
        types: Sequence[type],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        arguments: Arguments,
        known: Knowledge,
    ) -> tuple[Any, Recipe | None]:
        """The outputs, without values, found by FakeTensor; values decide some of them."""
        if operator.returns_nothing:  # writes into its arguments: `_foreach_add_`, fused optimizers
            return None, None
        if operator.placeless:
            recipe = self._shapes.foresee(arguments.key, operator.func, args, kwargs, arguments.tensors)
            if recipe is not None:
                return self._shapes.make(recipe, self._mode, arguments.tensors), recipe
        self._here.inside = True
        try:
            if known and operator.by_value:
                found = self._assumptions.found(self._mode, operator.func, args, kwargs, known, self._sources.current())
                if found is not None:
                    return found, None
            outputs = self._made_by_kernel(operator, types, args, kwargs)
            recipe = self._shapes.learn(arguments.key, operator.func, arguments.tensors, outputs)
            if recipe is not None:  # torch keeps weak references to what it makes itself, and then swaps it no more
                outputs = self._shapes.make(recipe, self._mode, arguments.tensors)
            return outputs, recipe
        except (DataDependentOutputException, DynamicOutputShapeException):
            source, step = self._sources.current(), self._stage.step
            return self._assumptions.instead(self._mode, operator.func, args, kwargs, source, step), None
        except (UnsupportedOperatorException, NotImplementedError, RuntimeError) as error:
            if says_that_no_kernel_is_there(error):
                raise without_kernel(operator.func, self._sources.current()) from error
            raise
        finally:
            self._here.inside = False

    def _made_by_kernel(
        self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """The outputs, as a kernel of ours makes them, or FakeTensor's where none answers."""
        if operator.kernel is not None:
            with self._mode:
                outputs = operator.kernel(*args, **kwargs)
            if outputs is not NotImplemented:
                return outputs
        return FakeTensorMode.dispatch(self._mode, operator.func, types, args, kwargs)  # type: ignore[arg-type]
