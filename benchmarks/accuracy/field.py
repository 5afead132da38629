"""Whole scripts of the libraries beside what an H200 took for them, for docs/accuracy.md.

`field/recorded.json` has what torch said at the end of each script there (torch 2.11); `python -m field.run` writes
`field/predicted.json` beside it.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.recordings.compared import KINDS, mib

FOLDER = Path(__file__).resolve().parents[2] / "field"


def section() -> str:
    """The part of docs/accuracy.md on them."""
    recorded, predicted = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("recorded", "predicted"))
    whole = {name: (predicted[name], real) for name, real in recorded["scripts"].items() if name in predicted}
    others = {name: (predicted[name], real) for name, real in recorded["beside"].items() if name in predicted}
    rows = [_row(name, *pair, "") for name, pair in sorted(whole.items())]
    rows += [_row(name, *pair, pair[1]["why"]) for name, pair in sorted(others.items())]
    exact = sum(pair[0]["requested"] == pair[1]["requested"] for pair in whole.values())
    near = sum(abs(pair[0]["requested"] / pair[1]["requested"] - 1) <= 0.005 for pair in whole.values())
    table = tabulate(rows, ["script", "what it does", "requested", *(f"error, {kind}" for kind in KINDS), ""], "github")
    return f"""## Scripts of the field

Scripts as people write them, each whole and with all that it does besides training (`field/scripts/`), on an H200 with
torch 2.11, and predicted by `python -m field.run` without a GPU as for that version, with the libraries of
`field/lock.txt`. Requested in MiB, as recorded.

- {len(rows)} scripts; requested peaks of {exact} are equal to the byte, {near} within half a per cent.
- The last {len(others)} are off, or at the bound of what data choose; the report of such a run says so, or
  [its page](works-with.md) why.

{table}
"""


def _row(name: str, own: dict[str, int], real: dict[str, Any], why: str) -> list[str]:
    errors = [_error(own[kind], real.get(kind)) for kind in KINDS]
    return [name, _about(name), mib(real["requested"]), *errors, why]


def _error(own: int, real: int | None) -> str:
    if real is None:
        return ""
    return "exact" if own == real else f"{100 * (own / real - 1):+.3f} %"


def _about(name: str) -> str:
    text = ast.get_docstring(ast.parse((FOLDER / "scripts" / f"{name}.py").read_text())) or ""
    return " ".join(text.split())
