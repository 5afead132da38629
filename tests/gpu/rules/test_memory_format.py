"""Which order of dimensions a tensor's strides say, beside what torch says of the same tensor."""

from __future__ import annotations

import itertools

import pytest
import torch

from memgraph.gpu.rules.memory_format import is_in, suggests_last
from tests.gpu.workspace_calls import strided

SHAPES = ((4, 8, 6, 5), (4, 1, 6, 5), (4, 8, 1, 1), (1, 8, 6, 5), (4, 8, 1, 5), (2, 3, 4, 5, 6), (2, 3, 1, 1, 1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_torch_reads_every_permutation(shape: tuple[int, ...]) -> None:
    """Dense tensors, and some with gaps."""
    for order in itertools.permutations(range(len(shape))):
        inverse = [order.index(dim) for dim in range(len(shape))]
        for step in (1, 2):
            base = torch.empty([*(shape[dim] for dim in order), step])
            tensor = base.select(-1, 0).permute(inverse)
            meta = strided(tuple(tensor.shape), tensor.stride())
            last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
            assert suggests_last(meta) == (torch._prims_common.suggest_memory_format(tensor) is last)
            assert is_in(meta, True) == tensor.is_contiguous(memory_format=last)
            assert is_in(meta, False) == tensor.is_contiguous()


def test_a_row_of_time_is_an_image_of_height_one() -> None:
    """(batch, channels, time): transposed as a whole it says channels-last; time outermost of all it does not."""
    assert suggests_last(strided((8, 256, 398), (256 * 398, 1, 256)))
    assert not suggests_last(strided((8, 256, 398), (256, 1, 8 * 256)))
    assert not suggests_last(strided((8, 256, 398), (256 * 398, 398, 1)))
