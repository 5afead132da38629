"""Write the table of measured plans into docs/checkpoint.md, from what `measured.py` left.

    python -m benchmarks.checkpoint.table [checkpoint_measured.json]

Without an argument it takes `benchmarks/checkpoint/plans/measured/checkpoint_measured.json`.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoint.md"
PLANS = Path(__file__).with_name("plans")
RESULT = PLANS / "measured" / "checkpoint_measured.json"
MIB = 2**20
_BLOCK = re.compile(r"(<!-- measured -->\n).*?(<!-- end of measured -->)", re.DOTALL)


def table(result: dict[str, Any]) -> str:
    """The tables and the sentences around them."""
    plans = {name: found for name, found in result["plans"].items() if "promised_peak" in found}
    ours, alone = by_this_host(result, plans), by_the_card(result, plans)
    off = max(abs(found["promised_peak"]["allocated"] / found["peak"]["allocated"] - 1) for found in plans.values())
    base = "; ".join(
        f"{name.removeprefix('none_').replace('_', ' ')} unchecked {1000 * found['fastest_seconds']:.1f} ms a step"
        for name, found in result["plans"].items()
        if name not in plans
    )
    parts = [
        f"{result['gpu']}, torch {result['torch']}. {base} (the fastest, as all times here). Allocated peaks are at "
        f"most {100 * off:.2f} % off. {slowness(plans, ours)}",
        "\n".join([PEAKS, *(peaks(name, found) for name, found in plans.items())]),
        "\n".join([TIMES, *(times(found, name, ours.get(name), alone.get(name)) for name, found in plans.items())]),
        noise(result), prices(result), deterministic(result),
    ]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


PEAKS = (
    "| plan | requested, MiB | measured | allocated, MiB | measured | reserved, MiB | measured |\n"
    "|---|---|---|---|---|---|---|"
)
TIMES = (
    "| plan | time promised | with this host's prices | measured, fastest | median of rounds "
    "| card alone, promised | measured | gradients equal |\n|---|---|---|---|---|---|---|---|"
)


def by_this_host(result: dict[str, Any], plans: dict[str, Any]) -> dict[str, float]:
    """Times that would have been promised with what calls, hooks and policies were measured to cost there, as ratios.
    Nothing for a result without those."""
    from memgraph.plan.cost import HostCosts

    if "host" not in result:
        return {}
    return ratios(result, plans, HostCosts(*(result["host"][name] for name in ("call", "saved", "policy"))))


def by_the_card(result: dict[str, Any], plans: dict[str, Any]) -> dict[str, float]:
    """Times of the card's kernels alone, as ratios."""
    from memgraph.plan.cost import HostCosts

    return ratios(result, plans, HostCosts.of(0))


def ratios(result: dict[str, Any], plans: dict[str, Any], host: Any) -> dict[str, float]:
    """What such a host would take with each plan by what it takes without; nothing of other plans than the files'."""
    from memgraph.plan.clock import step_time
    from memgraph.plan.cost import costs
    from memgraph.plan.plan_file import load_plan

    of_run = costs(gpu_of(result), host)
    found: dict[str, float] = {}
    for name, measured in plans.items():
        plan = load_plan(PLANS / f"{name}.json")
        if abs(1 + plan.promised["recompute"] - measured["promised_ratio"]) > 1e-9:
            continue
        size = plan.made_for["batch"], plan.made_for["seq"]
        taken = [step_time(trace, of_run(trace)) for trace in (traced("none", *size), traced(plan.bare.text, *size))]
        found[name] = taken[1] / taken[0]
    return found


def gpu_of(result: dict[str, Any]) -> Any:
    """The card in the catalogue."""
    from memgraph.gpu.specs import find

    return find(result["gpu"])


@functools.cache
def traced(plan: str, batch: int, seq: int) -> Any:
    """A run of two steps with a plan, as text, or `none`."""
    from memgraph.options import Options
    from memgraph.study.workers import traced as run

    return run(Options(batch=batch, seq=seq, gpu="h200", checkpoint=plan))[0]


