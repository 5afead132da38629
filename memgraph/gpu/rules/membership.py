"""Which elements are among others: each compared with each where those are few, else all of them sorted.

Source: aten/src/ATen/native/TensorCompare.cpp (`isin_Tensor_Tensor_out`, `isin_sorting`), cuda/TensorCompare.cu
(`isin_default_kernel_gpu`); recorded on an H200 with torch 2.11 for 1,000 to 2,000,000 elements and 3 to 5,000 tests.
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.distinct import unique_scratch
from memgraph.gpu.rules.iterator import reduction
from memgraph.gpu.rules.layout import Plan, dense
from memgraph.gpu.rules.reduce import Kernel, reduce_scratch
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.rules.sorting import sort_scratch
from memgraph.gpu.spec import GpuSpec


def _isin(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`isin(elements, test_elements, *, assume_unique, invert)`."""
    plan, elements, tests = Plan(call), call.args[0], call.args[1]
    plan.output()
    if not isinstance(elements, TensorMeta) or not isinstance(tests, TensorMeta) or not elements.numel:
        return plan.steps()
    if tests.numel < int(10 * elements.numel**0.145):
        _compared(plan, elements, tests, gpu)
        return plan.steps()
    unique = bool(call.kwargs.get("assume_unique"))
    total = elements.numel + tests.numel
    known = _sorted(plan, total, elements, gpu) if unique else _made_distinct(plan, call, elements, tests, gpu)
    return plan.steps() if known else None


def _compared(plan: Plan, elements: TensorMeta, tests: TensorMeta, gpu: GpuSpec) -> None:
    equal = dense((*elements.shape, tests.numel), "bool")
    plan.temporary(equal.nbytes, "elements equal to each test")
    plan.temporary(elements.numel, "elements equal to any")
    reduce_scratch(plan, reduction(equal, (len(elements.shape),), False, (1,)), Kernel(1), gpu)


def _made_distinct(plan: Plan, call: Call, elements: TensorMeta, tests: TensorMeta, gpu: GpuSpec) -> bool:
    """Elements and tests are made distinct first; how many are left depends on values: at most those of `distinct`."""
    kept: dict[int, int] = {}
    others: dict[int, int] = {}

    def keep(index: int, size: int) -> None:
        kept[index] = plan.temporary(size, "distinct elements")

    def keep_other(index: int, size: int) -> None:
        others[index] = plan.temporary(size, "distinct tests")

    if not unique_scratch(plan, elements, True, False, gpu, keep):
        return False
    if not unique_scratch(plan, tests, False, False, gpu, keep_other):
        return False
    left = sum(call.kwargs.get("distinct", (elements.numel, tests.numel)))
    if not _sorted(plan, left, elements, gpu, (kept[0], others[0]), "PyTorch: at most {} (estimate)"):
        return False
    plan.release(kept[1])
    return True


def _sorted(
    plan: Plan, count: int, elements: TensorMeta, gpu: GpuSpec, joined: tuple[int, ...] = (), name: str = "{}"
) -> bool:
    """Elements and tests as one, sorted: neighbours that are alike are in both.

    Args:
        count: of elements and tests.
        joined: temporaries that go when they have become one.
        name: how a size is called that depends on values.
    """
    both = dense((count,), elements.dtype)
    all_ = plan.temporary(both.nbytes, name.format("all"))
    plan.release(*joined)
    values = plan.temporary(both.nbytes, name.format("sorted"))
    places = plan.temporary(both.numel * 8, name.format("places"))
    if not sort_scratch(plan, both, 0, gpu):
        return False
    alike = plan.temporary(both.numel, name.format("neighbours alike"))
    plan.scratch(both.numel - 1, name=name.format("neighbours compared"))
    back = plan.temporary(both.numel, name.format("the same in the first order"))
    plan.scratch(elements.numel if joined else 0, name="of each element")
    plan.release(back, alike, places, values, all_)
    return True


RULES = {"isin": _isin}
