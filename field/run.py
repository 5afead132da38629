"""Run a script of each library to its end on a virtual GPU, check its figures, and write docs/works-with.md.

    python -m field.run [NAME ...]      # by default all; rows of the page that are not run now stay as they are

A script prints what its parameters and states take by its own arithmetic (`figures.told`); the prediction has the same,
to the byte. Those in `recorded.json` ran on an H200 too, where `requested` is within half a per cent.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "works-with.md"
PREDICTED = HERE / "predicted.json"
"""Peaks by script, as the last run predicted them, for `benchmarks/accuracy/field.py`."""
LIMIT = 900
"""Seconds that a script may take."""
_RECORDED = json.loads((HERE / "recorded.json").read_text())
RECORDED: dict[str, dict[str, int]] = _RECORDED["scripts"]
CASES: dict[str, dict[str, int]] = _RECORDED["cases"]
"""Of scripts that tell a peak for each of their parts (`case:`), bytes requested on an H200."""
BESIDE: dict[str, dict[str, Any]] = _RECORDED["beside"]
"""Of scripts whose prediction is off or a bound: bytes requested on an H200, and why that differs."""
LIBRARIES = {
    "accelerate_loop": "accelerate", "averages_and_style": "torch", "baselines": "stable-baselines3",
    "classic": "torch", "detector": "torch", "diffusers_unet": "diffusers", "diffusion": "torch",
    "fields_and_odes": "torch", "graphs": "torch", "off_policy": "torch", "padded_encoder": "torch",
    "routed_experts": "torch",
    "codebooks_and_flows": "torch", "controlnet": "diffusers", "experts": "transformers", "offload": "accelerate",
    "peft_methods": "peft", "single_file_rl": "torch", "time_series": "transformers", "trainer_texts": "transformers",
    "transforms": "torch",
    "from_pretrained": "transformers", "functional": "torch", "generate_all": "transformers", "generative": "torch",
    "geometric": "torch_geometric", "geometric_links": "torch_geometric",
    "kornia_train": "kornia", "lightning_fabric": "lightning", "lightning_fit": "lightning", "liger": "liger-kernel",
    "linear_attention": "flash-linear-attention", "metric_learning": "pytorch-metric-learning",
    "monai_segment": "monai", "open_clip_train": "open_clip_torch", "optimizers": "pytorch-optimizer",
    "own_optimizers": "torch", "own_quantised": "torch", "pictures_and_videos": "torch", "recommend": "torch",
    "peft_lora": "peft", "plain_loop": "torch", "ppo": "torch", "qlora": "bitsandbytes",
    "quantised_caches": "transformers", "segmentation_models": "segmentation-models-pytorch",
    "sentences": "sentence-transformers", "spectral": "torch", "speech": "torch", "timm_train": "timm",
    "torchao_optim": "torchao", "torchao_quant": "torchao", "torchvision_detection": "torchvision",
    "torchvision_segmentation": "torchvision", "trainer_resume": "transformers", "trl_dpo": "trl", "trl_grpo": "trl",
    "trl_sft": "trl", "ways_to_train": "torch", "yolo": "ultralytics",
}  # fmt: skip
"""Script → the package that it is of, by the name that pip knows."""


class Outcome(NamedTuple):
    """How a script ended."""

    name: str
    version: str
    seconds: float
    said: str
    right: bool
    peak: dict[str, int] | None = None
    """Bytes requested, allocated and reserved, where it came to its end."""


def main(names: list[str]) -> int:
    """Run them, and write their rows of the page; 1 if one did not end as it should."""
    outcomes = []
    for name in names or sorted(LIBRARIES):
        outcomes.append(outcome := run(name))
        print(f"{outcome.name:26} {outcome.version:10} {outcome.seconds:6.1f} s  {outcome.said}", flush=True)
    PAGE.write_text(page(outcomes, rows_of(PAGE.read_text()) if PAGE.exists() else {}))
    before = json.loads(PREDICTED.read_text()) if PREDICTED.exists() else {}
    now = before | {outcome.name: outcome.peak for outcome in outcomes if outcome.peak}
    PREDICTED.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    return 0 if all(outcome.right for outcome in outcomes) else 1


def run(name: str) -> Outcome:
    """One script in a process of its own; a library that is not installed is no failure."""
    try:
        version = importlib.metadata.version(LIBRARIES[name])
    except importlib.metadata.PackageNotFoundError:
        return Outcome(name, "", 0.0, "not installed", right=True)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "memgraph", "run", "--gpu", "h200", "--torch", "2.11", "--format", "json", f"{name}.py"],
        cwd=HERE / "scripts", capture_output=True, text=True, timeout=LIMIT, check=False, env=_quiet(),
    )  # fmt: skip
    said, peak = _checked(name, done), None if done.returncode else _report(done)["peak"]
    kinds = {kind: peak[kind] for kind in ("requested", "allocated", "reserved")} if peak else None
    return Outcome(name, version, time.monotonic() - start, said, right=not said.startswith("FAILS"), peak=kinds)


def _quiet() -> dict[str, str]:
    return os.environ | {
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip


def _checked(name: str, done: subprocess.CompletedProcess[str]) -> str:
    """What the page says of a run."""
    if done.returncode:
        return f"FAILS: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}"
    report = _report(done)
    told = [json.loads(line[9:]) for line in done.stdout.splitlines() if line.startswith("figures: ")]
    for category, figure in [item for figures in told for item in figures.items()]:
        if report["categories"].get(category, 0) != figure:
            return f"FAILS: {category} are {figure:,} bytes, predicted {report['categories'].get(category, 0):,}"
    for case, figure in _cases(done.stdout).items():
        if figure != CASES[name][case]:
            return f"FAILS: {case} requests {figure:,} bytes, on an H200 {CASES[name][case]:,}"
    peak = report["peak"]["requested"]
    if name in CASES:
        return f"{len(CASES[name])} peaks as on an H200, to the byte"
    if name not in RECORDED:
        bound = any("taken to be selected" in text for text in report.get("assumptions", ()))
        ends = ", at the bound of what is chosen" * bound + "; its parts to the byte" * bool(told)
        return f"{peak / 2**20:.1f} MiB{ends}{_beside(name)}"
    real = RECORDED[name]["requested"]
    if abs(peak / real - 1) > 0.005:
        return f"FAILS: {peak:,} bytes requested, on an H200 {real:,}"
    return f"{peak / 2**20:.1f} MiB; on an H200 {real / 2**20:.1f} MiB"


def _report(done: subprocess.CompletedProcess[str]) -> Any:
    """What `--format json` printed below what the script did."""
    return json.loads(done.stdout[done.stdout.index('{\n  "schema"') :])


def _beside(name: str) -> str:
    if name not in BESIDE:
        return ""
    return f"; {BESIDE[name]['requested'] / 2**20:.1f} MiB on an H200: {BESIDE[name]['why']}"


def _cases(printed: str) -> dict[str, int]:
    told = [json.loads(line[5:]) for line in printed.splitlines() if line.startswith("case: ")]
    return {case["name"]: case["requested"] for case in told}


def page(outcomes: list[Outcome], before: dict[str, str]) -> str:
    """docs/works-with.md, with the rows that it had of scripts that were not run now."""
    rows = before | {one.name: row(one) for one in outcomes if one.version}
    return (
        HEAD + "\n".join(rows[name] for name in sorted(rows, key=lambda name: (LIBRARIES[name].lower(), name))) + "\n"
    )


def row(one: Outcome) -> str:
    """A script's row of the page."""
    script = f"[{one.name}.py](../field/scripts/{one.name}.py)"
    return f"| {LIBRARIES[one.name]} {one.version} | {script} | {_about(one.name)} | {one.seconds:.0f} | {one.said} |"


