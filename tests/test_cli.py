"""The command line as a user meets it: exit codes, one line an error, what goes where."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import pytest

import memgraph
from memgraph.cli.main import main
from memgraph.trace import Trace
from tests.conftest import Tape

SMALL = ("--batch", "1", "--seq", "64", "--steps", "1", "--set", "lm_n_blocks=1", "--set", "vit_n_blocks=1")
"""A run of half a second."""


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def invoke(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(int(end.value.code or 0), out, err)

    return invoke


def command(*arguments: object) -> list[str]:
    """The same as a process of its own."""
    return [sys.executable, "-m", "memgraph", *map(str, arguments)]


def process(*arguments: object, timeout: float = 60, **options: Any) -> Result:
    """Run a command as a process of its own."""
    result = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=timeout, **options
    )
    return Result(result.returncode, result.stdout, result.stderr)


def is_one_line(result: Result, code: int, message: str) -> None:
    """An error: nothing on stdout, one line on stderr that says whose it is, and no traceback."""
    assert result.err.startswith("memgraph: ") and result.err.endswith("\n") and result.err.count("\n") == 1, result.err
    assert re.search(message, result.err), result.err
    assert (result.code, result.out) == (code, "")


@pytest.fixture
def saved(toy: Trace, tmp_path: Path) -> Path:
    """The toy trace in a file."""
    toy.save(tmp_path / "toy.memgraph")
    return tmp_path / "toy.memgraph"


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is said before anything runs."""
    import memgraph.api

    def predict(*_: object) -> Trace:
        raise AssertionError("it ran")

    monkeypatch.setattr(memgraph.api, "predict", predict)


# ---- wrong usage: exit 2


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model nanovlm-223m", "unknown model 'nanovlm-223m': did you mean nanovlm-222m"),
        ("--model xyzzy", "unknown model 'xyzzy': known: nanovlm-222m, nanovlm-460m"),
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
    is_one_line(process("analyze", "--gpu", "h20"), 2, "unknown GPU 'h20': did you mean h200")


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


# ---- a trace file as the target


@pytest.mark.parametrize(
    "option",
    [
        "--model nanovlm-222m", "--batch 8", "--seq 9", "--gpu h200", "--memory 1GiB", "--amp bf16", "--dtype float32",
        "--optimizer adamw", "--optimizer-impl default", "--steps 2", "--set a=1", "--checkpoint none", "--clip 1",
        "--accumulate 1", "--alloc-conf max_split_size_mb:128",
    ],
)  # fmt: skip
def test_a_trace_and_options_of_a_run_are_refused(run: Run, saved: Path, option: str) -> None:
    """Even where the option says what is the default: it would seem to have been heard."""
    flag = option.split()[0]
    is_one_line(
        run("analyze", saved, *option.split()), 2, f"memgraph: {flag} describes a run, and .* is one already: give one"
    )


def test_a_trace_that_cannot_be_read(run: Run, saved: Path, tmp_path: Path) -> None:
    is_one_line(run("analyze", tmp_path / "missing"), 1, "cannot read .*missing: No such file or directory")
    is_one_line(run("analyze", tmp_path), 1, "cannot read .*: Is a directory")
    saved.write_bytes(saved.read_bytes()[:-9])
    is_one_line(run("analyze", saved), 1, "toy.memgraph is cut short or damaged")
    saved.write_text("a letter to a friend")
    is_one_line(run("analyze", saved), 1, "toy.memgraph is not a memgraph trace.*`memgraph analyze -o FILE` writes one")


def test_a_trace_is_reported(run: Run, saved: Path) -> None:
    result = run("analyze", saved)
    assert (result.code, result.err) == (0, "")
    assert "The peak falls in the backward of step 1, at mm in blocks.1.mlp." in result.out
    assert "next:" not in result.out  # nobody knows how to run it again


