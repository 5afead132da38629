"""Process groups, collectives and objects on one rank of a world that is not there."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer

import memgraph
from memgraph.capture.session import VirtualGpu
from memgraph.errors import MemgraphError
from memgraph.trace import Action, Trace
from memgraph.world.mail import Mail
from memgraph.world.place import place


def sizes(trace: Trace) -> list[int]:
    """Of what was allocated, in order."""
    return [trace.buffers[event.buffer].size for event in trace.events if event.action is Action.ALLOC]


@pytest.mark.parametrize("backend", ["nccl", None, "cpu:gloo,cuda:nccl"])
def test_a_rank_is_told_who_it_is(backend: str | None) -> None:
    with memgraph.virtual_gpu("h100", world=16, rank=11):
        assert dist.is_nccl_available()
        local = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(local)
        dist.init_process_group(backend, device_id=torch.device("cuda", local))
        assert (dist.get_rank(), dist.get_world_size()) == (11, 16)
        assert "nccl" in dist.get_backend()
        assert (torch.cuda.device_count(), torch.cuda.current_device()) == (8, 3)
        assert torch.zeros(2, device="cuda").device == torch.device("cuda", 3)
        dist.barrier()


def test_groups_and_meshes() -> None:
    with memgraph.virtual_gpu("h100", world=8, rank=5):
        dist.init_process_group("nccl")
        mesh = init_device_mesh("cuda", (4, 2), mesh_dim_names=("dp", "tp"))
        assert mesh.get_coordinate() == (2, 1) or mesh.get_coordinate() == [2, 1]
        assert dist.get_process_group_ranks(mesh["tp"].get_group()) == [4, 5]
        assert dist.get_process_group_ranks(mesh["dp"].get_group()) == [1, 3, 5, 7]
        assert dist.new_group([0, 1]) is dist.GroupMember.NON_GROUP_MEMBER
        assert dist.get_world_size(dist.new_group([1, 5, 6])) == 3


def test_a_mesh_splits_a_group_that_is_bound_to_its_device() -> None:
    with memgraph.virtual_gpu("h100", world=8, rank=5):
        torch.cuda.set_device(5)
        dist.init_process_group("nccl", device_id=torch.device("cuda", 5))
        mesh = init_device_mesh("cuda", (4, 2), mesh_dim_names=("dp", "tp"))
        assert dist.get_process_group_ranks(mesh["tp"].get_group()) == [4, 5]
        half = dist.split_group(split_ranks=[[0, 1, 2, 3], [4, 5, 6, 7]])
        assert dist.get_process_group_ranks(half) == [4, 5, 6, 7]
        quarter = dist.split_group(half, [[0, 1], [2, 3]])
        assert dist.get_process_group_ranks(quarter) == [4, 5]


def test_afterwards_torch_distributed_is_as_before() -> None:
    names = ("is_nccl_available", "init_process_group", "TCPStore", "Work")
    before = [getattr(dist, name) for name in names], dist.is_nccl_available(), sys.excepthook, dict(os.environ)
    with contextlib.suppress(ValueError), memgraph.virtual_gpu("h100", world=8):
        dist.init_process_group("nccl")
        raise ValueError
    assert not dist.is_initialized()
    after = [getattr(dist, name) for name in names], dist.is_nccl_available(), sys.excepthook, dict(os.environ)
    assert after == before
    with pytest.raises((RuntimeError, ValueError)):
        dist.init_process_group("nccl", rank=0, world_size=1, store=dist.HashStore())


def test_no_group_is_wrapped_to_be_checked() -> None:
    """`TORCH_DISTRIBUTED_DEBUG=DETAIL` is read on import, and is as before afterwards."""
    before = dist.get_debug_level()
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    try:
        with memgraph.virtual_gpu("h100", world=8):
            dist.init_process_group("nccl")
            dist.barrier()
        assert dist.get_debug_level() == dist.DebugLevel.DETAIL
    finally:
        dist.set_debug_level(before)


def test_a_message_of_any_rank_comes_from_one() -> None:
    with memgraph.virtual_gpu("h100", world=4, rank=2) as gpu:
        dist.init_process_group("nccl")
        assert dist.recv(torch.zeros(4, device="cuda")) == 0
    assert "a message of any rank is taken to come from rank 0" in gpu.trace.assumptions


def test_a_list_is_gathered_through_one_flat_tensor() -> None:
    """ProcessGroupNCCL gathers into one tensor of 4 × 4,096 bytes and copies from there."""
    with memgraph.virtual_gpu("h100", world=4) as gpu:
        dist.init_process_group("nccl")
        mine = torch.zeros(1024, device="cuda")
        parts = [torch.zeros(1024, device="cuda") for _ in range(4)]
        dist.all_gather(parts, mine)
        flat = torch.zeros(4096, device="cuda")
        dist.all_gather_into_tensor(flat, mine)
        dist.reduce_scatter_tensor(mine, flat)
    assert sizes(gpu.trace) == [4096] * 5 + [4 * 4096] + [4 * 4096]


def test_what_an_asynchronous_collective_reads_lives_until_it_is_waited_for() -> None:
    with memgraph.virtual_gpu("h100", world=2):
        dist.init_process_group("nccl")
        result = torch.zeros(2, 1024, device="cuda")
        before = torch.cuda.memory_allocated()
        work = dist.all_gather_into_tensor(result, torch.zeros(1024, device="cuda"), async_op=True)
        assert torch.cuda.memory_allocated() == before + 4096
        work.wait()
        assert torch.cuda.memory_allocated() == before
        dist.all_gather_into_tensor(result, torch.zeros(1024, device="cuda"), async_op=True)
        assert torch.cuda.memory_allocated() == before  # nobody has the work


def test_known_values_arrive() -> None:
    with memgraph.virtual_gpu("h100", world=4, rank=2):
        dist.init_process_group("nccl")
        count = torch.tensor([3], device="cuda")
        dist.all_reduce(count)
        assert count.item() == 12
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        assert count.item() == 12
        parts = [torch.zeros(1, dtype=torch.int64, device="cuda") for _ in range(4)]
        dist.all_gather(parts, count)
        assert [part.item() for part in parts] == [12] * 4


def test_objects_come_back() -> None:
    with memgraph.virtual_gpu("h100", world=3, rank=1):
        dist.init_process_group("nccl")
        found: list[object] = [None] * 3
        dist.all_gather_object(found, {"rank": 1})
        assert found == [{"rank": 1}] * 3
        given = ["mine"]
        dist.broadcast_object_list(given, src=1)
        assert given == ["mine"]


def test_what_only_another_rank_knows_is_an_error_and_no_wait() -> None:
    with memgraph.virtual_gpu("h100", world=2, rank=1):
        dist.init_process_group("nccl")
        store = dist.TCPStore("127.0.0.1", 29501, 2, False)
        store.set("mine", "1")
        assert store.get("mine") == b"1"
        with pytest.raises(MemgraphError, match="rank 1 waits for 'theirs' in the store"):
            store.get("theirs")


def test_an_unknown_backend_is_torchs_error() -> None:
    with memgraph.virtual_gpu("h100", world=2), pytest.raises((ValueError, RuntimeError, AssertionError)):
        dist.init_process_group("nothing")


def test_what_another_rank_broadcasts_is_taken_to_be_ones_own() -> None:
    with memgraph.virtual_gpu("h100", world=4, rank=2) as gpu:
        dist.init_process_group("nccl")
        names = ["mine"]
        dist.broadcast_object_list(names, src=1)
        assert names == ["mine"]
    assert (
        "what rank 1 sends in broadcast_object_list is taken to be what this rank has itself" in gpu.trace.assumptions
    )


def test_a_rank_scatters_its_own_part_to_itself() -> None:
    with memgraph.virtual_gpu("h100", world=2, rank=1) as gpu:
        dist.init_process_group("nccl")
        got = [None]
        dist.scatter_object_list(got, ["a", "b"], src=1)
        assert got == ["b"]
    assert not any("scatter" in text for text in gpu.trace.assumptions)


def test_functional_collectives_of_known_values_are_known() -> None:
    with memgraph.virtual_gpu("h100", world=4, rank=0):
        dist.init_process_group("nccl")
        mesh = init_device_mesh("cuda", (4,))
        count = torch.tensor(3).to("cuda")
        assert funcol.all_reduce(count, "sum", mesh).item() == 12
        assert funcol.all_reduce(count, "max", mesh).item() == 3
        assert funcol.all_gather_tensor(count.reshape(1), 0, mesh).tolist() == [3, 3, 3, 3]


def test_state_of_other_ranks_is_as_large_as_this_ones() -> None:
    with memgraph.virtual_gpu("h100", world=2, rank=0) as gpu:
        dist.init_process_group("nccl")
        layers = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(4)]).cuda()
        model = torch.nn.parallel.DistributedDataParallel(layers)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-3)
        model(torch.zeros(2, 64, device="cuda")).sum().backward()
        optimizer.step()
        optimizer.consolidate_state_dict(to=0)
        assert len(optimizer.state_dict()["state"]) == 8
        uneven = ZeroRedundancyOptimizer([layers[0].weight, *layers[1].parameters()], torch.optim.SGD, momentum=0.9)
        uneven.step()
        uneven.consolidate_state_dict(to=0)  # a matrix and a bias are this rank's, the other rank has one matrix
        assert len(uneven.state_dict()["state"]) == 3
    assert any("the optimizer's state on other ranks" in text for text in gpu.trace.assumptions)


@pytest.mark.parametrize("pinned", [False, True])
def test_asynchronous_checkpoints_are_staged_on_the_host(pinned: bool) -> None:
    """As `torch.distributed.checkpoint.async_save` does it: a storage of the host for each on the device."""
    with memgraph.virtual_gpu("rtx3090", world=2):
        whole = torch.ones(64, 64, device="cuda")
        stager = StateDictStager(pin_memory=pinned, share_memory=False, pin_memory_min_bytes=0)
        for _ in range(2):  # the second time into the storages of the first
            staged = stager.stage({"whole": whole, "rows": whole[:8], "step": torch.tensor(3.0)})
        assert staged["rows"].device == torch.device("cpu") and staged["rows"].shape == (8, 64)
        assert staged["rows"].untyped_storage().data_ptr() == staged["whole"].untyped_storage().data_ptr()
        assert staged["whole"].untyped_storage().nbytes() == 64 * 64 * 4 and staged["step"].item() == 3.0
        assert torch.cuda.memory_allocated() == 64 * 64 * 4


def test_what_another_rank_broadcasts_comes_from_it_where_it_can_be_asked(tmp_path: Path) -> None:
    """Each list is a talk of its own, in order, whoever had it first."""
    got: list[object] = []
    for rank in (0, 1):
        mail = Mail(rank, tmp_path, None)
        mail.announce()
        with VirtualGpu("h100", place=place(2, rank), mail=mail) as gpu:
            dist.init_process_group("nccl")
            for number in range(2):
                said = [f"of rank {rank}, {number}"]
                dist.broadcast_object_list(said, src=0)
                got += said
            part = [None]
            dist.scatter_object_list(part, ["a", "b"] if rank == 0 else None, src=0)
            got += part
    assert got == ["of rank 0, 0", "of rank 0, 1", "a", "of rank 0, 0", "of rank 0, 1", "b"]
    assert not any("object_list" in text for text in gpu.trace.assumptions)


@pytest.mark.parametrize(("calls", "told"), [(True, True), (False, False)])
def test_one_rank_alone_takes_the_others_to_join_it(calls: bool, told: bool) -> None:
    with memgraph.virtual_gpu("h100", world=2) as gpu:
        dist.init_process_group("nccl")
        if calls:
            dist.barrier()
    assert any("the other ranks are taken to call the same" in text for text in gpu.trace.assumptions) is told


def test_ranks_write_their_checkpoints_beside_each_other(tmp_path: Path) -> None:
    for rank in (0, 1):
        with memgraph.virtual_gpu("h100", world=2, rank=rank):
            torch.cuda.set_device(rank)
            dist.init_process_group("nccl")
            layer = fully_shard(torch.nn.Linear(8, 8, bias=False, device="cuda"))
            dcp.save(layer.state_dict(), checkpoint_id=tmp_path)
            dcp.load(layer.state_dict(), checkpoint_id=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("**/.metadata")) == [".metadata", ".metadata"]
    assert (tmp_path / "rank-1" / ".metadata").exists()
