"""Windows of signals that take more than themselves. A periodic one is all but the last of one that is longer.

Source: aten/src/ATen/native/TensorFactories.cpp; recorded on an H200 for 1,000 to 2,000,000 elements.
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps
from memgraph.gpu.rules.layout import Plan
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec


def _whole(call: Call) -> int:
    """Bytes of the longer one; nothing of one that is too short to be computed."""
    length: int = call.args[0]
    longer = length + 1 if call.arg(1, "periodic", True) else length
    return longer * call.outputs[0].itemsize if call.outputs and length > 1 else 0


def _blackman(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`blackman_window(n, periodic)`: two cosines of the places, then one from the other, then the result."""
    plan, size = Plan(call), _whole(call)
    kept = [plan.temporary(size, name) for name in ("places", "first cosine", "second cosine", "difference")]
    plan.output()
    plan.release(*reversed(kept))
    return plan.steps()


def _kaiser(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`kaiser_window(n, periodic, beta)`: of the places, in one kernel."""
    plan = Plan(call)
    places = plan.temporary(_whole(call), "places")
    plan.output()
    plan.release(places)
    return plan.steps()


RULES = {"blackman_window": _blackman, "kaiser_window": _kaiser}
