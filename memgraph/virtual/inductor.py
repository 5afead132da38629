"""`torch.compile` without a GPU: Inductor runs down to its generated wrapper, and kernels that do nothing stand in.

The wrapper is Python code that allocates, calls kernels and lets buffers go, in the order of the real step. Here it is
made as for the virtual GPU and then executed under the recorder, so its allocations, reuses and frees are the compiled
step's. No kernel is compiled, no worker process starts, and nothing is read from or left in torch's compile caches.

Each function says what torch does and why that has to differ. Tried on torch 2.11 and 2.13, CPU-only and CUDA builds.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensorConverter
from torch.utils._python_dispatch import TorchDispatchMode

from memgraph.errors import MemgraphError
from memgraph.gpu.specs import GpuSpec
from memgraph.virtual import tuning
from memgraph.virtual.patches import as_torch_is, replaced

_MODULES = (
    "torch._dynamo", "torch._dynamo.convert_frame", "torch._dynamo.device_interface", "torch._dynamo.output_graph",
    "torch._dynamo.trace_rules", "torch._inductor.compile_fx", "torch._inductor.async_compile",
    "torch._inductor.codecache", "torch._inductor.select_algorithm", "torch._inductor.lowering",
    "torch._inductor.runtime.triton_heuristics", "torch._inductor.runtime.triton_helpers",
    "torch._inductor.fx_passes.joint_graph", "torch._inductor.fx_passes.pad_mm", "torch._inductor.scheduler",
    "torch._functorch.config",
)  # fmt: skip
"""Imported before anything else, with torch as it is: some keep what they find in `torch.cuda` for good."""
_KERNELS = "torch._inductor.runtime.compile_tasks."
"""How the modules that Inductor generates are named in `sys.modules`."""
CACHE_PREFIX = "memgraph-inductor-"
"""Of the temporary folder that stands for torch's compile caches."""
_CPU = torch.device("cpu")


class Watcher(Protocol):
    """Who runs the compiled code, and wants to know what was compiled."""

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """While open, a compiler is at work: nothing that it calls is part of the run."""
        ...

    def recording(self) -> contextlib.AbstractContextManager[Any]:
        """While open, inside a pause, what is called is part of the run after all."""
        ...

    def timing(self) -> contextlib.AbstractContextManager[None]:
        """While open, what is called is only timed on the card."""
        ...

    def own_code(self) -> Sequence[CodeType]:
        """Functions that Dynamo must neither compile nor look into."""
        ...

    def constant(self, tensor: torch.Tensor) -> None:
        """The compiler made this small tensor on the device, while a pause was open."""
        ...

    def captured(self, key: object, copied: int) -> None:
        """A CUDA graph would run now, after so many bytes of inputs were copied to where it reads them."""
        ...

    def state(self, text: str) -> None:
        """Something is assumed."""
        ...

    def entered(self, active: bool) -> None:
        """Dynamo begins to look at the frames that run, or ends."""
        ...

    def traced(self, code: CodeType, local: dict[str, object]) -> None:
        """Dynamo is about to trace a function with these arguments."""
        ...

    def broke(self, reason: Any) -> None:
        """Dynamo ended a graph: a `GraphCompileReason`."""
        ...

    def failed(self, error: Exception, code: CodeType) -> None:
        """A function could not be compiled, and runs eagerly."""
        ...

    def partitioned(self, forward: torch.fx.GraphModule, backward: torch.fx.GraphModule, outputs: int) -> None:
        """AOTAutograd divided a joint graph; the forward's first `outputs` results are the model's own."""
        ...

    def generated(self, graph: Any, module: Any) -> None:
        """Inductor generated a wrapper for a graph: its `GraphLowering`, and the module with `call`."""
        ...


@contextlib.contextmanager
def compiles_without_a_card(gpu: GpuSpec, watcher: Watcher) -> Iterator[None]:
    """While open, `torch.compile` with Inductor works on the virtual GPU.

    Raises:
        MemgraphError: the `triton` package is not installed.
    """
    _need_triton()
    _import_compiler()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_nothing_kept())
        stack.enter_context(_nobody_looks_into(watcher.own_code()))
        stack.enter_context(_device_answers(gpu))
        timed = tuning.timer(gpu, watcher.timing)
        stack.enter_context(_kernels_do_nothing(timed))
        stack.enter_context(_wrappers_go_through_the_dispatcher())
        stack.enter_context(_constants_are_computed_on_the_host(watcher))
        stack.enter_context(tuning.products_are_padded(gpu, timed, watcher.recording, watcher.state))
        stack.enter_context(_products_stay_with_libraries(watcher))
        stack.enter_context(_graphs_are_not_captured(watcher))
        stack.enter_context(_compiler_is_watched(watcher))
        yield


