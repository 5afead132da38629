"""DDP, FSDP and DTensor's code on one rank: what they hold, to the byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import memgraph
from memgraph.analyze.streams import bounds
from memgraph.render.table import report
from memgraph.trace import Category, Trace

MIB = 2**20
WORLD = 4


def trained(wrap: Callable[[nn.Module], nn.Module], steps: int = 2, world: int = WORLD, rank: int = 0) -> Trace:
    """Two layers of 1,024 × 1,024 numbers, 4 MiB each, as one rank of four."""
    with memgraph.virtual_gpu("h100", world=world, rank=rank) as gpu:
        torch.cuda.set_device(rank)
        dist.init_process_group("cpu:gloo,cuda:nccl")
        model = wrap(nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1024, bias=False)))
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
        for _ in range(steps):
            model(torch.randn(8, 1024, device="cuda")).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    gpu.trace.self_check()
    return gpu.trace


def live_at_end(trace: Trace, category: Category) -> int:
    """Bytes of a category when the run ends."""
    return sum(trace.buffers[index].size for index in trace.live_at(len(trace.events) - 1)
               if trace.buffers[index].category is category)  # fmt: skip


def shard(module: nn.Module, **how: object) -> nn.Module:
    for layer in module:  # type: ignore[attr-defined]
        fully_shard(layer, **how)  # type: ignore[call-overload]
    fully_shard(module, **how)  # type: ignore[call-overload]
    return module


def on_the_card(module: nn.Module) -> nn.Module:
    return module.to("cuda")


def test_each_rank_of_fsdp_has_its_share() -> None:
    """Momentum is sharded as the parameters are: 2 × 4 MiB / 4. One layer is whole at a time: 4 MiB of it."""
    trace = trained(lambda module: shard(on_the_card(module)))
    assert live_at_end(trace, Category.OPTIMIZER) == 2 * 4 * MIB // WORLD
    whole = [buffer.size for buffer in trace.buffers if buffer.category is Category.UNSHARDED]
    assert set(whole) == {4 * MIB}


def test_uneven_shards_are_padded_and_the_last_rank_has_less() -> None:
    """1,024 rows among 3 are 342, 342 and 340."""
    first, last = (trained(lambda module: shard(on_the_card(module)), world=3, rank=rank) for rank in (0, 2))
    assert live_at_end(first, Category.OPTIMIZER) == 2 * 342 * 1024 * 4
    assert live_at_end(last, Category.OPTIMIZER) == 2 * 340 * 1024 * 4


def test_without_a_reshard_both_layers_stay_whole() -> None:
    """Between forward and backward: 2 × 4 MiB instead of none. What a step takes besides is the version's own: 2.15
    lets go of a flat buffer earlier."""
    for how, whole in ((True, 0), (False, 2 * 4 * MIB)):
        trace = trained(lambda module, how=how: shard(on_the_card(module), reshard_after_forward=how))
        forward = next(phase for phase in reversed(trace.phases) if phase.name == "forward")
        alive = trace.alike_at(forward.stop - 1)
        assert sum(kind.bytes for kind in alive if kind.buffer.category is Category.UNSHARDED) == whole


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: shard(on_the_card(module), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)),
        lambda module: shard(on_the_card(module), reshard_after_forward=2),
        lambda module: shard(module, offload_policy=CPUOffloadPolicy()),
        lambda module: shard(on_the_card(module), mesh=init_device_mesh("cuda", (2, 2), mesh_dim_names=("r", "s"))),
        lambda _: shard(nn.Sequential(nn.Linear(1024, 1024, device="meta"))).to_empty(device="cuda"),
        lambda module: FullyShardedDataParallel(module, device_id=torch.cuda.current_device()),
        lambda module: FullyShardedDataParallel(module, device_id=0, use_orig_params=True),
        lambda module: nn.parallel.DistributedDataParallel(on_the_card(module), static_graph=True),
        lambda module: nn.parallel.DistributedDataParallel(on_the_card(module), find_unused_parameters=True),
    ],
    ids=["mixed", "reshard 2", "offload", "hsdp", "meta", "fsdp1", "fsdp1 orig", "ddp static", "ddp unused"],
)
def test_it_runs(wrap: Callable[[nn.Module], nn.Module]) -> None:
    assert trained(wrap).unknown_ops == ()


def test_ddp_holds_more_without_views_of_its_buckets() -> None:
    """Gradients beside the buckets that stay: at most 8 MiB."""
    with_views, without = (
        trained(lambda module, views=views: nn.parallel.DistributedDataParallel(
            on_the_card(module), gradient_as_bucket_view=views)).peak.requested
        for views in (True, False)
    )  # fmt: skip
    assert 0 < without - with_views <= 8 * MIB


def test_ddps_first_bucket_may_stay_into_the_second_step() -> None:
    """It has all gradients, 2 × 4 MiB. Nobody waits for its all-reduce, so NCCL's group holds it until its watchdog has
    looked, or until the next one, which comes in the backward of the second step."""
    trace = trained(lambda module: nn.parallel.DistributedDataParallel(on_the_card(module)))
    assert [trace.buffers[buffer].size for buffer, _ in trace.late] == [8 * MIB]
    ((buffer, late),) = trace.late
    freed, again = trace.lives[buffer].stop, [phase for phase in trace.phases if phase.step == 2]
    assert [phase.name for phase in again if phase.start <= freed < phase.stop] == ["forward"]
    assert [phase.name for phase in again if phase.start <= late < phase.stop] == ["backward"]
    ends = {row.kind: row for row in bounds(trace)}
    assert ends["requested"].eager == trace.peak.requested < ends["requested"].lazy
    assert "whose tensors NCCL's group holds until its watchdog looks" in " ".join(report(trace, 0).split())


def test_tensor_parallel_splits_both_layers() -> None:
    def split(module: nn.Module) -> nn.Module:
        mesh = init_device_mesh("cuda", (WORLD,))
        return parallelize_module(on_the_card(module), mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})

    trace = trained(split)
    assert live_at_end(trace, Category.OPTIMIZER) == 2 * 4 * MIB // WORLD
    assert trace.unknown_ops == ()
