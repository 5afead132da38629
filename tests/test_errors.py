"""The error tree: exit codes as promised, and "did you mean"."""

from __future__ import annotations

import pytest

from memgraph import errors
from memgraph.errors import MemgraphError, unknown_name

EXIT_CODES = {
    "MemgraphError": 1,
    "UsageError": 2,
    "DoesNotFit": 3,
    "OutsideTolerance": 4,
    "ShimError": 1,
    "TorchChanged": 1,
    "TraceError": 1,
    "InvariantError": 1,
}


@pytest.mark.parametrize("name", EXIT_CODES)
def test_each_error_has_its_exit_code(name: str) -> None:
    error = getattr(errors, name)("what is wrong")
    assert isinstance(error, MemgraphError)
    assert error.exit_code == EXIT_CODES[name]
    assert str(error) == "what is wrong"


def test_a_broken_law_is_a_trace_error() -> None:
    assert issubclass(errors.InvariantError, errors.TraceError)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("h20", "did you mean h200?"),
        ("RTX3090", "did you mean rtx3090?"),
        ("rtx309", "did you mean rtx3090?"),
        ("xyzzy", "known: h200, rtx3060, rtx3090"),
    ],
)
def test_a_mistyped_name_gets_the_closest(name: str, hint: str) -> None:
    error = unknown_name("GPU", name, ["rtx3090", "rtx3060", "h200"])
    assert str(error) == f"unknown GPU {name!r}: {hint}"
    assert error.exit_code == 2


def test_the_hint_keeps_the_known_spelling() -> None:
    assert str(unknown_name("setting", "LossKind", ["lossKind"])).endswith("did you mean lossKind?")


def test_a_name_of_two_lines_stays_on_one() -> None:
    assert "\n" not in str(unknown_name("GPU", "h\n200", ["h200"]))