def rows_of(text: str) -> dict[str, str]:
    """The rows of a page, by their scripts."""
    found = [(re.search(r"\[(\w+)\.py\]", line), line) for line in text.splitlines()]
    return {match[1]: line for match, line in found if match and match[1] in LIBRARIES}


def _about(name: str) -> str:
    text = ast.get_docstring(ast.parse((HERE / "scripts" / f"{name}.py").read_text())) or ""
    return " ".join(text.split())


HEAD = """# Works with

Each row is a script as people write them, with models made from configurations, run to its end by `memgraph run`
without a GPU. `make test-field` installs the libraries of [lock.txt](../field/lock.txt), `make test-field-vision` those
of [lock-vision.txt](../field/lock-vision.txt), which need torchvision; both run what they have and write this page.
Seconds are wall time on a busy machine of two cores, most of it the libraries' imports. *Its parts to the byte*:
parameters and optimizer states are what the script counts by its own arithmetic. *On an H200*: the same script was
recorded there (torch 2.11), and its requested peak is within half a per cent. *At the bound of what is chosen*: sizes
that data decide are taken at their most, which the report says; `--select` says how much of the most is chosen. Where
a figure is off, the H200's stands beside it with the cause.

| library | script | what it does | seconds | peak requested |
|---|---|---|---|---|
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
