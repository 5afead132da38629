"""What is written down of each op: its phase, the module and the line it belongs to, and of a backward op the forward
op that it differentiates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from memgraph.capture.accumulate import Accumulation
from memgraph.capture.operators import Operator
from memgraph.capture.provenance import ForwardOps, ModulePaths, Place, recomputing
from memgraph.capture.stage import Stage
from memgraph.capture.tags import parameter_name
from memgraph.trace import Op, TensorSpec
from memgraph.virtual.threads import Here

_DETACH = "aten.detach.default"
_ALLOCATION = torch.ops.aten.empty_strided.default
_ACCUMULATION = 2**64 - 1
"""Sequence number of every AccumulateGrad node (torch/csrc/autograd/functions/accumulate_grad.cpp)."""
_current_node = torch._C._current_autograd_node
_sequence_nr = torch._C._autograd._get_sequence_nr  # type: ignore[attr-defined]
_new = tuple.__new__
"""As a named tuple's own constructor, whose call in Python costs more than all the rest."""


class Describing:
    """See the module's text.

    Args:
        ops: the run's ops, as they come.
        stage: says phases.
        paths: say modules.
        accumulation: told which node each backward op is of.
        here: what belongs to the thread that asks.
    """

    def __init__(
        self, ops: Sequence[Op], stage: Stage, paths: ModulePaths, accumulation: Accumulation, here: Here
    ) -> None:
        self._ops, self._stage, self._paths = ops, stage, paths
        self._accumulation, self._here = accumulation, here
        self._forward_ops = ForwardOps(ops)
        self.place: Callable[[], Place | None] | None = None
        """Says of an op that runs in generated code where it comes from."""
        self.leader = threading.get_ident()
        """The thread that trains, and whose ops tell the phase: the last one that called a model or an optimizer."""

    def op(
        self, operator: Operator, specs: tuple[TensorSpec, ...], source: str, outputs: tuple[TensorSpec, ...] = ()
    ) -> Op:
        """What is written down of an op that is about to run.

        Args:
            specs: what it takes.
            source: the line that the stack says.
            outputs: what it gives, where that is known beforehand.
        """
        node = _current_node()
        place = self.place() if self.place is not None else None
        if place is not None:
            phase = self._outside_autograd() if node is None else self._stage.inside_autograd()
            name = place.name if place.whole or (operator.func is _ALLOCATION and place.name) else operator.name
            return Op(name, phase, place.module, place.source, specs, outputs)
        if node is not None:
            return self._backward(operator, node, specs, source)._replace(outputs=outputs)
        if self._here.started:
            self._forward_ops.made(len(self._ops), started=True)
            phase = self._outside_autograd()
        else:
            self._forward_ops.ops.setdefault(_sequence_nr() - 1, len(self._ops))  # as `made`, which is one call more
            phase = self._stage.current if self._stage.name != "backward" else self._stage.outside_autograd()
        stack = self._paths.modules.stack
        return _new(Op, (operator.name, phase, stack[-1] if stack else "", source, specs, outputs, -1, ()))

    def _outside_autograd(self) -> int:
        """The phase of an op that is no backward op. What fetches the next batch meanwhile ends none."""
        if self._here.started and threading.get_ident() != self.leader:
            return self._stage.current
        return self._stage.outside_autograd()

    def _backward(self, operator: Operator, node: Any, specs: tuple[TensorSpec, ...], source: str) -> Op:
        phase = self._stage.inside_autograd()
        self._accumulation.evaluating(node, len(self._ops))
        forward = self._forward_ops.of(node)
        if self._paths.modules.stack or recomputing():
            self._forward_ops.made(len(self._ops), self._here.started)
            module, source = self._recomputed_in(operator.name, forward, source)
            return Op(operator.name, phase, module, source, specs)
        if forward >= 0:
            made = self._ops[forward]
            return Op(operator.name, phase, made.module, made.source, specs, (), forward)
        return Op(operator.name, phase, _module_of(self.accumulating(node)), "", specs)

    def _recomputed_in(self, name: str, forward: int, source: str) -> tuple[str, str]:
        """The module and the line of an op of a recomputation. A module whose `forward` a checkpoint calls by itself is
        not on the stack: then the module is that of the last op alike, up to the one whose saved tensor is asked for;
        and of what a checkpoint's hooks detach, which no forward has, that of the latter. The line is not on the stack
        either where that module is one of torch's."""
        if self._paths.modules.stack:
            return self._paths.modules.current, source
        asked = self._ops[forward]
        before = (self._ops[index] for index in range(forward, -1, -1) if name != _DETACH)
        alike = next((op for op in before if op.name == name and source in (op.source, "")), asked)
        return alike.module, source or alike.source

    def accumulating(self, node: Any) -> str:
        """The name of the parameter whose gradient a node accumulates, or empty."""
        if node._sequence_nr() != _ACCUMULATION:
            return ""
        variable = getattr(node, "variable", None)
        return parameter_name(variable) if variable is not None else ""


def _module_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]
