"""Write the table of measured plans into docs/checkpoint.md, from what `checkpoint_measured.py` left.

    python benchmarks/checkpoint_table.py [checkpoint_measured.json]

Without an argument it takes `benchmarks/checkpoint_plans/measured/checkpoint_measured.json`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "checkpoint.md"
RESULT = ROOT / "benchmarks" / "checkpoint_plans" / "measured" / "checkpoint_measured.json"
MIB = 2**20
_BLOCK = re.compile(r"(<!-- measured -->\n).*?(<!-- end of measured -->)", re.DOTALL)


def table(result: dict[str, Any]) -> str:
    """The table and the sentences around it."""
    rows = [row(name, found) for name, found in result["plans"].items() if "promised_peak" in found]
    worst = max(abs(error(found)) for found in result["plans"].values() if "promised_peak" in found)
    slow = max(abs(found["time_ratio"] / found["promised_ratio"] - 1) for found in result["plans"].values()
               if "promised_peak" in found)  # fmt: skip
    head = (
        "| plan | requested, MiB | measured | allocated, MiB | measured | reserved, MiB | measured | time | measured "
        "| gradients equal |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    base = "; ".join(
        f"{name.removeprefix('none_').replace('_', ' ')} unchecked {1000 * found['step_seconds']:.1f} ms a step"
        for name, found in result["plans"].items()
        if "promised_peak" not in found
    )
    return (
        f"{result['gpu']}, torch {result['torch']}. {base}. Allocated peaks are at most {100 * worst:.2f} % off, "
        f"step times at most {100 * slow:.1f} %.\n\n" + "\n".join([head, *rows]) + f"\n\n{noise(result)}\n"
    )


def row(name: str, found: dict[str, Any]) -> str:
    """One plan: promised and measured."""
    sizes = [
        f"{found['promised_peak'][kind] / MIB:,.2f} | {found['peak'][kind] / MIB:,.2f}"
        for kind in ("requested", "allocated", "reserved")
    ]
    times = f"{100 * (found['promised_ratio'] - 1):+.1f} % | {100 * (found['time_ratio'] - 1):+.1f} %"
    equal = f"{found['difference']['equal_gradients']} of {found['difference']['gradients']}"
    return f"| {name.replace('_', ' ')} | {' | '.join(sizes)} | {times} | {equal} |"


def error(found: dict[str, Any]) -> float:
    """Of the allocated peak."""
    return float(found["promised_peak"]["allocated"] / found["peak"]["allocated"] - 1)


def noise(result: dict[str, Any]) -> str:
    """What two runs of the same step differ by, and what a plan adds to it."""
    plain = [found["difference"] for found in result["plans"].values() if "promised_peak" not in found]
    planned = [found["difference"] for found in result["plans"].values() if "promised_peak" in found]
    return (
        f"Two runs of the unchecked step agree to the bit in "
        f"{min(d['equal_gradients'] for d in plain)} of {plain[0]['gradients']} gradients, and are at most "
        f"{max(d['largest_relative'] for d in plain):.1e} apart in the others (norm of the difference by the norm); "
        f"with a plan at most {max(d['largest_relative'] for d in planned):.1e}. The largest difference of the loss is "
        f"{max(abs(d['loss_difference']) for d in planned):.1e}."
    )


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULT
    result = json.loads(source.read_text())
    text = PAGE.read_text()
    PAGE.write_text(_BLOCK.sub(lambda match: f"{match[1]}\n{table(result)}\n{match[2]}", text))
    if source != RESULT:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(source.read_text())


if __name__ == "__main__":
    main()
