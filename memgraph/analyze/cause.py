"""A `Difference` in words: three lines that say what changed, where it is, and what is not to blame."""

from __future__ import annotations

from memgraph.analyze.changes import Change
from memgraph.analyze.diff import Difference, Part
from memgraph.analyze.leaks import leaks
from memgraph.analyze.steps import step_ends
from memgraph.trace import Category, Op, Trace
from memgraph.units import format_bytes

_ENOUGH = 0.1
"""Share of the change from which a part is worth naming."""
_NAMED = 3


def explain(found: Difference) -> tuple[str, str, str]:
    """What changed and why; where it is and how it grows; what is the same."""
    return _what(found), _where(found), _not_to_blame(found)


def signed(size: int) -> str:
    """`+4.445 GiB`, `-847.2 MiB`; `0 B` for no change."""
    return f"{'+' if size > 0 else '-' if size < 0 else ''}{format_bytes(abs(size))}"


def reason(found: Difference) -> str:
    """The settings that differ, in words; or what else does."""
    texts = [_change_text(change) for change in found.settings]
    if texts:
        steps = {len(step_ends(trace)) for trace in (found.before, found.after)}
        only = {change.name for change in found.settings} <= {"script", "steps"} and len(steps) > 1
        return "; ".join([", ".join(texts), *filter(None, [_longer(found) if only else ""])])
    if found.same_ops:
        return "no setting differs"
    return _longer(found) or "the same settings run other ops: the model's code changed"


def _longer(found: Difference) -> str:
    """That one run is the other's first steps, and what the further ones add; empty if it is not so."""
    one, other = sorted((found.before, found.after), key=lambda trace: len(trace.ops))
    if not one.ops or any(_looks(a) != _looks(b) for a, b in zip(one.ops, other.ops, strict=False)):
        return ""
    numbers = [len(step_ends(trace)) for trace in (found.before, found.after)]
    text = f"the same program over {numbers[0]} and {numbers[1]} steps"
    grown = leaks(other)
    return f"{text}; {grown[0].what[0].lower()}{grown[0].what[1:].rstrip('.')}, {grown[0].why}" if grown else text


def _looks(op: Op) -> tuple[object, ...]:
    return op.name, op.module, op.source, op.outputs


def _change_text(change: Change) -> str:
    if change.name == "origin":
        return f"{change.before} against {change.after}"
    return f"{change.name} went from {change.before} to {change.after}"


def _what(found: Difference) -> str:
    one, other = (peak.requested for peak in found.peaks)
    if one == other:
        return f"The requested peak is {format_bytes(one)} in both; {reason(found)}."
    return f"{signed(found.change)} requested ({format_bytes(one)} to {format_bytes(other)}): {reason(found)}."


def _where(found: Difference) -> str:
    if not found.change:
        return _moved(found) or "Nothing at the peak changed."
    named = [part for part in found.places if abs(part.change) >= _ENOUGH * abs(found.change)][:_NAMED]
    named = named or list(found.places[:1])
    rest = found.change - sum(part.change for part in named)
    texts = [f"{_part_text(part)}{_how(found, part)}" for part in named]
    if rest:
        texts.append(f"{signed(rest)} elsewhere")
    return f"{_moved(found)}{', '.join(texts)}{_laws(found)}."


def _part_text(part: Part) -> str:
    return f"{signed(part.change)} {part.name}"


def _how(found: Difference, part: Part) -> str:
    if part.law in ("new", "gone"):
        return f" ({part.law})"
    return f" ({part.law})" if part.law and _one_law(found) is None else ""


def _one_law(found: Difference) -> str | None:
    """The law that all of the change follows, but for a hundredth of it."""
    if _moved(found) or not found.laws or not found.laws[0].name.startswith("as "):
        return None
    return found.laws[0].name if abs(found.laws[0].change) >= 0.99 * abs(found.change) else None


def _laws(found: Difference) -> str:
    grown = [part for part in found.laws if part.name.startswith("as ") and part.change]
    if _moved(found) or not grown:
        return ""
    one = _one_law(found)
    if one is None:
        return f"; {', '.join(f'{signed(part.change)} grows {part.name}' for part in grown)}"
    return f"; {'all' if grown[0].change == found.change else 'over 99 %'} of it grows {one}"


def _moved(found: Difference) -> str:
    one, other = found.peaks
    if one.phase == other.phase or not one.phase or not other.phase:
        return ""
    return f"The peak moves from the {one.phase} to the {other.phase}: "


def _not_to_blame(found: Difference) -> str:
    same = [text for text in (_precision(found), *_same_categories(found)) if text]
    lines = [f"Not changed: {', '.join(same)}" if same else "Nothing is the same"]
    absent = _absent(found)
    return f"{'; '.join([*lines, *absent])}."


def _precision(found: Difference) -> str:
    one, other = (_precision_of(trace) for trace in (found.before, found.after))
    return one if one == other else ""


def _precision_of(trace: Trace) -> str:
    amp, dtype = trace.settings.get("amp"), trace.settings.get("dtype")
    if amp is None or dtype is None:
        return ""
    return f"precision ({'no' if amp == 'none' else amp} autocast, {dtype})"


def _same_categories(found: Difference) -> list[str]:
    wanted = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER)
    rows = {part.name: part for part in found.categories}
    same = [rows[name] for name in wanted if name in rows and not rows[name].change]
    return [f"{part.name} {format_bytes(part.after)}" for part in same]


def _absent(found: Difference) -> list[str]:
    """That nothing grows with the square of the length is worth saying: it is what people suspect."""
    lengthened = any(change.name == "seq" for change in found.settings)
    known = found.same_ops and bool(found.before.ops) and not _moved(found)
    return ["nothing grows as S²"] if lengthened and known and not any("S²" in part.name for part in found.laws) else []
