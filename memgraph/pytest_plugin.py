"""A limit on GPU memory as a mark on a test, without a GPU: `@pytest.mark.gpu_memory(limit="8GiB", gpu="t4")`.

The test runs on a virtual GPU. It fails if it needs more than the limit, with the three largest holders at its peak,
or, with `steady=True`, if something in it grows from step to step. pytest finds this file by the package's entry point.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from memgraph.trace import Trace

MARK = "gpu_memory"
_HELP = (
    f"{MARK}(limit, gpu='rtx3090', steady=False, **options): run on a virtual GPU, and fail if PyTorch's allocator "
    "would take more than `limit` (like '8GiB') from the card, or if something grows from step to step"
)
_LARGEST = 3


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", _HELP)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run a marked test on a virtual GPU, and look at what it needed."""
    mark = item.get_closest_marker(MARK)
    if mark is None:
        return (yield)
    limit, options = _asked(mark)
    from memgraph.api import virtual_gpu

    steady = options.pop("steady", False)
    with virtual_gpu(memory=2**50, **options) as gpu:
        result = yield
        trace = gpu.trace
    if complaint := exceeds(trace, limit) or (steady and grows(trace)):
        pytest.fail(complaint, pytrace=False)
    return result


def _asked(mark: pytest.Mark) -> tuple[int, dict[str, Any]]:
    """The limit in bytes, and what `virtual_gpu` is told."""
    from memgraph.errors import MemgraphError
    from memgraph.units import parse_bytes

    options = dict(mark.kwargs)
    limit = mark.args[0] if mark.args else options.pop("limit", None)
    try:
        return (limit if isinstance(limit, int) else parse_bytes(str(limit))), options
    except MemgraphError as error:
        raise pytest.UsageError(f"@pytest.mark.{MARK}: {error}") from error


def exceeds(trace: Trace, limit: int) -> str:
    """What to say of a run that needs more than the limit; empty if it does not."""
    from memgraph.analyze.attribution import consumers
    from memgraph.units import format_bytes

    over = trace.peak.reserved - limit
    if over <= 0:
        return ""
    rows = [f"  {format_bytes(row.bytes)}  {row.count} x {row.provenance}" for row in consumers(trace)[:_LARGEST]]
    return "\n".join([
        f"{format_bytes(trace.peak.reserved)} of GPU memory, {format_bytes(over)} more than the limit of "
        f"{format_bytes(limit)}; the largest at the peak of {format_bytes(trace.peak.requested)}:", *rows,
    ])  # fmt: skip


def grows(trace: Trace) -> str:
    """What to say of a run in which something grows from step to step; empty if nothing does."""
    from memgraph.analyze.leaks import leaks

    return "\n".join(f"{one.name}: {one.what}\n  {one.why}\n  do: {one.help}" for one in leaks(trace))
