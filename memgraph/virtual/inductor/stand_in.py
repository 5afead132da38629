"""`torch.compile` without a GPU: Inductor runs down to its generated wrapper, and kernels that do nothing stand in.

The wrapper is Python code that allocates, calls kernels and lets buffers go, in the order of the real step. Here it is
made as for the virtual GPU and then executed under the recorder, so its allocations, reuses and frees are the compiled
step's. No kernel is compiled, no worker process starts, and nothing is read from or left in torch's compile caches.

Each function of the `inductor_*` files beside this one says what torch does and why that has to differ. Tried on torch
2.11 and 2.13, CPU-only and CUDA builds.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import CodeType

from memgraph.errors import MemgraphError
from memgraph.gpu.specs import GpuSpec
from memgraph.virtual.inductor import tuning
from memgraph.virtual.inductor.caches import nothing_kept
from memgraph.virtual.inductor.card import device_answers
from memgraph.virtual.inductor.constants import constants_are_computed_on_the_host
from memgraph.virtual.inductor.split import parts_are_tried_on_stand_ins
from memgraph.virtual.inductor.watcher import Watcher, compiler_is_watched
from memgraph.virtual.inductor.wrapper import (
    graphs_are_not_captured,
    kernels_do_nothing,
    wrappers_go_through_the_dispatcher,
)
from memgraph.virtual.patches import as_torch_is, replaced

_MODULES = (
    "torch._dynamo", "torch._dynamo.backends.distributed", "torch._dynamo.convert_frame",
    "torch._dynamo.device_interface", "torch._dynamo.output_graph",
    "torch._dynamo.trace_rules", "torch._inductor.compile_fx", "torch._inductor.async_compile",
    "torch._inductor.codecache", "torch._inductor.select_algorithm", "torch._inductor.lowering",
    "torch._inductor.runtime.triton_heuristics", "torch._inductor.runtime.triton_helpers",
    "torch._inductor.fx_passes.joint_graph", "torch._inductor.fx_passes.pad_mm", "torch._inductor.scheduler",
    "torch._functorch.config",
)  # fmt: skip
"""Imported before anything else, with torch as it is: some keep what they find in `torch.cuda` for good."""


@contextlib.contextmanager
def compiles_without_a_card(gpu: GpuSpec, watcher: Watcher) -> Iterator[None]:
    """While open, `torch.compile` with Inductor works on the virtual GPU.

    Raises:
        MemgraphError: the `triton` package is not installed.
    """
    _need_triton()
    _import_compiler()
    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_kept())
        stack.enter_context(_tables_are_filled_again())
        stack.enter_context(_nobody_looks_into(watcher.own_code()))
        stack.enter_context(device_answers(gpu))
        timed = tuning.timer(gpu, watcher.timing)
        stack.enter_context(kernels_do_nothing(timed, watcher.state))
        stack.enter_context(wrappers_go_through_the_dispatcher())
        stack.enter_context(constants_are_computed_on_the_host(watcher))
        stack.enter_context(tuning.products_are_padded(gpu, timed, watcher.recording, watcher.state))
        stack.enter_context(tuning.products_stay_with_libraries(watcher.state))
        stack.enter_context(graphs_are_not_captured(watcher))
        stack.enter_context(parts_are_tried_on_stand_ins())
        stack.enter_context(compiler_is_watched(watcher))
        yield


def _need_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        raise MemgraphError("torch.compile for a GPU needs the triton package: pip install 'memgraph[compile]'")


def _import_compiler() -> None:
    """Import it, and let Dynamo fill its tables of torch's functions, which it keeps by the function itself."""
    with as_torch_is():
        for name in _MODULES:
            import_module(name)
        import_module("torch._dynamo.variables.torch").TorchInGraphFunctionVariable._get_handlers()
        import_module("torch._dynamo.trace_rules").get_torch_obj_rule_map()


@contextlib.contextmanager
def _tables_are_filled_again() -> Iterator[None]:
    """`init_process_group` empties Dynamo's tables (`clear_lru_cache`), which would be filled with what is in place of
    torch's functions."""
    rules = import_module("torch._dynamo.trace_rules")
    clear = rules.clear_lru_cache

    def cleared() -> None:
        clear()
        _import_compiler()

    with replaced(rules, "clear_lru_cache", cleared):
        yield


@contextlib.contextmanager
def _nobody_looks_into(own: Sequence[CodeType]) -> Iterator[None]:
    """Dynamo evaluates every frame below a compiled call; the recorder's are not the user's. The mark stays on our own
    code objects, where it means nothing to anybody else."""
    types, frames = import_module("torch._dynamo.types"), import_module("torch._C._dynamo.eval_frame")
    skip = types.FrameExecStrategy(types.FrameAction.SKIP, types.FrameAction.SKIP)
    for code in own:
        frames.set_code_exec_strategy(code, skip)
    yield
