"""What would make a script fit: it is run again, in a process of its own, with each change that can be made without its
help."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from memgraph.analyze.causes import causes
from memgraph.analyze.failures import failure
from memgraph.analyze.remedies import Remedy, ScriptAdvised, helps
from memgraph.errors import MemgraphError, UsageError
from memgraph.plan.plan_file import Plan
from memgraph.study.run import Progress
from memgraph.study.script_plan import plan_of
from memgraph.study.script_runs import Script, ran
from memgraph.trace import Category, Trace

_BATCH = re.compile(r"(?:^|[-_.])(?:batch(?:[-_]?size)?|bs|bsz)(?:$|=|[-_]per[-_])", re.IGNORECASE)
_CODE = {
    "expandable": "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    "fused": "{optimizer}(model.parameters(), fused=True)",
    "no-foreach": "{optimizer}(model.parameters(), foreach=False)",
    "no-cache": "model.config.use_cache = False",
    "chunked-loss": "memgraph.models.chunked_loss.chunked_cross_entropy(nn.Identity(), logits, targets)",
    "no-autocast": "torch.autocast(..., enabled=False)",
    "no-grad": "with torch.no_grad(): ...",
}
"""What to write for each change; `{optimizer}` is the class of one that has the form."""
_TOLD = 3
_SHOWS = 0.05
"""Share of what was alive from which on a change of it is worth a run of the script."""


def advise_script(script: Script, progress: Progress | None = None) -> ScriptAdvised:
    """Run the script as it is and with each change.

    Raises:
        UsageError: there is no such file.
        MemgraphError: it fails, and not for want of memory.
    """
    if not script.module and not Path(script.target).is_file():
        raise UsageError(f"there is no script {script.target}")
    now = ran(script)
    if now is None:
        raise MemgraphError(f"{script.target} fails by itself: see `memgraph run {script.target}`")
    rows = [*_each(script, now, _applicable(now), progress), *_smaller(script, now, progress)]
    return ScriptAdvised(now, tuple(sorted(rows, key=lambda row: (not row.trace.fits, row.trace.peak.reserved))))


def remedies(script: Script, now: Trace, progress: Progress | None = None) -> tuple[Remedy, ...]:
    """What helps a script most that was out of memory, three at most: each change that its bytes speak for, tried.

    Args:
        now: its run, ended by the failure.
    """
    rows = sorted(_each(script, now, _promising(now), progress), key=_helps_most)
    smaller = _smaller(script, now, progress)
    if not any(row.trace.fits for row in (*rows, *smaller)):
        rows = [*_together(script, rows, progress), *rows]
    return (*rows[: _TOLD - len(smaller)], *smaller)


def _helps_most(row: Remedy) -> tuple[int, int]:
    """What fits by what it needs; what does not by how far it came."""
    return (0, row.trace.peak.reserved) if row.trace.fits else (1, -len(row.trace.buffers))


def _applicable(now: Trace) -> list[str]:
    """All but those that a run has no use for. What failed in its first forward may train or not."""
    trains = any(phase.name in ("backward", "optimizer") for phase in now.phases)
    copies = any(one.name == "autocast-copies" for one in causes(now))
    training = ["fused", "no-foreach", "no-cache", "chunked-loss", "checkpoint", *(["no-autocast"] if copies else [])]
    return ["expandable", *(training if trains or not now.fits else ()), *(() if trains else ["no-grad"])]


def _promising(now: Trace) -> list[str]:
    """Of these what the bytes that were alive at the failure speak for."""
    found = failure(now)
    if found is None:
        return []
    alive = dict(found.categories)
    held = alive.get(Category.ACTIVATION, 0) + alive.get(Category.TEMPORARY, 0) > _SHOWS * found.alive
    losses = any(op.name.startswith("aten._log_softmax") for op in now.ops)
    says = {
        "expandable": found.grows is True,
        "fused": found.phase.name == "optimizer",
        "no-foreach": found.phase.name == "optimizer",
        "no-cache": alive.get(Category.CACHE, 0) > 0,
        "chunked-loss": held and losses,
        "checkpoint": held,
        "no-grad": held,
        "no-autocast": True,
    }
    return [name for name in _applicable(now) if says[name]]


def _each(script: Script, now: Trace, names: Sequence[str], progress: Progress | None) -> list[Remedy]:
    """Those of the changes that help."""
    rows: list[Remedy] = []
    for done, name in enumerate(names):
        if progress is not None:
            progress(f"with {name}", done, len(names))
        row = _checkpoints(script, progress) if name == "checkpoint" else _with(script, name)
        if row is not None and helps(row.trace, now):
            rows.append(row)
    return rows


def _with(script: Script, name: str) -> Remedy | None:
    if name == "expandable":
        trace = ran(_expandable(script))
    else:
        trace = ran(script, (name,))
    return None if trace is None else Remedy(name, _code(name, trace), trace)


def _code(name: str, trace: Trace) -> str:
    form = "fused" if name == "fused" else "foreach"
    known = [fact.text.split(", ") for fact in trace.facts if fact.kind == "optimizer"]
    return _CODE[name].format(optimizer=next((who for who, *forms in known if form in forms), "AdamW"))


def _expandable(script: Script) -> Script:
    parts = [part for part in (script.alloc_conf, "expandable_segments:True") if part]
    return script._replace(alloc_conf=",".join(parts))


def _together(script: Script, rows: Sequence[Remedy], progress: Progress | None) -> list[Remedy]:
    """All that get further, at once, if the script fits so; of two forms of an optimizer the first."""
    names = [row.name for row in rows]
    if "fused" in names and "no-foreach" in names:
        names.remove(max(("fused", "no-foreach"), key=names.index))
    if len(names) < 2:
        return []
    if progress is not None:
        progress("with all of these", 0, None)
    changes = tuple(name for name in names if name != "expandable")
    trace = ran(_expandable(script) if "expandable" in names else script, changes)
    told = " and ".join(row.code for row in rows if row.name in names)
    return [Remedy("together", told, trace)] if trace is not None and trace.fits else []


# Checkpoints.


def _checkpoints(script: Script, progress: Progress | None) -> Remedy | None:
    """Around the modules that the planner chooses; around every block where it has no plan."""
    found = plan_of(script, progress)
    if found is not None:
        return Remedy("checkpoint", checkpoint_code(found[0]), found[1])
    trace = ran(script, ("checkpoint",))
    return None if trace is None else Remedy("checkpoint", _CHECKPOINT.format("every block"), trace)


_CHECKPOINT = "x = checkpoint(block, x, use_reentrant=False) of {}"


def checkpoint_code(plan: Plan) -> str:
    """What to write for a plan of modules: `… of blocks.0 to blocks.5, blocks.8`."""
    return _CHECKPOINT.format(", ".join(in_runs([region.modules[0] for region in plan.regions])))


def in_runs(paths: Sequence[str]) -> list[str]:
    """Paths that differ in a number that counts up, as one: `blocks.0 to blocks.5`."""
    runs: list[list[str]] = []
    for path in paths:
        stem, _, number = path.rpartition(".")
        before, _, last = runs[-1][-1].rpartition(".") if runs else ("", "", "")
        follows = stem == before and number.isdigit() and last.isdigit() and int(number) == int(last) + 1
        if follows:
            runs[-1].append(path)
        else:
            runs.append([path])
    return [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]


# A smaller batch.


def batch_argument(arguments: Sequence[str]) -> tuple[int, str, int] | None:
    """The argument that names the batch: its place, what stands before its number, and the number; None if there is
    none."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if not _BATCH.search(name):
            continue
        if equals and value.isdigit():
            return place, f"{name}=", int(value)
        if not equals and place + 1 < len(arguments) and arguments[place + 1].isdigit():
            return place + 1, "", int(arguments[place + 1])
    return None


