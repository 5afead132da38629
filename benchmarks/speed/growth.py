"""Are the laws right, and how fast are they? Each part prints what it found, and the script fails if a law was wrong.

python -m benchmarks.speed.growth laws --pairs 20      # laws against fresh traces, random sizes, both attention modes
python -m benchmarks.speed.growth diff                 # seconds of one difference, and whether its parts add up
python -m benchmarks.speed.growth grid                 # seconds of a grid of 1,000 cells, after the first traces
python -m benchmarks.speed.growth fit                  # three cards, four lengths, each answer traced and one more
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable

from memgraph.analyze.cause import explain
from memgraph.analyze.diff import difference
from memgraph.analyze.growth import prove
from memgraph.analyze.program import Irregular
from memgraph.analyze.regions import Region, Sizes
from memgraph.analyze.replay_fast import replay
from memgraph.gpu.specs import find
from memgraph.options import Options
from memgraph.render.table_fit import report
from memgraph.study.study import Study

GPU = "rtx3090"
SHORTEST, LONGEST = 64, 1024


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["laws", "diff", "grid", "fit"])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], int]] = {
        "laws": lambda: laws(arguments.pairs, arguments.seed), "diff": diff, "grid": grid, "fit": fit,
    }  # fmt: skip
    return parts[arguments.part]()


def laws(pairs: int, seed: int) -> int:
    """Random sizes in both attention modes, every event compared. Returns how many were wrong."""
    wrong = 0
    for attention in ("sdpa", "manual"):
        study, chance = Study(Options(set={"attention": attention})), random.Random(seed)
        program = study.program(Region(GPU, SHORTEST, LONGEST))
        print(
            f"{attention}: {len(program.laws)} laws for {len(program.blocks)} ops that allocate or free, from",
            *program.points,
        )
        for _ in range(pairs):
            sizes = Sizes(chance.randint(1, 64), chance.randint(SHORTEST, LONGEST))
            verdict = _verdict(study, sizes)
            wrong += verdict.startswith("WRONG")
            print(f"  batch {sizes.batch:>3}, seq {sizes.seq:>5}: {verdict}", flush=True)
    return wrong


def _verdict(study: Study, sizes: Sizes) -> str:
    """Against the law of the region that the sizes fall in; where that is another, of its own few traces."""
    assert sizes.seq is not None
    rest = sizes.seq % 8
    region = Region(GPU, SHORTEST + rest, LONGEST - 8 + rest if rest else LONGEST, alone=sizes.batch == 1)
    try:
        program = study.program(region)
    except Irregular as error:
        return f"declared irregular: {error}"
    run = study.run(sizes, GPU)._replace(point=region.point(sizes))
    try:
        prove(program, run, find(GPU), study.version)
    except Irregular as error:
        return f"WRONG: {error}"
    requests = program.requests(run.point, find(GPU), study.version)
    replayed = replay(requests.events, requests.sizes, run.trace.memory)
    same = not run.trace.fits or tuple(run.trace.peak[:3]) == (
        requests.requested,
        replayed.allocated,
        replayed.reserved,
    )
    return f"{len(requests.events):,} events equal, peaks {'equal' if same else 'DIFFER'}" if same else "WRONG peaks"


def diff() -> int:
    """The seed's case at two batches."""
    study, wrong = Study(Options()), 0
    for batch in (8, 16):
        one, other = (study.run(Sizes(batch, seq), GPU).trace for seq in (128, 512))
        start = time.perf_counter()
        found = difference(one, other)
        lines = explain(found)
        seconds = time.perf_counter() - start
        splits = (found.tensors, found.places, found.modules, found.phases, found.categories, found.laws)
        exact = all(sum(part.change for part in parts) == found.change for parts in splits)
        wrong += not exact
        print("\n".join(lines))
        print(f"batch {batch}: {found.change} bytes, parts add up: {exact}, {seconds:.2f} s\n")
    return wrong


def grid() -> int:
    """25 lengths by 40 batches."""
    study, lengths = Study(Options()), list(range(128, 528, 16))
    study.program(Region(GPU, lengths[0], lengths[-1]))
    traced, start = study.traced, time.perf_counter()
    cells = study.grid([GPU], lengths, list(range(2, 42)))
    seconds = time.perf_counter() - start
    print(f"{len(cells)} cells in {seconds:.1f} s after {traced} traces; {sum(cell.fits for cell in cells)} fit")
    return study.traced - traced


def fit() -> int:
    """Each answer traced, and one sample more."""
    start = time.perf_counter()
    study = Study(Options())
    limits = study.limits(["rtx3090", "a100-40gb", "h100"], [128, 256, 512, 1024])
    print(report(limits))
    print(f"{study.traced} traces, {time.perf_counter() - start:.0f} s")
    return sum(not row.sure for row in limits)


if __name__ == "__main__":
    sys.exit(main())
