"""What a run can be asked for, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from memgraph.errors import UsageError
from memgraph.options import AMP, CHECKPOINTS, DTYPES, OPTIMIZER_FORMS, OPTIMIZERS, Options


def test_the_defaults_are_the_seeds_own_run() -> None:
    options = Options()
    assert (options.model, options.batch, options.seq, options.steps) == ("nanovlm-222m", 8, None, 2)
    assert (options.amp, options.dtype, options.optimizer, options.checkpoint) == ("bf16", "float32", "adamw", "none")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("amp", AMP),
        ("dtype", DTYPES),
        ("optimizer", OPTIMIZERS),
        ("optimizer_impl", OPTIMIZER_FORMS),
        ("checkpoint", CHECKPOINTS),
    ],
)
def test_known_names_are_taken_and_others_refused(name: str, known: tuple[str, ...]) -> None:
    for value in known:
        given: dict[str, Any] = {name: value}
        assert getattr(Options(**given), name) == value
    wrong: dict[str, Any] = {name: known[0] + "x"}
    with pytest.raises(UsageError, match=rf"unknown {name.split('_')[0]}.* '{known[0]}x': did you mean .*{known[0]}"):
        Options(**wrong)


@pytest.mark.parametrize("name", ["batch", "seq", "memory", "steps", "accumulate"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "8", True])
def test_counts_are_whole_numbers_from_one_on(name: str, value: Any) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=f"^{name} is {value}: it must be a whole number, at least 1$"):
        Options(**given)
    given[name] = 1
    assert getattr(Options(**given), name) == 1


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_clipping_needs_a_number_above_zero(value: float) -> None:
    with pytest.raises(UsageError, match=r"^clip is .*: it must be a number above 0$"):
        Options(clip=value)
    assert Options(clip=0.1).clip == 0.1


def test_what_a_trace_keeps_is_plain_json() -> None:
    settings = Options(seq=128, set={"vit_n_blocks": "1"}, clip=1.0).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["seq"] == 128 and settings["set"] == {"vit_n_blocks": "1"} and settings["clip"] == 1.0
