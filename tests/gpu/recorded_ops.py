"""What single ATen calls did on an H200 with torch 2.11 and cuDNN 9.19, and what a rule says, in the same words. Not a
test. The recordings are `tests/data/ops_h200_*.json.gz`."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Sequence

from memgraph.gpu.call import OnHost, Output, Release, Steps, Temporary, TensorMeta
from tests import DATA


@functools.cache
def cases(name: str) -> dict[str, list[int] | str]:
    """Of `layers` or `convolution`: bytes allocated and, negative, freed, in order; or why the call was refused."""
    found: dict[str, list[int] | str] = json.loads(gzip.decompress((DATA / f"ops_h200_{name}.json.gz").read_bytes()))[
        "cases"
    ]
    return found


def in_bytes(found: Steps | None, outputs: Sequence[TensorMeta]) -> list[int]:
    """A rule's steps as a recording has them: `n` for an allocation, `-n` for a free; empty tensors have none."""
    assert found is not None, "the rule does not know this call"
    named = {step.index for step in found if isinstance(step, (Output, OnHost))}
    sizes = [output.nbytes for index, output in enumerate(outputs) if index not in named]
    living: dict[int, int] = {}
    for step in found:
        if isinstance(step, Temporary):
            living[len(living) + sum(size < 0 for size in sizes)] = step.size
            sizes.append(step.size)
        elif isinstance(step, Release):
            sizes.append(-living.pop(step.index))
        elif isinstance(step, Output):
            sizes.append(outputs[step.index].nbytes)
    return tidied([*sizes, *(-size for size in living.values())])


def tidied(sizes: Sequence[int]) -> list[int]:
    """What is freed at the very end is freed together: its order says nothing."""
    end = len(sizes)
    while end and sizes[end - 1] < 0:
        end -= 1
    return [*sizes[:end], *sorted(sizes[end:])]
