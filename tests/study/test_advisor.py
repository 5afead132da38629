"""Advice: every figure is the trace of that change, and the changes are ranked by what they cost."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import memgraph
from memgraph.analyze.advice import CHANGES, Advised, Price, smaller_batches
from memgraph.analyze.flops import flops, of_op
from memgraph.cli.main import main
from memgraph.errors import UsageError
from memgraph.models.chunked_loss import chunked_cross_entropy
from memgraph.options import Options
from memgraph.render import table_advice
from memgraph.study.advisor import Advisor
from memgraph.trace import Category, Op, TensorSpec
from memgraph.units import GIB, MIB

SMALL = {"lm_n_blocks": "2", "vit_n_blocks": "1"}
WANTED = Options(batch=16, seq=256, gpu="rtx3060", set={**SMALL, "attention": "manual"}, zero_grad="zeros")


@pytest.fixture(scope="module")
def tight() -> Advised:
    """A card of which a step of one sample takes most."""
    import dataclasses

    return Advisor(dataclasses.replace(WANTED, memory=1700 * MIB)).advise()


def test_every_figure_is_a_fresh_trace(tight: Advised) -> None:
    assert not tight.now.fits and tight.rows
    for row in (tight.now, tight.alone, *tight.rows):
        trace = memgraph.predict(row.options)
        assert (row.requested, row.reserved, row.fits) == (trace.peak.requested, trace.peak.reserved, trace.fits)


def test_what_fits_comes_first_and_what_is_cheap_before_what_is_dear(tight: Advised) -> None:
    keys = [(not row.fits, row.price) for row in tight.rows]
    assert keys == sorted(keys)
    assert all(row.requested < tight.now.requested or row.reserved < tight.now.reserved for row in tight.rows)


def test_a_combination_needs_each_of_its_changes(tight: Advised) -> None:
    """Of several changes that fit together, none can be left out."""
    for row in tight.rows:
        if len(row.changes) > 1:
            assert row.fits and not any(
                one.fits for one in tight.rows if len(one.changes) == 1 and one.changes[0] in row.changes
            )


def test_more_micro_batches_than_two_repeat_the_second() -> None:
    """What is traced of a step with many: after the second the gradients are there, and all request alike. Allocated
    bytes move a little with what each leaves behind."""
    peaks = {memgraph.predict(Options(batch=4, seq=128, set=SMALL, accumulate=n)).peak.requested for n in (2, 3, 5)}
    assert len(peaks) == 1


def test_a_step_of_micro_batches_is_told_as_traced_whole() -> None:
    """The step that is found has more micro-batches than the search traces: its figures are the whole step's."""
    tight = Options(batch=16, seq=128, gpu="h200", memory=1300 * MIB, set=SMALL)
    found = Advisor(tight).advise()
    row = next(row for row in found.rows if row.changes[0].name.startswith("accumulate"))
    assert row.fits and row.options.accumulate > 2
    assert row[2:5] == memgraph.predict(row.options).peak[:3]


def test_smaller_batches_divide() -> None:
    found = [(options.batch, options.accumulate) for _, options in smaller_batches(Options(batch=12))]
    assert found == [(6, 2), (4, 3), (3, 4), (2, 6), (1, 12)]


def test_what_is_so_already_is_not_advised() -> None:
    options = Options(
        batch=2,
        seq=128,
        set={**SMALL, "loss_chunks": "8"},
        optimizer="sgd",
        checkpoint="blocks",
        freeze="vision_encoder",
    )
    trace = memgraph.predict(options)
    applying = {change.name for change in CHANGES if change.apply(options, trace) is not None}
    assert (
        applying
        & {"sdpa", "set-to-none", "chunked-loss", "checkpoint", "autocast", "adam-8bit", "adafactor", "freeze-vision"}
        == set()
    )
    assert {"pure-bf16", "fused", "no-foreach"} <= applying


def test_the_optimizer_floor_is_told() -> None:
    """One sample of a large model: parameters, gradients, moments."""
    found = Advisor(
        Options(batch=1, seq=64, gpu="rtx3060", memory=600 * MIB, set={"lm_n_blocks": "1", "vit_n_blocks": "1"})
    ).advise()
    text = table_advice.report(found, 20)
    assert "The batch is not the problem" in text.replace("\n", " ")
    assert max(map(len, text.splitlines())) <= 80
    assert any(row.changes[0].name == "adam-8bit" for row in found.rows)


