"""Ops whose result nobody knows without computing it: how FakeTensor says so, and what the user can do."""

from __future__ import annotations

from torch._ops import OpOverload
from torch._subclasses.fake_tensor import UnsupportedOperatorException

from memgraph.errors import MemgraphError

_SIGNS = (
    "no fake impl registered", "from the 'CUDA' backend", "from the 'SparseCUDA' backend",
    "CUDA driver version is insufficient", "no CUDA-capable device",
)  # fmt: skip
"""What FakeTensor says, builds without CUDA's kernels, and builds with them on a machine without a card."""


def says_that_no_kernel_is_there(error: Exception) -> bool:
    """FakeTensor has no kernel for an op: it says so, or runs into the CUDA kernels that this build has not."""
    if isinstance(error, UnsupportedOperatorException):
        return True
    return any(sign in str(error) for sign in _SIGNS)


def without_kernel(func: OpOverload, source: str) -> MemgraphError:
    """The error for an op, which the user's line `source` called (or empty)."""
    where = f" at {source}" if source else ""
    name = func._schema.name
    if name.startswith("aten::"):
        return MemgraphError(f"{func}{where} has a result that neither torch nor memgraph knows without computing it: "
                             "replace it for the prediction, or report it")  # fmt: skip
    return MemgraphError(f"{func}{where} has no fake kernel, which says what it returns without computing it: "
                         f'write one and register it with torch.library.register_fake("{name}")')  # fmt: skip