def fastest(found: dict[str, Any]) -> float:
    """By how much the plan's fastest step takes longer than the fastest without."""
    return float(found["time_ratio"])


def slowness(plans: dict[str, Any], ours: dict[str, float]) -> str:
    """How far the times are off."""
    worst = max(abs(fastest(found) / found["promised_ratio"] - 1) for found in plans.values())
    text = f"Step times are at most {100 * worst:.1f} % off what was promised"
    if ours:
        worst = max(abs(fastest(plans[name]) / ratio - 1) for name, ratio in ours.items())
        text += f", and {100 * worst:.1f} % with the prices of this host"
    return text + "."


def peaks(name: str, found: dict[str, Any]) -> str:
    """One plan's memory: promised and measured."""
    sizes = [
        f"{found['promised_peak'][kind] / MIB:,.2f} | {found['peak'][kind] / MIB:,.2f}"
        for kind in ("requested", "allocated", "reserved")
    ]
    return f"| {name.replace('_', ' ')} | {' | '.join(sizes)} |"


def times(found: dict[str, Any], name: str, ours: float | None, alone: float | None) -> str:
    """One plan's time, and its gradients with the usual kernels."""
    busy = found["busy_ms"] / found["unchecked_busy_ms"]
    promised, measured = (found["promised_ratio"], ours, fastest(found), found["median_ratio"]), (alone, busy)
    texts, cards = ([_percent(ratio) for ratio in part] for part in (promised, measured))
    equal = f"{found['difference']['equal_gradients']} of {found['difference']['gradients']}"
    return f"| {' | '.join([name.replace('_', ' '), *texts, *cards, equal])} |"


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def noise(result: dict[str, Any]) -> str:
    """What two runs of the same step differ by, and what a plan adds to it."""
    plain = [found["difference"] for found in result["plans"].values() if "promised_peak" not in found]
    planned = [found["difference"] for found in result["plans"].values() if "promised_peak" in found]
    worst = max(planned, key=lambda found: found["largest_relative"])
    name = next(iter(worst.get("worst", {})), "")
    return (
        f"With the usual kernels two runs of the unchecked step agree to the bit in "
        f"{min(d['equal_gradients'] for d in plain)} of {plain[0]['gradients']} gradients, and are at most "
        f"{max(d['largest_relative'] for d in plain):.1e} apart in the others (norm of the difference by the norm); "
        f"with a plan at most {worst['largest_relative']:.1e}{f', in `{name}`' if name else ''}. The largest "
        f"difference of the loss is {max(abs(d['loss_difference']) for d in planned):.1e}."
    )


def prices(result: dict[str, Any]) -> str:
    """What calls cost on that host."""
    host = result.get("host")
    if host is None:
        return ""
    return (
        f"This host takes {host['call'] / 1000:.1f} us a call, {host['saved'] / 1000:.1f} us more for a tensor that is "
        f"brought back ({host['saved_in_calls']:.1f} calls) and {host['policy'] / 1000:.1f} us more for a call under a "
        f"selective policy ({host['policy_in_calls']:.1f} calls): `benchmarks/checkpoint/host_costs.py`, from a model "
        f"of another size."
    )


def deterministic(result: dict[str, Any]) -> str:
    """Gradients with deterministic kernels, a row a case."""
    found = result.get("deterministic")
    if found is None:
        return ""
    rows = [
        f"| {name.replace('_', ' ')} | {case['equal_gradients']} of {case['gradients']} | "
        f"{case['largest_relative']:.1e} | {next(iter(case['worst'])) if case['largest_relative'] else ''} | "
        f"{case['loss_difference']:.1e} |"
        for name, case in found.items()
        if isinstance(case, dict)
    ]
    head = "| against the unchecked step | equal to the bit | largest difference | in | loss |\n|---|---|---|---|---|"
    left = "; ".join(found["not deterministic"])
    text = f"With deterministic kernels, batch {found['batch']}:"
    return f"{text}\n\n" + "\n".join([head, *rows]) + (f"\n\nTorch warned: {left}." if left else "")


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
