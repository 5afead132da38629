"""What each ATen operator does on the GPU at hand: looked up once per operator, used for every call."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.capture.libraries import Libraries, Needs
from memgraph.gpu import workspace
from memgraph.gpu.call import Call, SparseMeta, Steps, Temporary, TensorMeta
from memgraph.gpu.cublas import MATRIX_OPS
from memgraph.gpu.rules.indexing import asks_for_a_count
from memgraph.gpu.specs import GpuSpec
from memgraph.virtual.draws import law_of
from memgraph.virtual.ops.dispatch import is_composite, run_composite
from memgraph.virtual.ops.placeless import is_placeless
from memgraph.virtual.ops.sparse import is_coalesced, parts_of
from memgraph.virtual.values.assumed import BY_VALUE
from memgraph.virtual.values.chosen import SOURCES
from memgraph.virtual.values.counted import ZEROS
from memgraph.virtual.values.known import LIMIT
from memgraph.virtual.values.reading import is_pinned
from memgraph.virtual.values.told import TOLD, told

aten = torch.ops.aten

_SIZED_FACTORIES = frozenset(
    {aten.empty.memory_format, aten.rand.default, aten.randn.default, aten.zeros.default, aten.ones.default}
)
_INTEGER_FACTORIES = {aten.randint.default: 1, aten.randint.low: 2}
"""Factories of integers, and which argument is the size: values that are followed, unless there are too many."""
_FOLLOWED_FACTORIES = frozenset(
    {
        aten.arange.default, aten.arange.start, aten.arange.start_step, aten.zeros.default, aten.ones.default,
        aten.full.default, aten.scalar_tensor.default, aten.eye.default, aten.tril_indices.default,
    aten.triu_indices.default, }
)  # fmt: skip
_FOLLOWED_LIKE = frozenset(
    {
        aten.ones_like.default, aten.zeros_like.default, aten.full_like.default, aten.new_ones.default,
        aten.new_zeros.default, aten.new_full.default,
    }
)  # fmt: skip
"""Their results are known although their first argument's values are not."""
_WRITE_STATISTICS = frozenset(
    {
        aten.native_batch_norm.default, aten.cudnn_batch_norm.default, aten.batch_norm_gather_stats.default,
        aten.batch_norm_gather_stats_with_counts.default,
    }
)  # fmt: skip
_STATISTICS = ("running_mean", "running_var")
"""Arguments that those ops write to without a word in their schema (aten/src/ATen/native/native_functions.yaml)."""
_RESIZE_BYTES = "inductor::resize_storage_bytes_"
"""Compiled steps change a storage's size by it, and its schema says nothing (torch/_inductor/inductor_prims.py)."""
CONVOLUTIONS = frozenset(("convolution", "convolution_backward"))
_PUTS = frozenset(("index_put", "index_put_", "_unsafe_index_put", "_index_put_impl_"))
LARGE = 2**16
"""Elements from which a CPU tensor that a module makes for itself holds no values: initialising it would only cost
time."""


class Inside(NamedTuple):
    """What an operator's call allocates besides its outputs."""

    steps: Steps | None
    """In order, outputs included; None for outputs alone."""
    needs: Needs
    """Workspaces that libraries keep."""
    call: Call | None = None
    """What the rule was asked, so that it can be asked again for other sizes; None where there is no rule."""


NOTHING = Inside(None, ())
"""Of an op that allocates its outputs alone."""