def test_the_command(tight: Advised) -> None:
    arguments = ["advise", "--batch", "2", "--seq", "128", "--gpu", "rtx3060", "--format", "json"]
    for field, value in SMALL.items():
        arguments += ["--set", f"{field}={value}"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["now"]["fits"] and report["available"] > 10 * GIB
    assert all(row["peak"]["requested"] > 0 and row["code"] for row in report["advice"])


# ---- what the changes do


def test_eight_bit_state() -> None:
    """A weight of 768 x 768: a byte for each of two moments, and a scale of 4 bytes for each 256 elements."""
    trace = memgraph.predict(Options(batch=1, seq=64, set=SMALL, optimizer="adamw-8bit"))
    sizes = {buffer.name: buffer.size for buffer in trace.buffers if buffer.category is Category.OPTIMIZER}
    name = "vision_encoder.blocks.0.attn.out_proj.weight"
    assert [sizes[f"{state} of {name}"] for state in ("state1", "state2")] == [768 * 768] * 2
    assert sizes[f"absmax1 of {name}"] == 768 * 768 // 256 * 4
    assert sizes["state1 of vision_encoder.blocks.0.ln1.bias"] == 768 * 4  # fewer than 4,096 elements stay in fp32


def test_frozen_parameters_have_no_gradients_and_no_state() -> None:
    trace = memgraph.predict(Options(batch=1, seq=64, set=SMALL, freeze="vision_encoder,MP"))
    kept = [buffer.name for buffer in trace.buffers if buffer.category in (Category.GRADIENT, Category.OPTIMIZER)]
    assert kept and not any("vision_encoder" in name or "MP." in name for name in kept)


def test_a_module_to_freeze_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"vision_encodr.*[Dd]id you mean vision_encoder"):
        memgraph.predict(Options(batch=1, seq=64, set=SMALL, freeze="vision_encodr"))


def test_gradients_set_to_zeros_stay() -> None:
    """They are there in the forward of the second step."""
    peaks = {how: memgraph.predict(Options(batch=1, seq=64, set=SMALL, zero_grad=how)) for how in ("none", "zeros")}
    start = {
        how: next(p for p in trace.phases if (p.name, p.step) == ("forward", 2)).start for how, trace in peaks.items()
    }
    live = {
        how: sum(
            trace.buffers[i].size for i in trace.live_at(start[how]) if trace.buffers[i].category is Category.GRADIENT
        )
        for how, trace in peaks.items()
    }
    named = {f"gradient of {b.name}": b.size for b in peaks["zeros"].buffers if b.category is Category.PARAMETER}
    had = {b.name for b in peaks["zeros"].buffers if b.category is Category.GRADIENT}
    assert live == {"none": 0, "zeros": sum(size for name, size in named.items() if name in had)}


def test_the_loss_in_chunks_is_the_loss() -> None:
    import torch

    torch.manual_seed(0)
    hidden, targets = torch.randn(37, 16, requires_grad=True), torch.randint(0, 50, (37,))
    targets[:5] = -100
    head = torch.nn.Linear(16, 50, bias=False)
    for chunks in (1, 4, 64):
        loss = chunked_cross_entropy(head, hidden, targets, chunks)
        (gradient,) = torch.autograd.grad(loss, hidden)
        whole = torch.nn.functional.cross_entropy(head(hidden), targets)
        torch.testing.assert_close(loss, whole)
        torch.testing.assert_close(gradient, torch.autograd.grad(whole, hidden)[0])


def test_chunks_never_hold_all_logits() -> None:
    """B·S = 16·256 rows of 49,153 bf16: 402,661,376 bytes whole, an eighth of it in chunks."""
    trace = memgraph.predict(Options(batch=16, seq=256, set={**SMALL, "loss_chunks": "8"}))
    assert max(buffer.size for buffer in trace.buffers if buffer.shape[-1:] == (49153,)) == 16 * 256 * 49153 * 4 // 8


# ---- flops


def spec(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "float32")


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        (Op("aten.mm.default", 0, inputs=(spec(3, 4), spec(4, 5))), 2 * 3 * 4 * 5),
        (Op("aten.addmm.default", 0, inputs=(spec(5), spec(3, 4), spec(4, 5))), 2 * 3 * 4 * 5),
        (Op("aten.bmm.default", 0, inputs=(spec(7, 3, 4), spec(7, 4, 5))), 7 * 2 * 3 * 4 * 5),
        (Op("aten.convolution.default", 0, inputs=(spec(2, 3, 8, 8), spec(6, 3, 2, 2)), outputs=(spec(2, 6, 4, 4),)),
         2 * (2 * 6 * 4 * 4) * (3 * 2 * 2)),
        (Op("aten._scaled_dot_product_flash_attention.default", 0,
            inputs=(spec(2, 3, 5, 4), spec(2, 3, 7, 4), spec(2, 3, 7, 4))),
         2 * 2 * (2 * 3) * 5 * 7 * 4),
        (Op("aten.add.Tensor", 0, inputs=(spec(3), spec(3))), 0),
    ],
)  # fmt: skip
def test_flops_of_an_op(op: Op, wanted: int) -> None:
    assert of_op(op) == wanted


def test_a_backward_is_twice_its_forward() -> None:
    """Two products for each of the forward's, but none for the inputs' gradient of the first layer."""
    trace = memgraph.predict(Options(batch=2, seq=128, set=SMALL, steps=1))
    by_phase = dict.fromkeys(("forward", "backward"), 0)
    for op in trace.ops:
        name = trace.phases[op.phase].name
        by_phase[name] = by_phase.get(name, 0) + of_op(op)
    assert 1.9 < by_phase["backward"] / by_phase["forward"] < 2.3
    assert sum(by_phase.values()) == flops(trace)


def test_prices_are_in_order() -> None:
    assert [change.price for change in CHANGES] == sorted(change.price for change in CHANGES)
    assert Price.FREE < Price.TIME < Price.NUMBERS < Price.TRAINING
