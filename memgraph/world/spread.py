"""A model over a mesh of ranks, by torch.distributed's own hands: `parallelize_module`, `fully_shard`, DDP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

from memgraph.mesh import Mesh

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_STYLES: Mapping[str, Callable[[], Any] | None] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "colwise_rep": lambda: ColwiseParallel(output_layouts=Replicate()),
    "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
    "rowwise_rep": lambda: RowwiseParallel(input_layouts=Replicate()),
    "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
    "embedding_colwise": lambda: ColwiseParallel(output_layouts=Replicate()),
    "sequence_parallel": SequenceParallel,
    "replicate": None,
    "replicated_with_grad_allreduce": None,
}
"""The words of `memgraph.mesh.TP_STYLES` as torch's styles. None for what stays whole: that its gradient is summed over
the ranks, in place, takes nothing."""


def joined_mesh(mesh: Mesh) -> DeviceMesh:
    """The world's default group, and its mesh with these names; `shards` is dp and cp as one."""
    dist.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))
    sizes = mesh.sizes
    made = init_device_mesh("cuda", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    if mesh.dp > 1 and mesh.cp > 1:
        made["dp", "cp"]._flatten("shards")
    return made


def shards_of(made: DeviceMesh, mesh: Mesh) -> DeviceMesh:
    """The part of it over which parameters are sharded, or copies kept."""
    name = "shards" if mesh.dp > 1 and mesh.cp > 1 else "dp" if mesh.dp > 1 else "cp"
    return made["replicate", name] if mesh.replicate > 1 else made[name]


def unknown_words(plan: Mapping[str, str]) -> list[str]:
    """Those of a tensor plan that torch has no style for."""
    return sorted({word for word in plan.values() if word not in _STYLES})


def cut_layers(model: nn.Module, made: DeviceMesh, plan: Mapping[str, str]) -> None:
    """Tensor parallel, by the model's own plan, whose words torch knows: `{"layers.*.mlp.up_proj": "colwise"}`."""
    styles = {path: style() for path, word in plan.items() if (style := _STYLES[word]) is not None}
    parallelize_module(model, made["tp"], styles, src_data_rank=None)


def shard(model: nn.Module, blocks: Sequence[nn.Module], over: DeviceMesh, mesh: Mesh, compute: str | None) -> None:
    """FSDP2 on each block, and on what is left, which by torch's default stays whole after its forward: the backward
    begins there.

    Args:
        over: the mesh that it shards over.
        compute: what parameters are gathered and used as: `bf16`; None for their own type.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=TYPES[compute] if compute else None,
        reduce_dtype=TYPES[mesh.reduce_dtype] if mesh.reduce_dtype else None,
    )
    kept = mesh.reshard == "no"
    few: dict[str, Any] = {"reshard_after_forward": int(mesh.reshard)} if mesh.reshard.isdecimal() else {}
    how: dict[str, Any] = {"reshard_after_forward": False} if kept else {}
    for block in blocks:
        fully_shard(block, mesh=over, mp_policy=policy, **(few or how))
    fully_shard(model, mesh=over, mp_policy=policy, **how)


def copied(model: nn.Module, over: DeviceMesh) -> nn.Module:
    """DDP as it is by default."""
    device = torch.cuda.current_device()
    return nn.parallel.DistributedDataParallel(model, device_ids=[device], process_group=over.get_group())


def in_groups(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """As an optimizer takes them: those that are cut and those that are not apart, for torch's foreach kernels refuse
    a list of both (`got mixed torch.Tensor and DTensor`)."""
    cut = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    return [{"params": group} for group in (cut, whole) if group]