class Operator:
    """One ATen operator."""

    __slots__ = (
        "by_value",
        "composite",
        "decomposes",
        "decomposes_on_host",
        "draws",
        "factory",
        "func",
        "handler",
        "inside",
        "kernel",
        "like",
        "mixes_numbers",
        "mutates",
        "name",
        "only_aliases",
        "placeless",
        "random",
        "resizes",
        "returns_nothing",
        "ruled",
        "source",
        "tells_of_values",
        "written",
        "zeros",
    )

    def __init__(self, func: OpOverload, kinds: Kinds) -> None:
        schema = func._schema
        self.func = func
        self.name = str(func)
        self.handler = kinds.handlers.get(func)
        self.decomposes_on_host = is_composite(func) or self.handler is not None
        self.decomposes = func in kinds.composites or self.decomposes_on_host
        self.composite = kinds.composites.get(func, functools.partial(run_composite, func))
        self.mutates = schema.is_mutable
        self.only_aliases = _only_aliases(func)
        self.resizes = _resizes(func)
        self.returns_nothing = schema.is_mutable and not schema.returns and not self.resizes
        self.written = tuple(
            (position, argument.name)
            for position, argument in enumerate(schema.arguments)
            if _is_written(argument) or argument.name in _written_unsaid(func)
        )
        """Place and name of each argument that it writes to, whether its schema says so or not."""
        self.mixes_numbers = any(_mixes_numbers(str(argument.type)) for argument in schema.arguments)
        """Its lists may have integers beside floats."""
        self.by_value = func in BY_VALUE
        self.like = func in _FOLLOWED_LIKE
        self.factory = self.like or func in _FOLLOWED_FACTORIES
        self.zeros = func in ZEROS
        self.kernel = kinds.kernels.get(func)
        self.placeless = not self.by_value and is_placeless(func, views=self.only_aliases)
        """Kernels of ours for such ops are for sparse tensors."""
        self.source = func in SOURCES
        self.tells_of_values = self.factory or self.source or bool(self.written)
        """Its results' values, or what it writes to, are of interest whatever is known of its arguments."""
        self.random = torch.Tag.nondeterministic_seeded in func.tags
        self.draws = law_of(func)
        self.inside: Callable[[Sequence[Any], Mapping[str, Any], Sequence[Tensor]], Inside] = kinds.inside(func)
        self.ruled = not schema.returns and _is_ruled(func)
        """It returns nothing, and yet takes something inside."""
        if self.returns_nothing and not kinds.is_known(func):
            kinds.unknown.add(self.name)

    def targets(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """What a call writes to."""
        found: list[Any] = []
        for position, name in self.written:
            target = args[position] if position < len(args) else kwargs.get(name)
            if target is not None:
                found += target if isinstance(target, (list, tuple)) else (target,)
        return found


class Kinds:
    """All operators, on one GPU under one torch.

    Args:
        gpu: the card.
        torch_version: (major, minor) whose behaviour is predicted.
        fake_everywhere: large CPU tensors hold no values wherever they are made, not only inside modules.
    """

    def __init__(self, gpu: GpuSpec, torch_version: tuple[int, int], *, fake_everywhere: bool = False) -> None:
        self.gpu = gpu
        self.torch_version = torch_version
        self.fake_everywhere = fake_everywhere
        self.unknown: set[str] = set()
        self.estimated: set[tuple[str, str]] = set()
        """Libraries, and ops for which what they take is an estimate."""
        self.convolves = False
        self.libraries = Libraries(gpu, torch_version)
        self.kernels: dict[OpOverload, Callable[..., Any]] = {}
        """What ops return for tensors without values, where torch does not know it without CUDA."""
        self.composites: dict[OpOverload, Callable[..., Any]] = {}
        """Composite ops that take other steps on the virtual GPU than on this build of torch."""
        self.handlers: dict[OpOverload, Callable[..., Any]] = {aten.is_pinned.default: is_pinned}
        """Ops that are ours wherever their tensors are; called with the recorder switched off."""
        self.complete: set[OpOverload] = set()
        """Ops whose kernels of ours make all that they allocate."""
        self.selected: Callable[[Sequence[Any]], int] | None = None
        """Says of the arguments of an `index_put` how many elements its mask selects."""
        self.known: dict[int, Operator] = {}
        """By the overload's `id`: its own hash is computed in Python."""
        self._dtypes: dict[torch.dtype, str] = {}

    def of(self, func: OpOverload) -> Operator:
        """The operator behind an overload."""
        operator = self.known.get(id(func))
        if operator is None:
            operator = self.known[id(func)] = Operator(func, self)
        return operator

    def dtype_name(self, dtype: torch.dtype) -> str:
        """`float32` for `torch.float32`."""
        name = self._dtypes.get(dtype)
        if name is None:
            name = self._dtypes[dtype] = str(dtype).removeprefix("torch.")
        return name

    def makes_fake(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call without fake inputs gives a fake result: it is on the device, or too large to be worth
        values."""
        device = kwargs.get("device")
        if device is not None and device.type == "cuda":
            return True
        if func in _SIZED_FACTORIES and torch.Size(args[0]).numel() >= LARGE:
            return self.fake_everywhere or _inside_a_module()
        place = _INTEGER_FACTORIES.get(func)
        return place is not None and self.fake_everywhere and torch.Size(args[place]).numel() > LIMIT

    def inside(self, func: OpOverload) -> Callable[[Sequence[Any], Mapping[str, Any], Sequence[Tensor]], Inside]:
        """What the operator allocates inside, call by call."""
        dense, call_of = self._inside_dense(func), self._call_of(func)

        def either(args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]) -> Inside:
            if not any(isinstance(arg, Tensor) and arg.layout is torch.sparse_coo for arg in args):
                return dense(args, kwargs, outputs)
            steps = workspace.steps_of_sparse(call_of(args, kwargs, outputs), self.gpu, self.torch_version)
            if steps is None:
                self.unknown.add(f"{func} of a sparse tensor")
            return Inside(steps, ()) if steps else NOTHING

        return either

    def _inside_dense(self, func: OpOverload) -> Callable[[Sequence[Any], Mapping[str, Any], Sequence[Tensor]], Inside]:
        name = _base_name(func)
        if not _is_ruled(func):
            return self._unruled(func)
        call_of = self._call_of(func)
        convolves = name in CONVOLUTIONS

        def ruled(args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]) -> Inside:
            call = call_of(args, kwargs, outputs)
            self.convolves |= convolves
            steps = workspace.steps(call, self.gpu, self.torch_version)
            if steps is None:
                self.unknown.add(str(func))
            else:
                self.estimated |= {(library, name) for library in _estimated(steps)}
            return Inside(steps, self.libraries.needs(call), call)

        return ruled

    def _unruled(self, func: OpOverload) -> Callable[..., Inside]:
        if self.is_known(func):
            return _nothing

        def unknown(*_: Any) -> Inside:
            self.unknown.add(str(func))
            return NOTHING

        return unknown

    def is_known(self, func: OpOverload) -> bool:
        """Whether anything is known of what the operator takes besides its outputs."""
        if _is_ruled(func) or _only_aliases(func) or torch.Tag.pointwise in func.tags or func in self.complete:
            return True
        return workspace.known_without_temporaries(_base_name(func))

    def _call_of(self, func: OpOverload) -> Callable[[Sequence[Any], Mapping[str, Any], Sequence[Tensor]], Call]:
        name, overload = _base_name(func), func._overloadname
        convolves, puts, tells = name in CONVOLUTIONS, name in _PUTS, name in TOLD

        def call(args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]) -> Call:
            plain = tuple([self._plain(arg) for arg in args])
            named = {key: self._plain(value) for key, value in kwargs.items()}
            if convolves:
                named |= cudnn_settings()
            if tells:
                named |= told(name, args)
            if (
                puts
                and self.selected is not None
                and asks_for_a_count(
                    plain[1],
                    plain[2],
                    len(plain[0].shape),
                    bool(plain[3] if len(plain) > 3 else named.get("accumulate")),
                )
            ):
                named["selected"] = self.selected(args)
            return Call(name, overload, plain, named, tuple([self._meta(tensor) for tensor in outputs]))

        return call

    def _plain(self, arg: Any) -> Any:
        if isinstance(arg, Tensor):
            if arg.layout is torch.sparse_coo and isinstance(arg, FakeTensor):
                indices, values = map(self._meta, parts_of(arg))
                return SparseMeta(indices, values, is_coalesced(arg), tuple(arg.shape))
            return self._meta(arg)
        if isinstance(arg, (list, tuple)):
            return tuple([self._plain(item) for item in arg])
        if isinstance(arg, torch.dtype):
            return self.dtype_name(arg)
        return arg

    def _meta(self, tensor: Tensor) -> TensorMeta:
        return TensorMeta(
            tuple(tensor.shape),
            tensor.stride(),
            self.dtype_name(tensor.dtype),
            tensor.element_size(),
            tensor.device.type,
        )


def _estimated(steps: Steps) -> set[str]:
    """The libraries whose workspace is an estimate: the first word of its name."""
    names = [step.name for step in steps if isinstance(step, Temporary)]
    return {name.partition(" ")[0] for name in names if name.endswith("(estimate)")}


def _is_ruled(func: OpOverload) -> bool:
    name = _base_name(func)
    return workspace.rule_for(name, func._overloadname) is not None or name in MATRIX_OPS


def cudnn_settings() -> dict[str, bool]:
    """What `aten::_convolution` is given besides a convolution's own arguments (ATen/native/Convolution.cpp)."""
    return {
        "allow_tf32": torch._C._get_cudnn_allow_tf32(),
        "deterministic": torch._C._get_cudnn_deterministic() or torch._C._get_deterministic_algorithms(),
        "benchmark": torch._C._get_cudnn_benchmark(),
    }


def _nothing(*_: Any) -> Inside:
    return NOTHING


def _base_name(func: OpOverload) -> str:
    return func._schema.name.removeprefix("aten::")


def _only_aliases(func: OpOverload) -> bool:
    """Whether every tensor it returns is one it was given, or a view of one: nothing is allocated.

    `resize_` and `set_` are in place, and yet change what the storage holds; so does `out=`."""
    returns = func._schema.returns
    if _resizes(func):
        return False
    return bool(returns) and all(result.alias_info is not None for result in returns)


def _written_unsaid(func: OpOverload) -> tuple[str, ...]:
    """Arguments that it writes to although its schema does not say so."""
    if func in _WRITE_STATISTICS:
        return _STATISTICS
    return ("variable",) if func._schema.name == _RESIZE_BYTES else ()


def _mixes_numbers(kind: str) -> bool:
    return any(mixed in kind for mixed in ("List[number]", "List[t]", "Any"))


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


_RESIZING = ("resize_", "set_", "resize_as_", "_resize_output_", "resize_storage_bytes_")


@functools.cache
def _resizes(func: OpOverload) -> bool:
    """Whether what it writes to may take another size: a result that is given as `out=` is made as large as it must be
    (`resize_output`, aten/src/ATen/native/Resize.cpp)."""
    schema = func._schema
    return schema.name.rpartition("::")[2] in _RESIZING or any(argument.is_out for argument in schema.arguments)


def _inside_a_module() -> bool:
    """Whether a module is being built: some caller is an `nn.Module`'s `__init__` or `reset_parameters`."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in ("__init__", "reset_parameters") and isinstance(
            frame.f_locals.get("self"), torch.nn.Module
        ):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
