"""What is remembered of shapes holds no tensor of whoever asked first."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import memgraph
from memgraph.virtual.ops.shapes import Shapes, _nothing


def test_what_is_first_seen_while_a_compiler_traces_is_not_kept_by_it() -> None:
    """A compiler traces with fake tensors of its own, whose mode remembers storages among its arguments."""
    with memgraph.virtual_gpu("h200"):
        packed = torch.ones(1024, device="cuda", dtype=torch.uint8)
        before = torch.cuda.memory_allocated()
        _nothing.cache_clear()
        with FakeTensorMode(shape_env=ShapeEnv()):
            Shapes().look(torch.ones(1, dtype=torch.uint8))
        halves: list[Tensor] = [(packed + 1)[::2], (packed + 2)[::2]]
        assert torch.cuda.memory_allocated() == before + 2 * 1024  # each view holds all that it is a view of
        del halves
        assert torch.cuda.memory_allocated() == before
