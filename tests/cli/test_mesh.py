"""A model on a mesh, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import Run, is_one_line

SMALL = ("--model", "tests.cli.test_mesh:model", "--gpu", "h100", "--batch", "4")
"""Nothing else is needed of it."""


def model(batch: int) -> object:
    """Two parameters of 64 KiB."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(128, 128, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[1](self.layers[0](x)).square().mean()

    return Model(), torch.zeros(batch, 128)


def test_ranks_of_a_mesh_and_one_gpu(run: Run) -> None:
    """Of 3 ranks the first two have 43 rows of each parameter, the last has 42; three times with AdamW."""
    result = run("analyze", *SMALL, "--world", "3", "--fsdp", "blocks", "--ranks", "all", "--format", "json")
    told = json.loads(result.out)
    assert [row["ranks"] for row in told["ranks"]] == [[0, 1], [2]]
    assert told["settings"]["mesh"] == "dp=3"
    assert told["categories"]["optimizer state"] == 2 * 2 * 43 * 128 * 4  # two moments of two
    assert told["one_gpu"]["requested"] > told["peak"]["requested"] - 2 * 64 * 1024


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("analyze --mesh dp=2 --laws", "laws are those of a run on one GPU"),
        ("analyze --ranks 0,1", "--ranks is of a mesh: add --mesh dp=8"),
        ("analyze --mesh dp=2 --rank 1 --ranks all", "--rank and --ranks say the same"),
        ("checkpoint --mesh dp=2", "a plan is for one GPU"),
        ("record --mesh dp=2 -o unwritten.memgraph", "record the script itself, under torchrun"),
        ("diff --mesh dp=2 --world 2,3", "mesh dp=2 is not of 3 ranks"),
    ],
)
def test_where_a_mesh_has_no_meaning_is_a_line(run: Run, command: str, message: str, tmp_path: Path) -> None:
    is_one_line(run(*command.split()), 2, message)


def test_how_many_cards(run: Run) -> None:
    """One card has 2 parameters of 64 KiB with AdamW, two share them or have a copy each; 64 MiB are cuBLAS's."""
    result = run("fit", *SMALL, "--gpus", "1,2", "--memory", "80MiB")
    assert result.code == 0
    rows = [line.split()[:4] for line in result.out.split("\n") if line.strip()[:1].isdigit()]
    assert rows == [["1", "one", "GPU", "none"], ["2", "dp=2", "ddp", "none"], ["2", "dp=2", "fsdp", "none"]]
    assert max(map(len, result.out.split("\n"))) <= 80


def test_no_card_is_enough(run: Run) -> None:
    result = run("fit", *SMALL, "--gpus", "1", "--memory", "40MiB", "--format", "json")
    assert result.code == 3
    assert [row["mesh"] for row in json.loads(result.out)["refused"]] == ["dp=1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--gpus 0", "--gpus 0: at least 1"),
        ("--gpus x", "--gpus x: write numbers of cards, like 8,16"),
        ("--gpus 2 --mesh dp=2", "--gpus looks for a mesh: leave --mesh and --world out"),
    ],
)
def test_numbers_of_cards_that_are_none(run: Run, options: str, message: str) -> None:
    is_one_line(run("fit", *SMALL, *options.split()), 2, message)
