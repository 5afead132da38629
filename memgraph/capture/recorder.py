"""The dispatch mode that runs a training step without computing it, and writes down what it does to memory.

`Recorder` is a `FakeTensorMode`: one mode, one dispatch per op. It sees every ATen call below autograd and autocast,
gives fake results to those on the device, runs those on small CPU tensors for real, and tells the ledger of every
storage that is born and dies. A buffer dies when its storage dies, as in eager PyTorch.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.utils import registered_hop_fake_fns
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from memgraph.capture.accumulate import ADD, ADD_IN_PLACE, Accumulation, References
from memgraph.capture.interrupts import interrupts_kept
from memgraph.capture.ledger import Ledger
from memgraph.capture.operators import Inside, Kinds, Operator
from memgraph.capture.provenance import ForwardOps, ModulePaths, SourceLines, recomputing, uncompiled
from memgraph.capture.stage import Stage
from memgraph.errors import MemgraphError
from memgraph.gpu.call import Call, OnHost, Output, Release, Temporary
from memgraph.trace import Category, Op, Role, TensorSpec
from memgraph.virtual import values
from memgraph.virtual.assume import Assumptions
from memgraph.virtual.dispatch import run_composite
from memgraph.virtual.random import VirtualGenerator
from memgraph.virtual.shapes import Look, Recipe, Shapes
from memgraph.virtual.sparse import parts_of

_NO_BUFFER = -1
"""Stands for the buffer of a storage that is not on the device."""
_NO_KWARGS: Mapping[str, Any] = {}
_FAKE_ALONE = (FakeTensor,)
_DEVICE = torch.ops.prim.device.default
_DETACH = "aten.detach.default"
_ALLOCATION = torch.ops.aten.empty_strided.default
_TAG = "_memgraph_tag"
_NAME = "_memgraph_name"
_ACCUMULATION = 2**64 - 1
"""Sequence number of every AccumulateGrad node (torch/csrc/autograd/functions/accumulate_grad.cpp)."""


class Tag(NamedTuple):
    """Where a tensor comes from: output `index` of op `op`, or -1 and a running number for one made outside."""

    op: int
    index: int  # type: ignore[assignment]  # hides tuple.index, on purpose
    look: Look

    @property
    def spec(self) -> TensorSpec:
        return self.look.spec


class Place(NamedTuple):
    """Where an op of generated code comes from, which the stack does not say."""

    name: str
    """What a buffer that is allocated there is filled by, or empty."""
    module: str
    source: str
    whole: bool = False
    """Whether the name is that of all ops there, and not of allocations alone."""


class Arguments:
    """One call's arguments, walked once: as the graph keeps them, as a key, and the tensors among them."""

    __slots__ = ("key", "specs", "tensors")

    def __init__(self, func: OpOverload) -> None:
        self.key: list[Any] = [func, torch.get_default_dtype(), torch.is_inference_mode_enabled()]
        self.specs: list[TensorSpec] = []
        self.tensors: list[Tensor] = []


class GraphCall(NamedTuple):
    """What is needed to draw an op in the graph: tensors are replaced by their tags."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[TensorSpec, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        """The ops whose results it takes; tensors made outside are nobody's."""
        tags = [*_tags(self.args), *_tags(self.kwargs.values())]
        return tuple([tag.op for tag in tags if tag.op >= 0])


