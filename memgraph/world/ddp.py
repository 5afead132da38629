"""What DistributedDataParallel's C++ asks of a CUDA build."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch._C import _distributed_c10d as c10d_cpp

from memgraph.virtual.patches import replaced


@contextlib.contextmanager
def ddp_runs() -> Iterator[None]:
    """The reducer's CUDA timer is registered by libtorch_cuda (`C10_REGISTER_TYPED_CLASS(TimerRegistry, …)`,
    torch/csrc/distributed/c10d/reducer_cuda.cpp). Without one DDP's logger asserts in its second step
    (logger.cpp, `reducer_->timer_`): its statistics are left out."""
    with replaced(c10d_cpp.Logger, "set_runtime_stats_and_log", lambda _self: None):
        yield
