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
    (logger.cpp, `reducer_->timer_`): its statistics are left out. What it writes down at the start takes any group that
    is called gloo for C++'s own (`set_construction_data_and_log`), and would read what is none."""
    with contextlib.ExitStack() as stack:
        for name in ("set_construction_data_and_log", "set_runtime_stats_and_log"):
            stack.enter_context(replaced(c10d_cpp.Logger, name, lambda *_: None))
        yield
