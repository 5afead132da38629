"""The dispatch mode that runs a training step without computing it, and writes down what it does to memory.

`Recorder` is a `FakeTensorMode`: one mode, one dispatch per op. It sees every ATen call below autograd and autocast,
gives fake results to those on the device, runs those on small CPU tensors for real, and tells the ledger of every
storage that is born and dies. A buffer dies when its storage dies, as in eager PyTorch.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from memgraph.capture.accumulate import (
    ADD,
    ADD_IN_PLACE,
    IN_PLACE,
    PUT,
    PUT_INTO_ZEROS,
    Accumulation,
    References,
    in_place_form,
    puts_into_zeros,
)
from memgraph.capture.allocating import Allocating
from memgraph.capture.collecting import Collecting
from memgraph.capture.describing import Describing
from memgraph.capture.following import Following
from memgraph.capture.inferring import Inferring
from memgraph.capture.interrupts import interrupts_kept
from memgraph.capture.ledger import Ledger
from memgraph.capture.marks import Marks
from memgraph.capture.operators import Kinds, Operator
from memgraph.capture.provenance import ModulePaths, SourceLines
from memgraph.capture.stage import Stage
from memgraph.capture.storages import Storages, storages_of
from memgraph.capture.tags import Arguments, Calls, Tags
from memgraph.errors import UsageError
from memgraph.trace import Category, Op, TensorSpec
from memgraph.virtual import draws
from memgraph.virtual.graphs import not_permitted
from memgraph.virtual.ops.attention import adds_mask
from memgraph.virtual.ops.dispatch import run_composite
from memgraph.virtual.ops.higher_order import run_higher_order
from memgraph.virtual.ops.host_waits import host_waits
from memgraph.virtual.ops.shapes import Recipe, Shapes
from memgraph.virtual.random import VirtualGenerator
from memgraph.virtual.raw import storage_of
from memgraph.virtual.subclasses import has_fakes
from memgraph.virtual.threads import ONE_AT_A_TIME, Here
from memgraph.virtual.values import known as values
from memgraph.virtual.values.assumed import Assumptions
from memgraph.virtual.values.known import Knowledge
from memgraph.virtual.values.reading import pinned

_CHECK_EACH_OP = os.environ.get("MEMGRAPH_DEBUG", "0") not in ("", "0")
"""The ledger is compared with the live storages after each op; else after each optimizer step."""
_NO_KWARGS: Mapping[str, Any] = {}
_new = tuple.__new__
"""As a named tuple's own constructor, whose call in Python costs more than all the rest."""
_OUTPUTS, _READS = map(Op._fields.index, ("outputs", "reads"))
_NOTHING = Knowledge.NOTHING
_FAKE_ALONE = (FakeTensor,)
_DEVICE = torch.ops.prim.device.default
_LOOK = torch.ops.aten.detach.default
"""What `Module.state_dict` and printing do with a tensor first."""
_OVER = (
    "{} of a tensor whose virtual GPU is closed: it has a shape and no values; do this inside the `with` block, or "
    "make the tensor again"
)


