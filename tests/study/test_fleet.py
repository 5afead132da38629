"""How many cards: which meshes are looked at, which are left out untraced, and what the rest say."""

from __future__ import annotations

from typing import Any

import pytest

from memgraph import Mesh, Options
from memgraph.errors import UsageError
from memgraph.mesh import TP_STYLES
from memgraph.models.shapes import Shape
from memgraph.study.fleet import _Search, heaviest, meshes_that_fit, sensible

SHAPE = Shape(10**9, divided=(16, 8, 4096), layers=12, words=1000, sequence=True)


def texts(gpus: int, shape: Shape | None = SHAPE, seq: int = 4096) -> list[str]:
    return [f"{mesh.text} {mesh.fsdp}" for mesh in sensible(gpus, shape, seq)]


def test_the_simplest_come_first() -> None:
    """8 divides the heads and the 8 key-value heads, and 4 the 12 layers; 8 does not."""
    assert texts(16) == [
        "dp=16 none", "dp=16 blocks", "dp=8,tp=2 blocks", "dp=4,tp=4 blocks", "dp=2,tp=8 blocks", "dp=8,pp=2 blocks",
        "dp=4,pp=4 blocks", "tp=8,pp=2 none",
    ]  # fmt: skip


def test_only_long_sequences_are_cut() -> None:
    """32,768 tokens in 4 parts of 8,192."""
    assert [text for text in texts(8, seq=32768) if "cp" in text] == ["dp=4,cp=2 blocks", "dp=2,cp=4 blocks"]
    assert not any("cp" in text for text in texts(8, seq=8192))


def test_a_model_without_plans_has_dp_alone() -> None:
    assert texts(6, None) == ["dp=6 none", "dp=6 blocks"]
    assert texts(1) == ["dp=1 none"]
    with pytest.raises(UsageError, match="--gpus 0: at least 1"):
        texts(0)


def test_the_ends_of_a_pipeline_are_the_heaviest() -> None:
    """4 stages of 4 ranks."""
    assert heaviest(Mesh(pp=4, dp=4, fsdp="blocks")) == (0, 12)
    assert heaviest(Mesh(dp=4)) == (0,)


@pytest.mark.parametrize(
    ("mesh", "more", "bytes_of_states"),
    [
        (Mesh(dp=4), {}, 20 * 10**9),  # 4 bytes each of the parameter, its gradient, two moments and the second's root
        (Mesh(dp=4, fsdp="blocks"), {}, 5 * 10**9),
        (Mesh(dp=2, tp=2, pp=2, fsdp="blocks"), {"optimizer_impl": "fused"}, 2 * 10**9),  # takes no roots
        (Mesh(tp=2), {"optimizer": "sgd", "dtype": "bfloat16"}, 2 * 10**9),
    ],
)
def test_states_alone(mesh: Mesh, more: dict[str, Any], bytes_of_states: int) -> None:
    for memory, fits in ((bytes_of_states, True), (bytes_of_states - 1, False)):
        search = _Search(Options(gpu="h100", memory=memory, **more), SHAPE, None)
        assert (search.by_states(mesh) is None) is fits


@pytest.mark.parametrize(("memory", "why"), [(17, "the optimizer's step alone takes 1"), (15, "states alone take 1")])
def test_what_is_too_much_is_said(memory: int, why: str) -> None:
    row = _Search(Options(gpu="h100", memory=memory * 10**9), SHAPE, None).by_states(Mesh(dp=4))
    assert row is not None and row.why.startswith(why) and not row.traced


def test_each_mesh_is_traced_and_judged() -> None:
    """Two parameters of 256 KiB with AdamW. Two GPUs share them with FSDP; beside them are the activations and what
    cuBLAS takes, 64 MiB."""
    options = Options(model="tests.capture.test_meshed:two_layers", batch=8, gpu="h100", memory=128 * 2**20)
    found = meshes_that_fit(options, (1, 2))
    assert [(row.gpus, row.mesh.fsdp, row.samples) for row in found.fits] == [
        (1, "none", 8), (2, "none", 16), (2, "blocks", 16),
    ]  # fmt: skip
    one, _, shared = found.fits
    assert sum(one.bound) == one.peak.requested
    assert one.bound.states > shared.bound.states > 0
    assert found.refused == ()


def test_what_does_not_fit_says_where() -> None:
    options = Options(model="tests.capture.test_meshed:two_layers", batch=8, gpu="h100", memory=40 * 2**20)
    found = meshes_that_fit(options, (2,), ("none", "blocks"))
    assert found.fits == ()
    assert {row.why for row in found.refused} == {"out of memory in the backward of step 1"}


def test_words_of_plans_have_styles() -> None:
    from memgraph.world import spread

    assert set(spread._STYLES) == set(TP_STYLES)
