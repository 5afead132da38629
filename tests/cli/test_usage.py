"""What the command line says of itself, and of a request that cannot be: one line, before anything runs."""

from __future__ import annotations

import re

import click
import pytest

import memgraph
from memgraph.cli.main import main
from memgraph.models.nanovlm_config import PRESETS
from tests.commands import Result, Run, is_one_line, process

# ---- wrong usage: exit 2


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model nanovlm-223m", "unknown model 'nanovlm-223m': did you mean nanovlm-222m"),
        ("--model xyzzy", "unknown model 'xyzzy': known: nanovlm-222m, nanovlm-460m"),
        ("--gpu a100", "unknown GPU 'a100': did you mean a100-40gb or a100-80gb?"),
        ("--gpu rtx309", "unknown GPU 'rtx309': did you mean rtx3090"),
        ("--dtype float23", "unknown dtype 'float23': did you mean float32"),
        ("--amp bf61", "unknown amp 'bf61': did you mean bf16"),
        ("--optimizer adamm", "unknown optimizer 'adamm': did you mean adam"),
        ("--optimizer-impl fusd", "unknown optimizer form 'fusd': did you mean fused"),
        ("--checkpoint block", "unknown checkpoint 'block': did you mean blocks"),
        ("--batch 0", "batch is 0: it must be a whole number, at least 1"),
        ("--batch -3", "batch is -3: it must be"),
        ("--batch many", "Invalid value for '--batch': 'many' is not a valid integer"),
        ("--batch 1.5", "Invalid value for '--batch'"),
        ("--seq 0", "seq is 0: it must be"),
        ("--steps 0", "steps is 0: it must be"),
        ("--accumulate 0", "accumulate is 0: it must be"),
        ("--clip 0", "clip is 0.0: it must be a number above 0"),
        ("--clip nan", "clip is nan: it must be a number above 0"),
        ("--memory lots", "'lots' is not a size: write it like 24GiB"),
        ("--memory 0", "'0' is no memory at all"),
        ("--memory 9999999999TiB", "is more than any memory"),
        ("--set lm_n_blocks", "--set lm_n_blocks: write it like --set vit_img_size=256"),
        ("--set =1", "--set =1: write it like"),
        ("--set lm_n_blocks=1 --set lm_n_blocks=2", "--set lm_n_blocks is given twice, as 1 and as 2"),
        ("--alloc-conf fast", "'fast' is not a setting: write it like max_split_size_mb:128"),
        ("--alloc-conf max_split_size:1", "unknown allocator setting 'max_split_size': did you mean max_split_size_mb"),
        ("--format yaml", "'yaml' is not one of 'table', 'json'"),
        ("--top -1", "Invalid value for '--top'"),
        ("--bacth 1", "No such option '?--bacth'?"),
        ("one two", r"unexpected extra argument"),
    ],
)
def test_a_wrong_request_is_refused_at_once(run: Run, arguments: str, message: str) -> None:
    is_one_line(run("analyze", *arguments.split()), 2, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--set lm_heads=7", "unknown setting 'lm_heads': did you mean lm_n_heads"),
        ("--set lm_n_blocks=few", "lm_n_blocks=few is not a whole number: write it like 512"),
        ("--set lm_tie_weights=maybe", "lm_tie_weights=maybe is neither true nor false"),
        ("--set attention=flash", "unknown value of attention 'flash'"),
        ("--seq 48", "seq 48 has no room for 49 image tokens: use at least as many"),
        ("--set lm_n_heads=7", "lm_n_heads=7 does not divide lm_hidden_dim=576: use lm_n_heads=6 or lm_n_heads=8"),
        ("--set vit_patch_size=15", "vit_patch_size=15 does not divide vit_img_size=224"),
        ("--set lm_hidden_dim=0", "lm_hidden_dim=0 is too small: use at least 1"),
        ("--seq 64 --set lm_max_length=65", "seq 64 contradicts lm_max_length=65: give one of them"),
        ("--model nothing.here:make", "no module named 'nothing'"),
        ("--model json:lods", "unknown function of json 'lods': did you mean loads"),
        ("--model :make", "':make' names no function"),
    ],
)
def test_a_model_that_cannot_be_is_refused(run: Run, arguments: str, message: str) -> None:
    is_one_line(run("analyze", *arguments.split()), 2, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("analize", "unknown command 'analize': did you mean analyze"), ("--nope", "No such option '?--nope'?")],
)
def test_a_wrong_command_is_refused(run: Run, arguments: str, message: str) -> None:
    is_one_line(run(arguments), 2, message)


def test_no_command_is_help(run: Run) -> None:
    result = run()
    assert result.code == 2 and "Usage:" in result.out + result.err and "analyze" in result.out + result.err


def test_a_process_says_it_the_same_way() -> None:
    is_one_line(process("analyze", "--gpu", "h201"), 2, "unknown GPU 'h201': did you mean")


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--picture curve.svg", "--picture draws a curve: give --pareto too"),
        ("--pareto --picture curve.txt", "unknown kind of picture '.txt'"),
        ("--budget lots", "'lots' is not a size"),
        ("--host-cost -1", "Invalid value for '--host-cost'"),
        ("--checkpoint blocks", "starts from a step with nothing checkpointed"),
    ],
)
def test_checkpoint_refuses(run: Run, arguments: str, message: str) -> None:
    is_one_line(run("checkpoint", *arguments.split()), 2, re.escape(message))


# ---- help


def commands() -> list[str]:
    """The names of all of them."""
    return main.list_commands(click.Context(main))


@pytest.mark.parametrize("path", ["", *commands()])
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_80_columns(run: Run, path: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    result = run(*path.split(), "--help")
    assert (result.code, result.err) == (0, "") and "Usage:" in result.out
    assert [line for line in result.out.splitlines() if len(line) > 80] == []
    assert run(*path.split(), "-h").out == result.out


@pytest.mark.parametrize("name", commands())
def test_every_option_is_explained(name: str) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is not None and found.help
    silent = [option.name for option in found.params if isinstance(option, click.Option) and not option.help]
    assert silent == []


def test_help_names_the_presets(run: Run) -> None:
    assert all(name in run("analyze", "--help").out for name in PRESETS)


def test_the_version(run: Run) -> None:
    assert run("--version") == Result(0, f"memgraph, version {memgraph.__version__}\n", "")
