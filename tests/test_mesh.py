"""What a mesh may be, and which rank is where."""

from __future__ import annotations

import dataclasses

import pytest

from memgraph import Mesh, Options
from memgraph.errors import UsageError
from memgraph.mesh import mesh_of


def test_a_mesh_is_as_it_is_given() -> None:
    mesh = mesh_of("dp=8,tp=2", fsdp="blocks")
    assert mesh == Mesh(dp=8, tp=2, fsdp="blocks")
    assert (mesh.world, mesh.text) == (16, "dp=8,tp=2")
    assert mesh_of(None) is None


def test_dp_is_what_the_others_leave_of_the_world() -> None:
    mesh = mesh_of("tp=4,pp=2", world=64, fsdp="blocks")
    assert mesh is not None
    assert mesh.sizes == {"pp": 2, "dp": 8, "tp": 4}


@pytest.mark.parametrize(("rank", "stage"), [(0, 0), (7, 0), (8, 1), (31, 3)])
def test_a_stage_has_neighbouring_ranks(rank: int, stage: int) -> None:
    """32 ranks in 4 stages: 8 each."""
    mesh = Mesh(pp=4, dp=4, tp=2, fsdp="blocks", rank=rank)
    assert mesh.stage == stage
    assert mesh.first_of(stage) == 8 * stage


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "dp=2,tp=2"}, "DDP does not take parameters that tp has cut: add --fsdp blocks"),
        ({"text": "tp=2", "fsdp": "blocks"}, "FSDP shards over dp and cp: give dp more than 1"),
        ({"text": "replicate=2,dp=2"}, "replicate is of FSDP"),
        ({"text": "dp=2", "reshard": "no"}, "--reshard is of FSDP"),
        ({"text": "dp=2", "reduce_dtype": "fp32"}, "--reduce-dtype is of FSDP"),
        ({"text": "dp=8", "fsdp": "blocks", "reshard": "3"}, "--reshard 3: a number above 1 that divides the 8 ranks"),
        ({"text": "dp=8", "fsdp": "blocks", "reshard": "x"}, "--reshard x: write yes, no or a number of ranks"),
        ({"text": "dp=8", "fsdp": "block"}, "unknown --fsdp 'block': did you mean blocks?"),
        ({"text": "dp=8", "fsdp": "blocks", "reduce_dtype": "fp64"}, "unknown --reduce-dtype 'fp64'"),
        ({"text": "dp=2", "rank": 2}, "there is no rank 2 in a world of 2: 0 to 1"),
        ({"text": "dp=0"}, "mesh dp=0: dp must be a whole number from 1"),
        ({"text": "dp"}, "--mesh dp: write it like dp=8,tp=2"),
        ({"text": "dp=2,dp=4"}, "dp is given twice"),
        ({"text": "ep=2"}, "unknown dimension of --mesh 'ep'"),
        ({"text": "dp=4,tp=2", "world": 16}, "mesh dp=4,tp=2 is not of 16 ranks: its sizes must multiply to that"),
        ({"text": None, "world": 0}, "a world of 0 has no ranks"),
        ({"text": None, "fsdp": "blocks"}, "are of a mesh: add --mesh dp=8"),
        ({"text": "dp=1048577"}, "dp must be a whole number from 1 to 1,048,576"),
        ({"text": "dp=1048576,tp=1048576", "fsdp": "blocks"}, "it may be 1,048,576 at most"),
    ],
)
def test_what_does_not_go_together_is_a_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mesh_of(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mesh", "more", "message"),
    [
        (Mesh(pp=4), {"accumulate": 2}, "its 4 stages need as many micro-batches: --accumulate 4 or more"),
        (Mesh(pp=2), {"clip": 1.0}, "clip_grad_norm_ knows one stage"),
        (Mesh(dp=2), {"amp": "fp16"}, "use --amp bf16"),
        (Mesh(tp=2), {"compile": "default"}, "--compile goes with dp alone"),
        (Mesh(dp=2), {"checkpoint": "{}"}, "a plan is for one GPU: use --checkpoint blocks"),
        (Mesh(tp=2), {"optimizer": "adamw-8bit"}, "adamw-8bit takes whole parameters"),
    ],
)
def test_options_that_a_mesh_refuses(mesh: Mesh, more: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(mesh=mesh, **more)  # type: ignore[arg-type]


def test_a_pipeline_has_a_micro_batch_for_each_stage() -> None:
    assert Options(mesh=Mesh(pp=4)).accumulate == 4
    assert dataclasses.replace(Options(mesh=Mesh(pp=4)), accumulate=6).accumulate == 6
