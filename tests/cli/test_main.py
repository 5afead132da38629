"""The command line as a user meets it: exit codes, what goes where, and what a run leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

import memgraph
from memgraph.trace import Trace
from tests.commands import SMALL, Run, is_one_line, process
from tests.conftest import Tape

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
    why = "that was predicted for rtx3090" if flag in ("--gpu", "--memory") else "already: give one"
    is_one_line(run("analyze", saved, *option.split()), 2, f"memgraph: {flag} describes a run, and .* is one {why}")


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
    of = ("checkpoint", "--model", "tests.plan.planned_models:lean", "--gpu", "rtx3090", "--batch", "512")
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
    is_one_line(run("analyze", "-o", saved), 2, "toy.memgraph exists: choose another name, or overwrite it with --forc")
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
    *report, steps = first.out.splitlines()
    assert again.out.splitlines()[:-1] == report and path.read_bytes() == (tmp_path / "copy").read_bytes()
    assert "nanovlm-222m: batch 1, seq 64, float32, bf16 autocast, adamw" in first.out
    assert steps == "next: add --batch 2, --by law, --top 20 or --format json"
    assert again.out.splitlines()[-1] == "next: add --by law, --top 20 or --format json"
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
    assert "next: add --checkpoint blocks, --by law, -o step.memgraph or --format json" in result.out


def test_what_fits_barely_and_what_does_not(run: Run) -> None:
    """The verdict turns at the reserved peak itself."""
    reserved = json.loads(run("analyze", *SMALL, "--format", "json").out)["peak"]["reserved"]
    assert run("analyze", *SMALL, "--memory", reserved).code == 0
    less = run("analyze", *SMALL, "--memory", "64MiB", "--checkpoint", "blocks")
    assert less.code == 3 and "next: add --gpu rtx3050-laptop, " in less.out  # the smallest card that holds it


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