def _tags(arguments: Iterable[Any]) -> Iterator[Tag]:
    for argument in arguments:
        if isinstance(argument, Tag):
            yield argument
        elif isinstance(argument, list):
            yield from _tags(argument)


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
        super().__init__(allow_non_fake_inputs=True)
        self.cache_enabled = False  # `Shapes` remembers more cheaply
        self.ledger = ledger
        self.operators = operators
        self.assumptions = assumptions
        self.ops: list[Op] = []
        self.calls: list[GraphCall] = []
        self.ruled: dict[int, Call] = {}
        self.sources = SourceLines()
        self.forward_ops = ForwardOps()
        self.stage = Stage(ledger)
        self.paths = ModulePaths(self._entered)
        self.specs: dict[int, TensorSpec] = {}
        self.shapes = Shapes()
        self.accumulation = Accumulation(sole)
        self.recording = True
        self.interrupted = False
        """^C fell where it could not be raised; it is at the next op."""
        self.place: Callable[[], Place | None] | None = None
        """Says of an op that runs in generated code where it comes from."""
        self.entries: list[Callable[..., Any]] = []
        """Functions outside this file that the run enters and that are no part of it."""
        self._live: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        self._inside = False
        self._outside_tensors = 0

    def described_ops(self) -> tuple[Op, ...]:
        """The ops so far, each with what it reads."""
        return tuple([op._replace(reads=call.reads) for op, call in zip(self.ops, self.calls, strict=True)])

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
        if isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs or _NO_KWARGS)
        return self.dispatch(func, types, args, kwargs)

    supports_higher_order_operators = True

    def _higher_order(self, func: HigherOrderOperator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An op that is called with functions, as compiled code does to restore random numbers: what torch does with
        it for fake tensors, whose ops come back here.

        Raises:
            MemgraphError: torch knows nothing to do.
        """
        # from torch 2.13 on most are here, and the table leads back to us
        fake: Any = registered_hop_fake_fns.get(func)  # type: ignore[call-overload]
        if fake is not None:
            with self:
                return fake(*args, **kwargs)
        handler = func.python_key_table.get(FakeTensorMode)
        if handler is None:
            raise MemgraphError(f"{func.name()} at {self.sources.current()} does not run without a GPU")
        return handler(self, *args, **kwargs)  # type: ignore[operator]

    # FakeTensorMode's entry for every ATen call, with the mode itself switched off.
    def dispatch(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = _of_the_host(kwargs) if kwargs else _NO_KWARGS
        if self._inside or not self.recording:
            return super().dispatch(func, types, args, kwargs)  # type: ignore[arg-type]
        if types != _FAKE_ALONE and any(map(_is_wrapper, types)):
            return NotImplemented  # a jagged tensor, say, which calls again with what it holds
        operator = self.operators.of(func)
        if operator.decomposes:
            with self:
                if FakeTensor in types:
                    return operator.composite(*args, **kwargs)
                return run_composite(func, *args, **kwargs)
        if func is ADD and self._accumulates_in_place(args):
            operator = self.operators.of(ADD_IN_PLACE)
        if FakeTensor in types or self.operators.makes_fake(func, args, kwargs):
            return self._run_fake(operator, types, args, kwargs)
        return func(*args, **kwargs)

    def _run_fake(
        self, operator: Operator, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        index = len(self.ops)
        arguments = Arguments(operator.func)
        call_args = tuple([self._reference(arg, arguments) for arg in args])
        call_kwargs = self._reference_by_name(kwargs, arguments) if kwargs else _NO_KWARGS
        op = self._describe(operator, tuple(arguments.specs))
        self.ops.append(op)
        self.calls.append(GraphCall(operator.func, call_args, call_kwargs, ()))  # all there is of one that fails
        self.ledger.op = index
        known = not operator.random and values.all_known(args, kwargs)
        outputs, recipe = self._infer(operator, types, args, kwargs, arguments, known)
        if outputs is not None:
            self._account(operator, outputs, args, kwargs, recipe)
        self._follow_values(operator, args, kwargs, outputs, known)
        specs = self._tag(index, outputs, recipe)
        self.ops[index] = op._replace(outputs=specs)
        self.calls[index] = GraphCall(operator.func, call_args, call_kwargs, specs)
        return outputs

    def _infer(
        self,
        operator: Operator,
        types: Sequence[type],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        arguments: Arguments,
        known: bool,
    ) -> tuple[Any, Recipe | None]:
        """The outputs, without values: as remembered, or found by FakeTensor; values decide some of them."""
        if operator.returns_nothing:  # writes into its arguments: `_foreach_add_`, fused optimizers
            return None, None
        key = tuple(arguments.key)
        recipe = self.shapes.find(key)
        if recipe is not None:
            return self.shapes.make(recipe, self, arguments.tensors), recipe
        self._inside = True
        try:
            if known and operator.by_value:
                return self.assumptions.from_values(self, values.run_for_real(operator.func, args, kwargs)), None
            outputs: Any = NotImplemented
            if operator.kernel is not None:
                with self:
                    outputs = operator.kernel(*args, **kwargs)
            if outputs is NotImplemented:
                outputs = super().dispatch(operator.func, types, args, kwargs)  # type: ignore[arg-type]
            return outputs, self.shapes.learn(key, operator.func, arguments.tensors, outputs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            source, step = self.sources.current(), self.stage.step
            return self.assumptions.instead(self, operator.func, args, kwargs, source, step), None
        except (UnsupportedOperatorException, NotImplementedError, RuntimeError) as error:
            if _says_that_no_kernel_is_there(error):
                raise _without_kernel(operator.func, self.sources.current()) from error
            raise
        finally:
            self._inside = False

    def _follow_values(
        self, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any, known: bool
    ) -> None:
        """Carry known values through the op, if its result is small; or forget those that it overwrote."""
        if operator.by_value:
            return
        if (known or operator.factory) and values.all_worth_following(outputs):
            if operator.like:
                args = (values.stand_in(args[0], outputs), *args[1:])
            values.remember(outputs, values.run_for_real(operator.func, args, kwargs))
        elif operator.mutates:
            values.forget(args[0])

    # What is written down.

    def _describe(self, operator: Operator, specs: tuple[TensorSpec, ...]) -> Op:
        node = torch._C._current_autograd_node()
        place = self.place() if self.place is not None else None
        if place is not None:
            phase = self.stage.outside_autograd() if node is None else self.stage.inside_autograd()
            name = place.name if place.whole or (operator.func is _ALLOCATION and place.name) else operator.name
            return Op(name, phase, place.module, place.source, specs)
        if node is not None:
            return self._describe_backward(operator, node, specs)
        self.forward_ops.made(len(self.ops))
        phase = self.stage.outside_autograd()
        return Op(operator.name, phase, self.paths.modules.current, self.sources.current(), specs)

    def _accumulates_in_place(self, args: Sequence[Any]) -> bool:
        node = torch._C._current_autograd_node()
        if node is None:
            return False
        self.accumulation.evaluating(node, len(self.ops))
        return self.accumulation.in_place(args, _made_by)

    def _describe_backward(self, operator: Operator, node: Any, specs: tuple[TensorSpec, ...]) -> Op:
        phase = self.stage.inside_autograd()
        self.accumulation.evaluating(node, len(self.ops))
        forward = self.forward_ops.of(node)
        if self.paths.modules.stack or recomputing():
            self.forward_ops.made(len(self.ops))
            module, source = self._recomputed_in(operator.name, forward)
            return Op(operator.name, phase, module, source, specs)
        if forward >= 0:
            made = self.ops[forward]
            return Op(operator.name, phase, made.module, made.source, specs, (), forward)
        return Op(operator.name, phase, _module_of(self._accumulating(node)), "", specs)

    def _recomputed_in(self, name: str, forward: int) -> tuple[str, str]:
        """The module and the line of an op of a recomputation. A module whose `forward` a checkpoint calls by itself is
        not on the stack: then the module is that of the last op alike, up to the one whose saved tensor is asked for;
        and of what a checkpoint's hooks detach, which no forward has, that of the latter. The line is not on the stack
        either where that module is one of torch's."""
        source = self.sources.current()
        if self.paths.modules.stack:
            return self.paths.modules.current, source
        asked = self.ops[forward]
        before = (self.ops[index] for index in range(forward, -1, -1) if name != _DETACH)
        alike = next((op for op in before if op.name == name and source in (op.source, "")), asked)
        return alike.module, source or alike.source

    def _accumulating(self, node: Any) -> str:
        """The name of the parameter whose gradient a node accumulates, or empty."""
        if node._sequence_nr() != _ACCUMULATION:
            return ""
        variable = getattr(node, "variable", None)
        return parameter_name(variable) if variable is not None else ""

    def _reference(self, arg: Any, arguments: Arguments) -> Any:
        """An argument as the graph keeps it: tensors become tags; the key and the specs are collected on the way."""
        if isinstance(arg, Tensor):
            tag = arg.__dict__.get(_TAG) or self._tag_outside(arg)
            arguments.key.append(tag.look)
            arguments.specs.append(tag.look.spec)
            arguments.tensors.append(arg)
            return tag
        if isinstance(arg, (list, tuple)):
            arguments.key.append(len(arg))
            return [self._reference(item, arguments) for item in arg]
        arguments.key.append(arg.__class__)  # 1, 1.0 and True are equal and yet promote differently
        arguments.key.append(arg)
        return arg

    def _reference_by_name(self, kwargs: Mapping[str, Any], arguments: Arguments) -> Mapping[str, Any]:
        referenced = {}
        for name, arg in kwargs.items():
            arguments.key.append(name)
            referenced[name] = self._reference(arg, arguments)
        return referenced

    def _tag_outside(self, tensor: Tensor) -> Tag:
        """A tensor that no recorded op made: a real one from the CPU."""
        self._outside_tensors += 1
        tag = Tag(-1, self._outside_tensors, self.shapes.look(tensor))
        if isinstance(tensor, FakeTensor):
            tensor.__dict__[_TAG] = tag
        return tag

    def _tag(self, index: int, outputs: Any, recipe: Recipe | None) -> tuple[TensorSpec, ...]:
        """Tell the outputs where they come from; a single tensor is output 0."""
        specs = []
        parts = recipe.parts if recipe is not None else ()
        for position, output in enumerate(outputs if isinstance(outputs, (list, tuple)) else (outputs,)):
            if isinstance(output, Tensor):
                part = parts[position] if parts else None
                look = part.look if part is not None else self.shapes.look(output)
                output.__dict__[_TAG] = Tag(index, position, look)
                specs.append(look.spec)
        return tuple(specs)

    # Storages.

    def _account(
        self, operator: Operator, outputs: Any, args: Sequence[Any], kwargs: Mapping[str, Any], recipe: Recipe | None
    ) -> None:
        """Tell the ledger what the op allocates: its outputs, what it needs inside, what a library keeps."""
        born = [] if operator.only_aliases and not _is_sparse(outputs) else self._new_storages(outputs)
        inside: Inside | None = recipe.inside if recipe is not None else None
        if inside is None:
            inside = operator.inside(args, kwargs, [tensor for tensor, _ in born])
            if recipe is not None:
                recipe.inside = inside
        if inside.call is not None:
            self.ruled[self.ledger.op] = inside.call
        if inside.steps:
            self._follow(inside.steps, born)
        else:
            for tensor, storage in born:
                self._bear(tensor, storage)
        for size in self.operators.libraries.first_uses(inside.needs) if inside.needs else ():
            self.ledger.allocate(size, Role.LIBRARY)
        if self.stage.in_backward:
            self._notice_gradient(outputs)

    def _new_storages(self, outputs: Any) -> list[tuple[Tensor, torch.UntypedStorage]]:
        born: dict[int, tuple[Tensor, torch.UntypedStorage]] = {}
        for tensor in _each(outputs):
            if isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda":
                for part in parts_of(tensor):
                    storage = part.untyped_storage()
                    key = storage._cdata
                    if key not in self._live and key not in born and storage.nbytes():
                        born[key] = (part, storage)
        return list(born.values())

    def _follow(self, steps: Sequence[Any], born: list[tuple[Tensor, torch.UntypedStorage]]) -> None:
        """Allocate and free as the op does inside, in its order."""
        temporaries: list[int | None] = []
        named = {step.index for step in steps if isinstance(step, (Output, OnHost))}
        for position, (tensor, storage) in enumerate(born):
            if position not in named:
                self._bear(tensor, storage)
        try:
            for step in steps:
                self._take(step, born, temporaries)
        finally:
            for position in reversed(range(len(temporaries))):
                self._release(temporaries, position)

    def _take(self, step: Any, born: list[tuple[Tensor, torch.UntypedStorage]], temporaries: list[int | None]) -> None:
        if isinstance(step, Output):
            if step.index < len(born):
                self._bear(*born[step.index])
        elif isinstance(step, OnHost):
            self._know(born[step.index][1], _NO_BUFFER)
        elif isinstance(step, Temporary):
            temporaries.append(self.ledger.allocate(step.size, Role.TEMPORARY) if step.size else None)
        elif isinstance(step, Release):
            self._release(temporaries, step.index)

    def _release(self, temporaries: list[int | None], position: int) -> None:
        buffer, temporaries[position] = temporaries[position], None
        if buffer is not None:
            self.ledger.free(buffer)

    def _bear(self, tensor: Tensor, storage: torch.UntypedStorage) -> None:
        """A storage comes to life; its buffer is freed when it dies."""
        buffer = self.ledger.allocate(storage.nbytes())
        self.specs[buffer] = self.shapes.look(tensor).spec
        self._know(storage, buffer)

    def _know(self, storage: torch.UntypedStorage, buffer: int) -> None:
        key = storage._cdata
        self._live[key] = (buffer, weakref.ref(storage, functools.partial(self._died, key, buffer)))

    def _died(self, key: int, buffer: int, _reference: Any) -> None:
        self._live.pop(key, None)
        if buffer != _NO_BUFFER:
            self.ledger.free(buffer)

    def bear(self, tensor: Tensor) -> None:
        """A tensor that stands for one on the device, whatever it is itself."""
        storage = tensor.untyped_storage()
        if self.recording and storage.nbytes() and storage._cdata not in self._live:
            self._bear(tensor, storage)

    def buffer_of(self, tensor: Tensor) -> int | None:
        """The buffer that holds a fake tensor's data, if it was allocated on the device."""
        if not isinstance(tensor, FakeTensor):
            return None
        *_, part = parts_of(tensor)
        entry = self._live.get(part.untyped_storage()._cdata)
        return entry[0] if entry and entry[0] != _NO_BUFFER else None

    def keeps_interrupts(self) -> contextlib.AbstractContextManager[None]:
        """See `interrupts_kept`."""
        return interrupts_kept(self, Recorder._died.__code__, Recorder.__torch_dispatch__.__code__, _DEVICE)

    # What buffers are for.

    def mark(self, tensor: Tensor, category: Category, name: str) -> None:
        """This tensor's buffer is a parameter, a gradient, optimizer state, …"""
        buffer = self.buffer_of(tensor)
        if buffer is not None:
            self.ledger.categories[buffer] = category
            if name:
                self.ledger.names[buffer] = name

    def mark_model(self, root: torch.nn.Module) -> None:
        """Its parameters and buffers, by their names."""
        self.paths.name(root)
        for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
            self.mark(tensor, Category.PARAMETER, vars(tensor).setdefault(_NAME, uncompiled(name)))

    def _entered(self, root: torch.nn.Module) -> None:
        if torch._C._current_autograd_node() is not None:  # a checkpoint recomputes a part of the forward
            return
        if self.stage.model_called():
            self.mark_model(root)

    def _notice_gradient(self, outputs: Any) -> None:
        node = torch._C._current_autograd_node()
        if node is not None and isinstance(outputs, FakeTensor):
            name = self._accumulating(node)
            if name:
                self.mark(outputs, Category.GRADIENT, f"gradient of {name}")


def parameter_name(tensor: Tensor) -> str:
    """A parameter's path in the first model that was called with it; empty if none was."""
    name: str = vars(tensor).get(_NAME, "")
    return name


def _each(outputs: Any) -> Iterator[Any]:
    """An op's outputs one by one, those in a list among them too."""
    if isinstance(outputs, (list, tuple)):
        for output in outputs:
            yield from _each(output)
    else:
        yield outputs


@functools.cache
def _is_wrapper(kind: type) -> bool:
    """Whether tensors of this class only hold others."""
    return hasattr(kind, "__tensor_flatten__")


def _of_the_host(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what only a CUDA build can give: page-locked memory, which the device is not asked for, and generators,
    which nothing is drawn from."""
    if kwargs.get("pin_memory") or type(kwargs.get("generator")) is VirtualGenerator:
        return {**kwargs, **{name: None for name in ("pin_memory", "generator") if name in kwargs}}
    return kwargs


def _says_that_no_kernel_is_there(error: Exception) -> bool:
    """FakeTensor has no kernel for an op: it says so, or runs into the CUDA kernels that this build has not."""
    if isinstance(error, UnsupportedOperatorException):
        return True
    return "no fake impl registered" in str(error) or "from the 'CUDA' backend" in str(error)


def _without_kernel(func: OpOverload, source: str) -> MemgraphError:
    """What to do where nobody knows what an op returns."""
    where = f" at {source}" if source else ""
    name = func._schema.name
    if name.startswith("aten::"):
        return MemgraphError(f"{func}{where} has a result that neither torch nor memgraph knows without computing it: "
                             "replace it for the prediction, or report it")  # fmt: skip
    return MemgraphError(f"{func}{where} has no fake kernel, which says what it returns without computing it: "
                         f'write one and register it with torch.library.register_fake("{name}")')  # fmt: skip


def _is_sparse(outputs: Any) -> bool:
    """Written to in place, a sparse tensor takes new storages."""
    return isinstance(outputs, Tensor) and outputs.layout is torch.sparse_coo


def _made_by(tensor: Tensor) -> int:
    """Number of the op that made a fake tensor, -1 if none did."""
    tag = tensor.__dict__.get(_TAG)
    return tag.op if tag is not None else -1


def _module_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]
