"""What single ops asked of the allocator on a card, against what memgraph predicts.

    python -m benchmarks.single_ops.compare benchmarks/recordings/single_ops.jsonl.gz predicted.jsonl [--only eigh] [--table]

For each case that differs one line: `sizes` (the same requests in another order, or their frees), `peak` (other requests,
but the peak within 1 %), `OTHER`, or the errors; with the requests that only one side has. `unknown` names ops that
memgraph itself lists as not known. `same` is every request and free alike, in order. The last lines count by the first
word of the name; `--table` prints them alone, as docs/accuracy.md has them.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
from pathlib import Path
from typing import Any

WORDS = ("same", "sizes", "peak", "OTHER")
GRID = "grid "
Case = dict[str, Any]


def read(path: Path) -> dict[str, Case]:
    """The cases by their names; the first line says what ran."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {row["name"]: row for row in rows if "name" in row}


def verdict(card: Case, ours: Case) -> str:
    """How much alike two cases are, one of `WORDS`; `refused` where both are, `ERROR` where one is."""
    if "error" in card or "error" in ours:
        return "refused" if "error" in card and "error" in ours else "ERROR"
    card, ours = card["again"], ours["again"]
    if card["events"] == ours["events"]:
        return "same"
    if requests(card) == requests(ours):
        return "sizes"
    return "peak" if abs(card["peak"] - ours["peak"]) <= 0.01 * max(card["peak"], 1) else "OTHER"


def requests(case: Case) -> collections.Counter[int]:
    """How often each number of bytes was asked for."""
    return collections.Counter(size for size in case["events"] if size > 0)


def told(card: Case, ours: Case) -> str:
    """What one side asked for and the other did not."""
    if "error" in card or "error" in ours:
        return f"card: {card.get('error', 'fine')} | ours: {ours.get('error', 'fine')}"
    card, ours = card["again"], ours["again"]
    seen, expected = requests(card), requests(ours)
    text = (
        f"peak {card['peak']:,} (ours {ours['peak']:,}); card {listed(seen - expected)}; ours {listed(expected - seen)}"
    )
    return text + (f"; unknown {', '.join(ours['unknown'])}" if ours["unknown"] else "")


def listed(sizes: collections.Counter[int]) -> str:
    return ", ".join(f"{size:,}" + (f" x {times}" if times > 1 else "") for size, times in sorted(sizes.items())) or "-"


def counted(card: dict[str, Case], ours: dict[str, Case]) -> dict[str, collections.Counter[str]]:
    """How often each verdict was given, by the first word of the name; in all under `all`, of grids under `grid`."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name in card.keys() & ours.keys():
        word = verdict(card[name], ours[name])
        for group in (name.split()[0], *(() if name.startswith(GRID) else ("all",))):
            counts[group][word] += 1
    return counts


def table(counts: dict[str, collections.Counter[str]]) -> str:
    """In Markdown."""
    rows = [("ops", *WORDS, "an error on one side or both")]
    rows += [
        (name, *(str(words[word] or "") for word in WORDS), str(words["refused"] + words["ERROR"] or ""))
        for name, words in sorted(counts.items(), key=lambda item: (item[0] in ("all", "grid"), item[0]))
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path)
    parser.add_argument("predicted", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true", help="the counts alone")
    wanted = parser.parse_args()
    card, ours = (read(path) for path in (wanted.measured, wanted.predicted))
    for name in [] if wanted.table else [name for name in card if wanted.only in name and name in ours]:
        word = verdict(card[name], ours[name])
        if word not in ("same", "refused"):
            print(f"{word:8}{name}: {told(card[name], ours[name])}")
    print(table(counted(card, ours)))


if __name__ == "__main__":
    main()