def _need_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        raise MemgraphError("torch.compile for a GPU needs the triton package: pip install 'memgraph[compile]'")


def _import_compiler() -> None:
    """Import it, and let Dynamo fill its tables of torch's functions, which it keeps by the function itself."""
    with as_torch_is():
        for name in _MODULES:
            importlib.import_module(name)
        _module("torch._dynamo.variables.torch").TorchInGraphFunctionVariable._get_handlers()
        _module("torch._dynamo.trace_rules").get_torch_obj_rule_map()


def _module(name: str) -> Any:
    return importlib.import_module(name)


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Code made here must never run on a real GPU, nor the other way round: caches are off or private, their folder is
    a temporary one, and what Dynamo compiled is forgotten at the end."""
    codecache, async_compile = _module("torch._inductor.codecache"), _module("torch._inductor.async_compile")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_forgotten_by_dynamo())
        stack.enter_context(_temporary_cache_folder())
        stack.enter_context(_module("torch._inductor.config").patch({"fx_graph_cache": False, "compile_threads": 1}))
        stack.enter_context(_module("torch._functorch.config").patch(enable_autograd_cache=False))
        stack.enter_context(_module("torch._dynamo.config").patch(suppress_errors=True))
        for name, empty in (("modules", []), ("modules_no_attr", {}), ("linemaps", {})):
            stack.enter_context(replaced(codecache.PyCodeCache, name, empty))
        stack.enter_context(replaced(async_compile.CompiledTritonKernels, "_cache", {}))
        stack.enter_context(_card_facts_forgotten())
        yield


@contextlib.contextmanager
def _forgotten_by_dynamo() -> Iterator[None]:
    before = set(sys.modules)
    try:
        yield
    finally:
        with as_torch_is():
            torch._dynamo.reset()
        for name in set(sys.modules) - before:
            if name.startswith(_KERNELS):
                del sys.modules[name]


@contextlib.contextmanager
def _temporary_cache_folder() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    with tempfile.TemporaryDirectory(prefix=CACHE_PREFIX) as folder:
        os.environ.update(dict.fromkeys(before, folder))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def _card_facts_forgotten() -> Iterator[None]:
    """Inductor remembers what it asked of the card with `functools.cache`: another card must not inherit it."""
    owners = (
        _module("torch._inductor.utils"), _module("torch.utils._triton"),
        _module("torch._inductor.runtime.hints").DeviceProperties, _module("torch._inductor.fx_passes.pad_mm"),
        _module("torch._inductor.codecache").CacheBase,
    )  # fmt: skip
    functions = [value for owner in owners for value in _remembering(owner)]
    for function in functions:
        function.cache_clear()
    try:
        with replaced(_module("torch._dynamo.device_interface"), "caching_worker_device_properties", {}):
            yield
    finally:
        for function in functions:
            function.cache_clear()


_REMEMBERED = (
    "get_gpu_type", "is_big_gpu", "get_max_num_sms", "using_b200", "get_backend_num_stages", "get_device_tflops",
    "get_gpu_dram_gbps", "has_triton", "has_triton_tma", "has_triton_tma_device", "_device_supports_tma",
    "has_triton_experimental_host_tma", "has_triton_tensor_descriptor_host_tma", "has_triton_stable_tma_api",
    "has_datacenter_blackwell_tma_device", "triton_backend", "triton_hash_with_backend", "create", "get_pad_cache",
    "get_local_cache_path", "get_system",
)  # fmt: skip


def _remembering(owner: Any) -> Iterator[Any]:
    for name in _REMEMBERED:
        function = getattr(owner, name, None)
        if hasattr(function, "cache_clear"):
            yield function


@contextlib.contextmanager
def _nobody_looks_into(own: Sequence[CodeType]) -> Iterator[None]:
    """Dynamo evaluates every frame below a compiled call; the recorder's are not the user's. The mark stays on our own
    code objects, where it means nothing to anybody else."""
    types, frames = _module("torch._dynamo.types"), _module("torch._C._dynamo.eval_frame")
    skip = types.FrameExecStrategy(types.FrameAction.SKIP, types.FrameAction.SKIP)
    for code in own:
        frames.set_code_exec_strategy(code, skip)
    yield


@contextlib.contextmanager
def _device_answers(gpu: GpuSpec) -> Iterator[None]:
    """Dynamo and Inductor ask for the device through an interface class, which kept torch's own functions when it was
    imported; and they ask Triton's driver, which is not there."""
    interface = _module("torch._dynamo.device_interface").CudaInterface
    utils, triton = _module("torch._inductor.utils"), _module("torch.utils._triton")
    with contextlib.ExitStack() as stack:
        for name in _ASKED_OF_CUDA:
            stack.enter_context(replaced(interface, name, staticmethod(getattr(torch.cuda, name))))
        for name in ("Event", "Stream"):
            stack.enter_context(replaced(interface, name, getattr(torch.cuda, name)))
        for name in ("get_raw_stream", "exchange_device", "maybe_exchange_device"):
            stack.enter_context(replaced(interface, name, staticmethod(_zero)))
        for name in ("_exchange_device", "_maybe_exchange_device"):
            stack.enter_context(replaced(torch.cuda, name, lambda *_: 0))
        stack.enter_context(_put(torch._C, "_cuda_getCurrentRawStream", _zero))  # CPU-only builds have none
        stack.enter_context(replaced(triton, "triton_hash_with_backend", lambda: "MEMGRAPH"))
        stack.enter_context(replaced(utils, "get_device_tflops", lambda dtype: _rate(gpu, dtype)))
        stack.enter_context(replaced(utils, "get_gpu_dram_gbps", lambda: gpu.bandwidth / 1e9))
        yield