class Recorder(FakeTensorMode):
    """See the module's text.

    Args:
        ledger: where allocations go.
        operators: what each ATen operator does on this GPU.
        assumptions: what to take for granted where values decide.
        sole: see `Accumulation`.
    """

    def __init__(
        self, ledger: Ledger, operators: Kinds, assumptions: Assumptions, sole: References | None = None
    ) -> None:
        self._here = Here(threading.get_ident())
        super().__init__(allow_non_fake_inputs=True)
        self.cache_enabled = False  # `Shapes` remembers more cheaply
        self.ledger = ledger
        self.operators = operators
        self.assumptions = assumptions
        self.ops: list[Op] = []
        self.calls = Calls()
        self.sources = SourceLines()
        self.stage = Stage(ledger)
        self.paths = ModulePaths(self._entered)
        self.shapes = Shapes()
        self.tags = Tags(self.shapes, self._adopt)
        self.storages = Storages(ledger, self.shapes)
        self.collecting = Collecting(self.storages, ledger.objects)
        self.allocating = Allocating(ledger, operators, self.storages)
        self.marks = Marks(ledger, self.storages, self.paths)
        self.accumulation = Accumulation(sole)
        self.describing = Describing(self.ops, self.stage, self.paths, self.accumulation, self._here)
        self.following = Following(assumptions, self.sources, self.paths)
        self.inferring = Inferring(self, self.shapes, assumptions, self.sources, self.stage, self._here)
        self.recording = True
        self.interrupted = False
        """^C fell where it could not be raised; it is at the next op."""
        self.before_call: Callable[[torch.nn.Module], None] | None = None
        """Told of each model that is called from outside any, before it runs."""
        self.after_call: Callable[[], None] | None = None
        """Called when a model is called again with nothing between that trains it."""
        self.entries: list[Callable[..., Any]] = []
        """Functions outside this file that the run enters and that are no part of it."""

    @property
    def here(self) -> Here:
        """What belongs to the thread that asks."""
        return self._here

    # torch keeps these two in the mode itself; several threads share this one.

    @property
    def enter_stack(self) -> list[Any]:  # type: ignore[override]
        return self._here.entered

    @enter_stack.setter
    def enter_stack(self, entered: list[Any]) -> None:
        self._here.entered = entered

    @property
    def in_kernel_invocation(self) -> bool:  # type: ignore[override]
        return self._here.in_kernel

    @in_kernel_invocation.setter
    def in_kernel_invocation(self, value: bool) -> None:
        self._here.in_kernel = value

    def described_ops(self) -> tuple[Op, ...]:
        """The ops so far, each with what it reads."""
        reads = self.calls.reads(self.ops)
        return tuple([_new(Op, (*op[:_READS], read)) if read else op for op, read in zip(self.ops, reads, strict=True)])

    def keeps_interrupts(self) -> contextlib.AbstractContextManager[None]:
        """See `interrupts_kept`."""
        return interrupts_kept(self, Storages._died.__code__, Recorder.__torch_dispatch__.__code__, _DEVICE)

    @property
    def avoid_device_init(self) -> bool:
        """Never compute constants on the device: there is none."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled; without this torch wraps the next method in two more calls."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE:  # C++ asks often, and an exception here (^C) would abort the process
            return args[0].fake_device
        if func.__class__ is not OpOverload and isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs or _NO_KWARGS)
        return self.dispatch(func, types, args, kwargs)

    supports_higher_order_operators = True

    def _higher_order(self, func: HigherOrderOperator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An op that is called with functions."""
        follow = self.recording and not self._here.inside
        return run_higher_order(self, func, args, kwargs, follow=follow, line=self.sources.current)

    # FakeTensorMode's entry for every ATen call, with the mode itself switched off.
    def dispatch(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if kwargs and kwargs.get("pin_memory"):
            return pinned(self.dispatch(func, types, args, {**kwargs, "pin_memory": None}))
        kwargs = _of_the_host(kwargs) if kwargs else _NO_KWARGS
        if self._here.inside:
            return super().dispatch(func, types, args, kwargs)  # type: ignore[arg-type]
        if not self.recording:
            return self._after_the_run(func, types, args, kwargs)
        fake = types == _FAKE_ALONE or has_fakes(tuple(types))
        if fake is None:
            return NotImplemented  # a jagged tensor, say, which calls again with what it holds
        operator = self.operators.known.get(id(func)) or self.operators.of(func)
        if operator.decomposes if fake else operator.decomposes_on_host:
            if operator.handler is not None:
                return operator.handler(*args, **kwargs)
            with self:
                if fake:
                    return operator.composite(*args, **kwargs)
                return run_composite(func, *args, **kwargs)
        if func is ADD and self._accumulates_in_place(args):
            operator = self.operators.of(ADD_IN_PLACE)
        elif func is PUT and fake and puts_into_zeros():
            operator, args = self.operators.of(PUT_INTO_ZEROS), (*args[:3], True, True)
        elif func in IN_PLACE and fake and (form := in_place_form(func)) is not None:
            operator = self.operators.of(form)
        if fake or self.operators.makes_fake(func, args, kwargs):
            with ONE_AT_A_TIME:
                return self._counted(operator, types, args, kwargs)
        return func(*args, **kwargs)

    def _counted(
        self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """The op, whose own objects are not the program's. The stack is looked at first: see `Collecting`."""
        source = self.sources.current(3)
        self.collecting.begins()
        try:
            outputs = self._run_fake(operator, types, args, kwargs, source)
            if operator.draws is not None:
                draws.advance(operator.draws, outputs, args, kwargs)
            return outputs
        finally:
            self.collecting.ends()

    def _run_fake(
        self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any], source: str
    ) -> Any:
        if self.interrupted or self.ledger.capturing:
            self._may_not(operator, args, kwargs)
        arguments = self.tags.read(operator, args, kwargs)
        recipe = self.shapes.find(arguments.key) if not operator.returns_nothing else None
        if recipe is None:
            return self._first(operator, types, args, kwargs, source, arguments)
        return self._again(operator, args, kwargs, source, arguments, recipe)

    def _may_not(self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """What ends the program before an op."""
        if self.interrupted and not self._here.started:
            self.interrupted = False
            raise KeyboardInterrupt
        if self.ledger.capturing and host_waits(operator.func, args, kwargs):
            raise not_permitted()

    def _after_the_run(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """What a thread does that goes on after the run, and what is done with the run's tensors.

        Raises:
            UsageError: they still have their shape and their type, and nothing else.
        """
        if not any(issubclass(kind, FakeTensor) for kind in types):
            return func(*args, **kwargs)
        if func is not _LOOK:
            raise UsageError(_OVER.format(func.name()))
        return super().dispatch(func, types, args, kwargs)  # type: ignore[arg-type]

    def close(self) -> None:
        """The run is over: whatever is done with its tensors from now on is refused."""
        self.recording = False

    def __deepcopy__(self, _memo: dict[int, Any]) -> Recorder:
        """Every fake tensor has its mode among its attributes, which a script may copy: there is one for all."""
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A tensor is pickled with its mode."""
        if not self.recording:
            raise UsageError(_OVER.format("pickling"))
        return super().__reduce_ex__(protocol)

    def _again(
        self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], source: str, arguments: Arguments,
        recipe: Recipe,
    ) -> Any:  # fmt: skip
        """An op as there was one before."""
        index, tensors = len(self.ops), arguments.tensors
        self.ledger.op = index  # as `_write_down`, without a call
        self.ops.append(self.describing.op(operator, recipe.inputs, source, recipe.outputs))
        self.calls.add(recipe.key, arguments.origins)
        try:
            outputs = self.shapes.make(recipe, self, tensors)
            known = _NOTHING
            if not operator.random and (recipe.telling < 0 or values.carries(tensors[recipe.telling])):
                known = values.knowledge_of(tensors)
            if recipe.sole:
                self.storages.born(storage_of(outputs), *recipe.births[0][1:])
            elif not recipe.quiet:
                self.allocating.op(operator, outputs, args, kwargs, recipe)
            if self.stage.name == "backward":
                self._notice_gradient(outputs)
            if known or operator.tells_of_values or self.ledger.waiting or _CHECK_EACH_OP:
                self._afterwards(operator, args, kwargs, outputs, known)
        except BaseException:
            self._gives(index, ())
            raise
        self.tags.tag_made(index, outputs, recipe)
        return outputs

    def _write_down(
        self, operator: Operator, key: tuple[Any, ...], origins: list[int], specs: tuple[TensorSpec, ...], source: str,
        outputs: tuple[TensorSpec, ...],
    ) -> None:  # fmt: skip
        """An op that is about to run, which is all there is of one that fails."""
        self.ledger.op = len(self.ops)
        self.ops.append(self.describing.op(operator, specs, source, outputs))
        self.calls.add(key, origins)

    def _gives(self, index: int, specs: tuple[TensorSpec, ...]) -> None:
        """What an op gives is known only now."""
        op = self.ops[index]
        self.ops[index] = _new(Op, (*op[:_OUTPUTS], specs, *op[_OUTPUTS + 1 :]))

    def _first(
        self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any], source: str,
        arguments: Arguments,
    ) -> Any:  # fmt: skip
        """An op as there was none before, or of which nothing is remembered."""
        index = len(self.ops)
        self._write_down(operator, arguments.key, arguments.origins, arguments.specs(), source, ())
        known = Knowledge.NOTHING if operator.random else values.knowledge_of(arguments.tensors)
        outputs, recipe = self.inferring.op(operator, types, args, kwargs, arguments, known)
        if outputs is not None or operator.resizes or operator.ruled:
            if recipe is None or not recipe.quiet:
                self.allocating.op(operator, outputs, args, kwargs, recipe)
            if self.stage.in_backward:
                self._notice_gradient(outputs)
        self._afterwards(operator, args, kwargs, outputs, known)
        self._gives(index, self.tags.tag(index, outputs, recipe))
        self.collecting.first(outputs, arguments.tensors)
        return outputs

    def _afterwards(
        self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any, known: Knowledge
    ) -> None:
        """What follows from an op besides its outputs."""
        if self.ledger.waiting and host_waits(operator.func, args, kwargs):
            self.ledger.order.synchronize_stream(self.ledger.current_stream())
        if known or operator.tells_of_values:
            self.following.op(operator, args, kwargs, outputs, known)
        if _CHECK_EACH_OP:
            self.storages.check()

    def _accumulates_in_place(self, args: Sequence[Any]) -> bool:
        if adds_mask():
            return True
        node = torch._C._current_autograd_node()
        if node is None:
            return False
        self.accumulation.evaluating(node, len(self.ops))
        return self.accumulation.in_place(args, self.tags.made_by, node)

    def bear(self, tensor: Tensor) -> None:
        """A tensor that stands for one on the device, whatever it is itself."""
        if self.recording:
            self.storages.bear(tensor)

    def record_stream(self, tensor: Tensor, stream: torch.Stream) -> None:
        """As `Tensor.record_stream`: the tensor's memory is used on this stream too."""
        for storage in storages_of(tensor):
            self.use(storage._cdata, stream.stream_id)

    def use(self, storage: int, stream: int) -> None:
        """A storage, by its `_cdata`, is used on a stream."""
        buffer = self.storages.buffer_at(storage)
        if buffer is not None and self.recording:
            self.ledger.record_stream(buffer, stream)

    def _adopt(self, tensor: FakeTensor) -> None:
        """A tensor that outlived the run that made it is on this card too, and so is whatever else is left of that."""
        run = tensor.fake_mode
        if not isinstance(run, Recorder) or run.recording:
            return
        tensor.fake_mode = self
        if self.storages.take_over(run.storages):
            self.assumptions.state("what is left of an earlier virtual GPU is counted once a tensor of it is used")

    def _entered(self, root: torch.nn.Module) -> None:
        if torch._C._current_autograd_node() is not None:  # a checkpoint recomputes a part of the forward
            return
        self.describing.leader = threading.get_ident()
        if self.before_call is not None:
            self.before_call(root)
        if self.stage.called_again(id(root)) and self.after_call is not None:
            self.after_call()
        if self.stage.model_called():
            self.marks.model(root)

    def _notice_gradient(self, outputs: Any) -> None:
        node = torch._C._current_autograd_node()
        if node is not None and isinstance(outputs, FakeTensor):
            name = self.describing.accumulating(node)
            if name:
                self.marks.mark(outputs, Category.GRADIENT, f"gradient of {name}")


def _of_the_host(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without generators of a CUDA build, which nothing is drawn from."""
    generator = kwargs.get("generator")
    ours = type(generator) is VirtualGenerator and generator.device.type == "cuda"
    return {**kwargs, "generator": None} if ours else kwargs
