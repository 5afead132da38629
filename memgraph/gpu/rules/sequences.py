"""Padded sequences, packed for a recurrent layer: the steps that the same sequences reach are copied together.

Source: aten/src/ATen/native/PackedSequence.cpp (`_pack_padded_sequence`); recorded on an H200.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, permuted
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec


def _pack(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_pack_padded_sequence(input, lengths, batch_first)`: copies are joined; steps that lie in one piece are none."""
    plan, source = Plan(call), call.args[0]
    if call.arg(2, "batch_first", False):
        source = permuted(source, (1, 0, *range(2, len(source.shape))))
    lengths = call.kwargs["lengths"] or [source.shape[0]] * source.shape[1]
    copies = [plan.contiguous(steps, "steps of the same sequences") for steps in _groups(source, lengths)]
    plan.output()
    plan.release(*copies)
    return plan.steps()


def _groups(source: TensorMeta, lengths: Sequence[int]) -> Iterator[TensorMeta]:
    """[steps, sequences that reach them, …], the first steps first.

    Args:
        source: [steps, sequences, …].
        lengths: of the sequences, the longest first.
    """
    ends = [0, *sorted(set(lengths))]
    for start, end in itertools.pairwise(ends):
        reach = sum(length >= end for length in lengths)
        yield source._replace(shape=(end - start, reach, *source.shape[2:]))


RULES = {"_pack_padded_sequence": _pack}