def batch_option(source: str) -> tuple[str, int] | None:
    """The option of a script that names the batch, and its default, as argparse and click are told; None if it has
    none."""
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError):
        return None
    for call in calls:
        flags = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        default = next((key.value for key in call.keywords if key.arg == "default"), None)
        named = next((flag for flag in flags if flag.startswith("--") and _BATCH.search(flag)), None)
        if named and isinstance(default, ast.Constant) and type(default.value) is int:
            return named, default.value
    return None


def _batch(script: Script) -> tuple[tuple[str, ...], int, str, int] | None:
    """The script's arguments with the batch among them, its place, what stands before the number, and the number."""
    found = batch_argument(script.arguments)
    if found is not None:
        return script.arguments, *found
    path = Path(script.target)
    option = None if script.module or not path.is_file() else batch_option(path.read_text(errors="replace"))
    if option is None:
        return None
    flag, size = option
    return (f"{flag}={size}", *script.arguments), 0, f"{flag}=", size


def _smaller(script: Script, now: Trace, progress: Progress | None) -> list[Remedy]:
    """The largest smaller batch that fits, by bisection of the argument that names it."""
    found = _batch(script)
    if found is None or now.fits:
        return []
    arguments, place, prefix, size = found
    tried: dict[int, Trace | None] = {}

    def fits(batch: int) -> bool:
        if progress is not None:
            progress(f"with a batch of {batch}", len(tried), None)
        changed = (*arguments[:place], f"{prefix}{batch}", *arguments[place + 1 :])
        trace = tried[batch] = ran(script._replace(arguments=changed))
        return trace is not None and trace.fits

    best = largest(size - 1, fits)
    trace = tried.get(best) if best else None
    flag = prefix or f"{arguments[place - 1]} "
    return [Remedy(f"batch {best}", f"{flag}{best}", trace)] if trace is not None else []


def largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, 0 if 1 does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