_ASKED_OF_CUDA = (
    "current_device", "set_device", "device_count", "stream", "current_stream", "set_stream", "synchronize",
    "get_device_properties", "memory_allocated", "is_bf16_supported",
)  # fmt: skip


def _zero(*_: Any, **__: Any) -> int:
    return 0


def _rate(gpu: GpuSpec, dtype: torch.dtype) -> float:
    """What Inductor takes for the card's TFLOP/s: its data sheet's, for the few cards whose name is there; else an
    estimate by Triton (`get_max_tensorcore_tflops`, `get_max_simd_tflops` of triton/testing.py), which is given MHz
    and expects kHz. So it is a thousandth, and nearly every product counts as bound by arithmetic."""
    single = dtype is torch.float32
    tf32 = single and torch.backends.cuda.matmul.fp32_precision == "tf32"
    sheet = _module("torch._inductor.utils").datasheet_tops(dtype, is_tf32=tf32)
    if sheet is not None:
        return float(sheet)
    megahertz = gpu.float_rate / (gpu.sms * _CORES * 2) / 1e6
    operations = (256 if tf32 else 32) if single else 512
    return gpu.sms * 4 * megahertz * operations * 1e-9


_CORES = 128
"""fp32 cores of an SM."""


@contextlib.contextmanager
def _put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` while open, whether there was one before or not."""
    if hasattr(owner, name):
        with replaced(owner, name, value):
            yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)


@contextlib.contextmanager
def _kernels_do_nothing(timed: tuning.Timer) -> Iterator[None]:
    """A generated kernel is loaded, so that its configurations are known, and neither compiled nor launched. Its first
    launch takes what choosing among them on the card would take (`tuning.py`)."""
    async_compile = _module("torch._inductor.async_compile")
    heuristics = _module("torch._inductor.runtime.triton_heuristics")
    helpers = _module("torch._inductor.runtime.triton_helpers")

    def load(_self: Any, kernel_name: str, source_code: str, device_str: str = "cuda") -> Any:
        return async_compile._load_triton_kernel_from_source(kernel_name, source_code)

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(async_compile.AsyncCompile, "triton", load))
        stack.enter_context(replaced(helpers, "set_driver_to_gpu", lambda: None))
        stack.enter_context(replaced(heuristics.CachingAutotuner, "precompile", lambda *_, **__: None))
        stack.enter_context(replaced(heuristics.CachingAutotuner, "run", tuning.first_launch(timed)))
        yield


@contextlib.contextmanager
def _wrappers_go_through_the_dispatcher() -> Iterator[None]:
    """A wrapper allocates and takes views by C++ functions that no dispatch mode sees
    (torch/csrc/dynamo/guards.cpp); and an input's address is asked for its alignment, which fresh storages have."""
    guards = torch._C._dynamo.guards
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(guards, "_empty_strided_cuda", _empty_strided))
        stack.enter_context(replaced(guards, "_reinterpret_tensor", _reinterpret))
        stack.enter_context(replaced(guards, "assert_alignment", lambda *_: None))
        stack.enter_context(replaced(_module("torch._inductor.compile_fx"), "get_input_idxs_to_check", lambda *_: []))
        yield


def _empty_strided(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cuda")


def _reinterpret(tensor: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int = 0) -> torch.Tensor:
    return torch.as_strided(tensor, size, stride, tensor.storage_offset() + offset)


class _OnHost(TorchDispatchMode):
    """What is asked of the device is computed on the CPU; the watcher is told of each result."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watcher = watcher

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        moved = [_CPU if isinstance(arg, torch.device) else arg for arg in args]
        named = {name: _CPU if isinstance(arg, torch.device) else arg for name, arg in (kwargs or {}).items()}
        result = func(*moved, **named)
        if isinstance(result, torch.Tensor):
            self._watcher.constant(result)
        return result


@contextlib.contextmanager
def _constants_are_computed_on_the_host(watcher: Watcher) -> Iterator[None]:
    """Inductor folds constants by computing them, one element each, on the device (`UniformValueConstantFolder` of
    fx_passes/joint_graph.py); and it traces its patterns there, for which any device will do."""
    joint = _module("torch._inductor.fx_passes.joint_graph")
    folder = joint.UniformValueConstantFolder
    initialise, deduce, patterns = folder.__init__, folder._deduce_value, joint.lazy_init

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        with _OnHost(watcher):
            initialise(self, *args, **kwargs)

    def deduce_value(self: Any, node: Any) -> Any:
        with _OnHost(watcher):
            return deduce(self, node)

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(folder, "__init__", init))
        stack.enter_context(replaced(folder, "_deduce_value", deduce_value))
        once = functools.cache(lambda: _initialise_patterns(patterns, watcher))
        stack.enter_context(replaced(joint, "lazy_init", lambda *_: once()))
        yield


_PATTERN_CONSTANTS: list[int] = []
"""Bytes of each constant in the patterns, found when this process first traced them."""


def _initialise_patterns(patterns: Callable[..., Any], watcher: Watcher) -> None:
    """Trace the patterns once in a process, as for the CPU; a fresh process on the card makes their constants there:
    `torch.tensor(2.0, device=device)` (fx_passes/fuse_attention.py) makes a real one, and FakeTensor keeps its value in
    a copy (`may_turn_const` in FakeTensorMode)."""
    with _constants_counted():
        patterns(_CPU)
    made = [torch.empty(size, dtype=torch.uint8) for size in _PATTERN_CONSTANTS for _ in range(2)]
    for tensor in made:
        watcher.constant(tensor)


@contextlib.contextmanager
def _constants_counted() -> Iterator[None]:
    convert = FakeTensorConverter.from_real_tensor

    def counted(
        self: Any, mode: Any, tensor: torch.Tensor, make_constant: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        if make_constant:
            _PATTERN_CONSTANTS.append(tensor.untyped_storage().nbytes())
        return convert(self, mode, tensor, make_constant, *args, **kwargs)

    with replaced(FakeTensorConverter, "from_real_tensor", counted):
        yield


@contextlib.contextmanager
def _products_stay_with_libraries(watcher: Watcher) -> Iterator[None]:
    """`max-autotune` times Triton templates against cuBLAS and cuDNN on the card; nothing can be timed here, and the
    library's kernel is taken."""
    selector = _module("torch._inductor.select_algorithm").AlgorithmSelectorCache
    choose = selector.__call__

    def library(self: Any, name: str, choices: list[Any], *args: Any, **kwargs: Any) -> Any:
        libraries = [choice for choice in choices if selector._is_extern(choice)]
        if len(choices) > 1 and libraries:
            watcher.state(f"autotuning is taken to choose the library's {name}; what its trials take is not counted")
            choices = libraries[:1]
        return choose(self, name, choices, *args, **kwargs)

    with replaced(selector, "__call__", library):
        yield


@contextlib.contextmanager
def _graphs_are_not_captured(watcher: Watcher) -> Iterator[None]:
    """`reduce-overhead` replays CUDA graphs, whose memory lies in pools of their own; here each graph runs as it is."""
    compile_fx = _module("torch._inductor.compile_fx")

    def cudagraphify(model: Callable[..., Any], static_input_idxs: Sequence[int] = (), **_: Any) -> Callable[..., Any]:
        watcher.state("CUDA graphs are not captured: their pools of memory come on top, see the bound")
        key, static = object(), frozenset(static_input_idxs)

        def run(inputs: Any) -> Any:
            copied = [value for place, value in enumerate(inputs) if place not in static]
            watcher.captured(key, sum(map(_bytes, copied)))
            del copied
            return model(inputs)

        return run

    with (
        replaced(compile_fx, "cudagraphify", cudagraphify),
        _put(torch._C, "_cuda_cudaCachingAllocator_is_enabled", lambda: True),  # CPU-only builds have none
    ):
        yield


def _bytes(value: Any) -> int:
    return value.untyped_storage().nbytes() if isinstance(value, torch.Tensor) else 0


@contextlib.contextmanager
def _compiler_is_watched(watcher: Watcher) -> Iterator[None]:
    """Tracing and compiling happen with the recorder away; what comes out is told."""
    frames, graphs = _module("torch._dynamo.convert_frame"), _module("torch._dynamo.output_graph")
    compile_fx, lowering = _module("torch._inductor.compile_fx"), _module("torch._inductor.graph")
    trace, lower = frames._compile, compile_fx._compile_fx_inner
    divide, end = compile_fx.min_cut_rematerialization_partition, graphs.OutputGraph.compile_subgraph
    generate = lowering.GraphLowering.compile_to_module

    def traced(code: CodeType, *args: Any, **kwargs: Any) -> Any:
        with watcher.paused():
            watcher.traced(code, args[1] if len(args) > 1 else kwargs["locals"])
            try:
                return trace(code, *args, **kwargs)
            except Exception as error:
                watcher.failed(error, code)
                raise

    def lowered(*args: Any, **kwargs: Any) -> Any:
        with watcher.paused():  # a backward with dynamic shapes is compiled when it first runs
            return lower(*args, **kwargs)

    def divided(joint: Any, *args: Any, **kwargs: Any) -> Any:
        forward, backward = divide(joint, *args, **kwargs)
        watcher.partitioned(forward, backward, kwargs["num_fwd_outputs"])
        return forward, backward

    def ended(self: Any, tx: Any, reason: Any, *args: Any, **kwargs: Any) -> Any:
        watcher.broke(reason)
        return end(self, tx, reason, *args, **kwargs)

    def generated(self: Any) -> Any:
        module = generate(self)
        watcher.generated(self, module)
        return module

    evaluating = _module("torch._dynamo.eval_frame")
    set_frame = evaluating._maybe_set_eval_frame

    def frame_set(callback: Any) -> Any:
        watcher.entered(callback is not None and callback is not False)
        return set_frame(callback)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_nothing_said())
        stack.enter_context(replaced(evaluating, "_maybe_set_eval_frame", frame_set))
        stack.enter_context(replaced(frames, "_compile", traced))
        stack.enter_context(replaced(compile_fx, "_compile_fx_inner", lowered))
        stack.enter_context(replaced(compile_fx, "min_cut_rematerialization_partition", divided))
        stack.enter_context(replaced(graphs.OutputGraph, "compile_subgraph", ended))
        stack.enter_context(replaced(lowering.GraphLowering, "compile_to_module", generated))
        yield


@contextlib.contextmanager
def _nothing_said() -> Iterator[None]:
    """Dynamo logs what it cannot compile, which the watcher is told, and warns of hooks on all modules, which are the
    recorder's."""
    frames, optimized = _module("torch._dynamo.convert_frame"), _module("torch._dynamo.eval_frame").OptimizedModule
    with replaced(frames.log, "disabled", True), replaced(optimized, "__call__", torch.nn.Module.__call__):
        yield


__all__ = ["Watcher", "compiles_without_a_card"]