def test_what_does_not_fit_exits_with_3_and_reports_all_the_same(run: Run, tape: Tape, tmp_path: Path) -> None:
    tape.segment(2**20)
    tape.out_of_memory(2**30)
    tape.trace().save(tmp_path / "oom")
    result = run("analyze", tmp_path / "oom")
    assert (result.code, result.err) == (3, "") and "Does not fit" in result.out
    result = run("analyze", tmp_path / "oom", "--format", "json")
    assert result.code == 3 and json.loads(result.out)["fits"] is False


def test_checkpoint_plans_saves_and_says_what_does_not_fit(run: Run, tmp_path: Path) -> None:
    of = ("checkpoint", "--model", "tests.planned_models:lean", "--gpu", "rtx3090", "--batch", "512")
    found = run(*of, "--budget", "300MiB", "-o", tmp_path / "plan.json")
    assert found.code == 0 and "With this" in found.out and "holds to the byte" in found.out.replace("\n", " ")
    assert "blocks" in (tmp_path / "plan.json").read_text()
    slow = json.loads(run(*of, "--budget", "300MiB", "--host-cost", "0", "--format", "json").out)
    assert slow["fits"] and slow["host_cost_us"] == 0 and slow["best"]["recompute"] > 0
    assert run(*of, "--budget", "24MiB").code == 3


# ---- the output file


@pytest.mark.usefixtures("no_run")
def test_an_output_that_cannot_be_is_refused_before_the_run(run: Run, saved: Path, tmp_path: Path) -> None:
    before = saved.read_bytes()
    is_one_line(run("analyze", "-o", saved), 2, "toy.memgraph exists: choose another name, or give --force to overwrit")
    is_one_line(run("analyze", "-o", tmp_path / "missing" / "t"), 2, "t cannot be written: there is no folder .*missin")
    is_one_line(run("analyze", "-o", tmp_path), 2, "is a directory")
    is_one_line(run("analyze", "-o", "/dev/null", "--force"), 2, "/dev/null is not a plain file")
    assert saved.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [saved.name]


def test_an_output_in_a_folder_that_takes_none(run: Run, saved: Path) -> None:
    is_one_line(run("analyze", saved, "-o", "/proc/t"), 1, "cannot write /proc/t: ")


