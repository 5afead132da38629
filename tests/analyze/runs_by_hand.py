"""A training step of any batch and length, made by hand, whose laws are known."""

from __future__ import annotations

from typing import Any

from memgraph.trace import Category, Role, Trace
from tests.conftest import Tape

MIB = 2**20
ODD = {(2, 16): 96, (3, 40): 512, (5, 24): 7, (4, 32): 1024}
"""Scratch that follows no formula, by batch and length."""


def step(batch: int, seq: int, *, squares: bool = True, blocks: int = 2, **fields: Any) -> Trace:
    """Two blocks and a loss. In bytes:

    - weights: 4,000 each block; a gradient and one moment of the same size once the optimizer runs
    - input: B·S·8
    - each block: hidden B·S·64·4, and attention scores B·4·S·S·2 if `squares`
    - in the loss: logits B·S·100·4, then its gradient, alive together: the peak of any but the smallest sizes
    - inside the loss: scratch by the table `ODD`

    The peak is at the logits' gradient: weights 8,000 + input + 2 x (hidden + scores) + 2 x logits.
    """
    tape = Tape()
    tape.phase("load", 0)
    for block in range(blocks):
        tape.op("aten._to_copy.default", f"blocks.{block}", "train.py:3")
        tape.segment(64 * MIB)
        tape.alloc(4000, Category.PARAMETER, f"blocks.{block}.weight", shape=(1000,), dtype="float32")
    tape.phase("input", 1)
    tape.op("aten._to_copy.default", source="train.py:7")
    tape.alloc(batch * seq * 8, Category.INPUT, "input 0", shape=(batch, seq), dtype="int64")
    tape.phase("forward", 1)
    kept = [_block(tape, block, batch, seq, squares) for block in range(blocks)]
    tape.op("aten.mm.default", "head", "model.py:20")
    logits = tape.alloc(batch * seq * 400, Category.ACTIVATION, shape=(batch, seq, 100), dtype="float32")
    tape.op("aten.nll_loss_forward.default", "", "train.py:9")
    scratch = tape.alloc(ODD.get((batch, seq), 64), Category.WORKSPACE, role=Role.TEMPORARY)
    tape.free(scratch)
    tape.phase("backward", 1)
    tape.op("aten.nll_loss_backward.default", "", "train.py:9", forward=0)
    gradient = tape.alloc(batch * seq * 400, Category.TEMPORARY, shape=(batch, seq, 100), dtype="float32")
    for buffer in (logits, gradient, *(buffer for buffers in kept for buffer in buffers)):
        tape.free(buffer)
    tape.op("aten.mm.default", "blocks.0", "model.py:10", forward=0)
    made = [
        tape.alloc(4000, Category.GRADIENT, f"gradient of blocks.{block}.weight", shape=(1000,), dtype="float32")
        for block in range(blocks)
    ]
    tape.phase("optimizer", 1)
    tape.op("aten._foreach_add.List", source="train.py:12")
    for block in range(blocks):
        tape.alloc(4000, Category.OPTIMIZER, f"exp_avg of blocks.{block}.weight", shape=(1000,), dtype="float32")
    for buffer in made:
        tape.free(buffer)
    settings = {
        "model": "toy", "batch": batch, "seq": seq, "length": seq, "amp": "none", "dtype": "float32",
        "optimizer": "sgd",
    }  # fmt: skip
    return tape.trace(**{"settings": settings, "memory": 64 * MIB} | fields)


def _block(tape: Tape, block: int, batch: int, seq: int, squares: bool) -> list[int]:
    tape.op("aten.mm.default", f"blocks.{block}", "model.py:10")
    hidden = tape.alloc(batch * seq * 256, Category.ACTIVATION, shape=(batch, seq, 64), dtype="float32")
    if not squares:
        return [hidden]
    tape.op("aten.bmm.default", f"blocks.{block}", "model.py:11")
    scores = tape.alloc(batch * seq * seq * 8, Category.ACTIVATION, shape=(batch, 4, seq, seq), dtype="float16")
    return [hidden, scores]
