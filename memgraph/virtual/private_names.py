"""What memgraph uses of torch without torch's promise, and the check that it is there.

A name that is gone is said before anything runs, with all others that are: for a torch that is newer than those that
were tried, too. Each was there in torch 2.13; `patches.py` and its neighbours say what they do with it.
"""

from __future__ import annotations

import pkgutil

import torch

from memgraph.errors import TorchChanged

EVERY_RUN = (
    "torch.Tensor._make_subclass",
    "torch._C.DisableTorchFunctionSubclass",
    "torch._C.DispatchKey.CompositeExplicitAutogradNonFunctional",
    "torch._C.DispatchKey.CompositeImplicitAutograd",
    "torch._C.Generator",
    "torch._C.StorageBase",
    "torch._C.TensorBase.untyped_storage",
    "torch._C._ConvBackend.Cudnn",
    "torch._C._autograd._get_sequence_nr",
    "torch._C._current_autograd_node",
    "torch._C._disabled_torch_dispatch_impl",
    "torch._C._dispatch_dump",
    "torch._C._dispatch_has_kernel_for_dispatch_key",
    "torch._C._functorch.get_unwrapped",
    "torch._C._functorch.is_functorch_wrapped_tensor",
    "torch._C._functorch.peek_interpreter_stack",
    "torch._C._get_cudnn_allow_tf32",
    "torch._C._get_cudnn_benchmark",
    "torch._C._get_cudnn_deterministic",
    "torch._C._get_cudnn_enabled",
    "torch._C._get_deterministic_algorithms",
    "torch._C._get_sdp_priority_order",
    "torch._C._get_tracing_state",
    "torch._C._only_lift_cpu_tensors",
    "torch._C._set_only_lift_cpu_tensors",
    "torch._C._set_throw_on_mutable_data_ptr",
    "torch._C._storage_Use_Count",
    "torch._C._swap_tensor_impl",
    "torch._C._to_dlpack",
    "torch._VF",
    "torch._higher_order_ops.utils.registered_hop_fake_fns",
    "torch._library.fake_impl.FakeImplCtx",
    "torch._library.simple_registry.find_torch_dispatch_rule",
    "torch._library.simple_registry.singleton",
    "torch._ops.HigherOrderOperator",
    "torch._ops.OpOverload",
    "torch._prims_common.suggest_memory_format",
    "torch._subclasses.fake_tensor.DataDependentOutputException",
    "torch._subclasses.fake_tensor.DynamicOutputShapeException",
    "torch._subclasses.fake_tensor.FakeTensor",
    "torch._subclasses.fake_tensor.FakeTensorMode",
    "torch._subclasses.fake_tensor.UnsupportedOperatorException",
    "torch._subclasses.fake_tensor.in_kernel_invocation_manager",
    "torch._subclasses.fake_tensor.unset_fake_temporarily",
    "torch.autograd._engine_run_backward",
    "torch.autograd.Variable._execution_engine",
    "torch._C._current_graph_task_id",
    "torch.cuda._utils._get_device_index",
    "torch.jit._builtins._find_builtin",
    "torch.nn.Module._call_impl",
    "torch.nested._internal.nested_tensor",
    "torch.nested._internal.sdpa",
    "torch.overrides._len_torch_function_stack",
    "torch.overrides._pop_mode_temporarily",
    "torch.utils._device._device_constructors",
    "torch.utils._foreach_utils",
    "torch.utils._python_dispatch._disable_current_modes",
    "torch.utils._python_dispatch.is_traceable_wrapper_subclass",
    "torch.utils.data.dataloader._MultiProcessingDataLoaderIter",
    "torch.utils.data.dataloader._SingleProcessDataLoaderIter",
)
"""Needed by any virtual GPU."""

SOME_RUNS = (
    "torch._functorch.config",
    "torch._higher_order_ops.scan.generic_scan",
    "torch._C._get_nested_int",
    "torch._chunk_cat",
    "torch._C.DispatchKey.CUDA",
    "torch._C.Future.then",
    "torch._C._distributed_c10d.Store",
    "torch._C._dynamo.guards",
    "torch._dynamo.exc",
    "torch._dynamo.reset",
    "torch._subclasses.fake_tensor.FakeTensorConverter",
    "torch.cuda._pin_memory_utils",
    "torch.cuda.memory._record_memory_history",
    "torch.cuda.memory._snapshot",
    "torch.distributed._functional_collectives.AsyncCollectiveTensor",
    "torch.distributed.checkpoint._state_dict_stager",
    "torch.distributed.fsdp._fully_shard._fsdp_param",
    "torch.distributed.tensor._sharding_prop",
    "torch.utils._python_dispatch.TorchDispatchMode",
    "torch.utils._pytree",
)
"""Needed where a script compiles, is distributed, or runs on a real card; or used only where they are there. Whoever
uses them looks them up with care."""


def check() -> None:
    """Look for the names that every run needs.

    Raises:
        TorchChanged: naming all that are gone.
    """
    gone = [name for name in EVERY_RUN if not _is_there(name)]
    if gone:
        raise TorchChanged(
            f"torch {torch.__version__} has no {', '.join(gone)} any more; memgraph supports 2.11 to 2.15"
        )


def _is_there(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