def test_force_overwrites(run: Run, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    assert run("analyze", saved, "-o", tmp_path / "there", "--force").code == 0
    assert memgraph.load(tmp_path / "there") == memgraph.load(saved)


# ---- a run


def test_a_run_is_saved_and_reported_alike_from_its_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.memgraph"
    first = run("analyze", *SMALL, "-o", path)
    assert (first.code, first.err) == (0, "")
    again = run("analyze", path, "-o", tmp_path / "copy")
    assert again.out == first.out and path.read_bytes() == (tmp_path / "copy").read_bytes()
    assert "nanovlm-222m: batch 1, seq 64, float32, bf16 autocast, adamw" in first.out
    assert "next: memgraph analyze --batch 2 | --by law | --top 20 | --format json" in first.out
    assert max(map(len, first.out.splitlines())) <= 80
    trace = memgraph.load(path)
    trace.self_check()
    assert trace.settings["set"] == {"lm_n_blocks": "1", "vit_n_blocks": "1"} and trace.settings["steps"] == 1


def test_a_report_for_scripts(run: Run) -> None:
    result = run("analyze", *SMALL, "--gpu", "h200", "--format", "json", "--top", "3")
    assert (result.code, result.err) == (0, "")
    report = json.loads(result.out)
    assert {"requested", "allocated", "reserved", "phase", "op", "module"} <= report["peak"].keys()
    assert {"requested", "allocated", "reserved"} <= report["after_load"].keys()
    assert (report["gpu"], report["fits"], report["schema"]) == ("h200", True, 1)
    assert sum(report["categories"].values()) == report["peak"]["requested"] <= report["peak"]["allocated"]
    assert report["peak"]["allocated"] <= report["peak"]["reserved"] and report["allocations"] > 100
    assert len(report["top"]) == 3 and isinstance(report["assumptions"], list) and report["unknown_ops"] == []
    keys = {"name", "op", "module", "source", "bytes", "count", "shape", "dtype", "law"}
    assert all(keys <= row.keys() for row in report["top"])


def test_what_no_card_holds_is_told_as_fast(run: Run) -> None:
    """100,000 samples of 64 tokens: the logits alone, of 49,153 bf16 values a token, are 573 GiB."""
    result = run("analyze", *SMALL, "--batch", "100000", "--gpu", "b200")
    assert (result.code, result.err) == (3, "")
    assert "Does not fit: " in result.out and "TiB" in result.out
    assert "next: memgraph analyze --checkpoint blocks | --by law | -o step.memgraph | --format json" in result.out


def test_what_fits_barely_and_what_does_not(run: Run) -> None:
    """The verdict turns at the reserved peak itself."""
    reserved = json.loads(run("analyze", *SMALL, "--format", "json").out)["peak"]["reserved"]
    assert run("analyze", *SMALL, "--memory", reserved).code == 0
    less = run("analyze", *SMALL, "--memory", "64MiB", "--checkpoint", "blocks")
    assert less.code == 3 and "next: memgraph analyze --gpu rtx3070 |" in less.out  # the smallest card that holds it


def test_an_optimizer_without_that_form(run: Run) -> None:
    result = run("analyze", *SMALL, "--optimizer", "adafactor", "--optimizer-impl", "fused")
    is_one_line(result, 2, "adafactor has no fused form: use foreach or loop")


def test_a_model_of_ones_own(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear layer of 100 × 10 floats on a batch of 8: weight 4000 bytes, bias 40, input 3200."""
    (tmp_path / "own_model.py").write_text(
        "import torch\n"
        "class Model(torch.nn.Linear):\n"
        "    def forward(self, x): return super().forward(x).sum()\n"
        "def make(batch, width: int): return Model(width, 10), torch.rand(batch, width)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = run("analyze", "--model", "own_model:make", "--batch", "8", "--set", "width=100", "--format", "json")
    assert (result.code, result.err) == (0, "")
    categories = json.loads(result.out)["categories"]
    assert (categories["parameters"], categories["inputs"]) == (4040, 3200)


# ---- the library behind the virtual device


def test_a_cache_folder_that_cannot_be_written() -> None:
    result = process("analyze", *SMALL, env=os.environ | {"MEMGRAPH_CACHE": "/proc/memgraph"})
    is_one_line(result, 1, "cannot write the cache folder /proc/memgraph: .*; set MEMGRAPH_CACHE to one that can be wr")


def test_no_compiler(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    environment |= {"MEMGRAPH_CACHE": str(tmp_path / "cache"), "PATH": str(tmp_path)}
    result = process("analyze", *SMALL, env=environment)
    is_one_line(result, 1, r"no C\+\+ compiler found, .*: install g\+\+ or set CXX")
    assert list((tmp_path / "cache").iterdir()) == []


# ---- signals, pipes and terminals


def test_ctrl_c_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """The model says when its forward runs, and would not end."""
    (tmp_path / "endless.py").write_text(
        "import pathlib, time, torch\n"
        "class Model(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        pathlib.Path('running').touch()\n"
        "        end = time.monotonic() + 50\n"
        "        while time.monotonic() < end: y = super().forward(x)\n"
        "        return y.sum()\n"
        "def make(batch): return Model(10, 10), torch.rand(batch, 10)\n"
    )
    running = subprocess.Popen(
        command("analyze", "--model", "endless:make", "-o", "t.memgraph"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(memgraph.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    _wait_for(tmp_path / "running", running)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert (out, err.lstrip("\n")) == ("", "memgraph: interrupted\n")  # the line of ^C itself may be ended first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["endless.py", "running"]


def _wait_for(path: Path, running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 45
    while not path.exists():
        assert running.poll() is None and time.monotonic() < end, running.communicate()
        time.sleep(0.05)
    time.sleep(0.2)


def test_a_reader_that_goes_away_is_no_error(saved: Path) -> None:
    for arguments in (("gpus",), ("analyze", saved), ("analyze", saved, "--format", "json"), ("--help",)):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer) as stdout:
            result = subprocess.run(command(*arguments), stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=30)
        assert (result.returncode, result.stderr) == (0, b""), arguments


def in_terminal(arguments: tuple[object, ...], stream: str, **environment: str) -> tuple[int, str, str]:
    """Run with `stream` (stdout or stderr) on a terminal; the code, what it saw, what the other stream got."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    streams: dict[str, Any] = {stream: slave, other: subprocess.PIPE}
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    running = subprocess.Popen(command(*arguments), env=clean | {"TERM": "xterm"} | environment, **streams)
    os.close(slave)
    seen = _read_all(master)
    pipe: IO[bytes] | None = getattr(running, other)
    assert pipe is not None
    with pipe:
        rest = pipe.read().decode()
    return running.wait(timeout=60), seen, rest


def _read_all(master: int) -> str:
    """What a terminal saw, until nobody writes to it any more."""
    chunks = []
    try:
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    except OSError:  # how Linux says the end of a terminal
        pass
    os.close(master)
    return b"".join(chunks).decode()


def test_colour_and_the_line_of_blocks_are_for_terminals(saved: Path) -> None:
    code, seen, rest = in_terminal(("analyze", saved), "stdout")
    assert (code, rest) == (0, "")
    assert "\x1b[32m" in seen and "█" in seen  # green: it fits


def test_no_color(saved: Path) -> None:
    _, seen, _ = in_terminal(("analyze", saved), "stdout", NO_COLOR="1")
    assert "\x1b" not in seen and "█" in seen


def test_a_terminal_that_knows_no_blocks_gets_none(saved: Path) -> None:
    code, seen, rest = in_terminal(("analyze", saved), "stdout", PYTHONIOENCODING="ascii")
    assert (code, rest) == (0, "") and seen.isascii() and "Fits" in seen


def test_a_pipe_gets_neither_colour_nor_blocks(saved: Path) -> None:
    result = process("analyze", saved, env=os.environ | {"TERM": "xterm", "FORCE_COLOR": "1"})
    assert (result.code, result.err) == (0, "") and "\x1b" not in result.out and "█" not in result.out


def test_progress_is_for_terminals_and_on_stderr() -> None:
    code, seen, rest = in_terminal(("analyze", *SMALL, "--format", "json"), "stderr")
    assert code == 0 and "step 1 of 1" in seen
    assert json.loads(rest)["fits"] is True


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


def test_the_version(run: Run) -> None:
    assert run("--version") == Result(0, f"memgraph, version {memgraph.__version__}\n", "")


# ---- the catalogue


def test_the_catalogue_of_gpus(run: Run) -> None:
    cards = json.loads(run("gpus", "--format", "json").out)
    h200 = next(card for card in cards if card["name"] == "h200")
    assert (h200["memory"], h200["sms"], h200["context"]) == (150_109_880_320, 132, 554_500_096)
    result = run("gpus")
    assert (result.code, result.err) == (0, "") and len(result.out.splitlines()) == len(cards) + 2


def test_every_card_of_the_catalogue_can_be_asked_for(run: Run, toy: Trace, tmp_path: Path) -> None:
    for card in json.loads(run("gpus", "--format", "json").out):
        dataclasses.replace(toy, gpu=card["name"]).save(tmp_path / card["name"])
        assert card["title"] in run("analyze", tmp_path / card["name"]).out.replace("\n", " ")


def test_growth_is_shown_when_it_is_asked_for(run: Run) -> None:
    """Attention by hand keeps matrices of S² elements; each law says what its bytes come from."""
    small = ("--set", "lm_n_blocks=1", "--set", "vit_n_blocks=1", "--set", "attention=manual", "--top", "4")
    shown = run("analyze", "--batch", 64, "--seq", 256, *small, "--by", "law")
    assert (shown.code, shown.err) == (0, "") and re.search(r"^B·S² +\d", shown.out, re.MULTILINE)
    report = json.loads(run("analyze", "--batch", 64, "--seq", 256, *small, "--by", "law", "--format", "json").out)
    assert sum(row["bytes"] for row in report["growth"]) == report["peak"]["requested"]
    assert report["top"][0]["law"] == "B·S·49153·4"
