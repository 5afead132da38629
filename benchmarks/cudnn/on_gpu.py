"""On a GPU: what cuDNN proposes through a handle, what PyTorch allocates, and how many clusters the card holds.

python -m benchmarks.cudnn.on_gpu handle CASES.json FILE.json.gz      (engine, knobs, notes, workspace of the first)
python -m benchmarks.cudnn.on_gpu pytorch CASES.json FILE.json.gz [tf32=off] [deterministic=on]
python -m benchmarks.cudnn.on_gpu clusters                             (by the thread blocks of a cluster)
"""

from __future__ import annotations

import ctypes
import gzip
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.cudnn.convolutions import asked
from memgraph.gpu.cudnn.backend import Cudnn, CudnnError
from memgraph.gpu.cudnn.library import find

_PTX = b""".version 7.8
.target sm_90
.address_size 64
.visible .entry nothing() { ret; }
\0"""
_THREADS, _SHARED = 384, 227 * 1024
"""Of a block, as large as those of the split kernels: one fits on a multiprocessor."""
_CLUSTER, _DYNAMIC_SHARED, _NON_PORTABLE = 4, 8, 14
"""`CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`, `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`,
`CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED`."""


class ThroughHandle(Cudnn):
    """Asks of the card that is there."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        made = ctypes.c_void_p()
        self._check(self._library.cudnnCreate(ctypes.byref(made)), "cudnnCreate")
        self._handle = made.value

    def _set(self, descriptor: ctypes.c_void_p, attribute: int, kind: str, values: Any) -> None:
        """Where a card's description would go there is nothing, and the handle instead."""
        if attribute in (204, 407):
            return
        super()._set(descriptor, attribute, kind, values)
        if attribute in (801, 401):
            one = (ctypes.c_void_p * 1)(self._handle)
            number = {801: 800, 401: 400}[attribute]
            status = self._library.cudnnBackendSetAttribute(descriptor, number, 0, ctypes.c_int64(1), ctypes.byref(one))
            self._check(status, "handle")


def through_handle(cases: list[dict[str, Any]]) -> list[Any]:
    """The first configuration of each, or why there is none."""
    library = find()
    assert library is not None, "no cuDNN"
    for need in library.needs:
        ctypes.CDLL(need, mode=ctypes.RTLD_GLOBAL)
    cudnn = ThroughHandle(library.path)
    found: list[Any] = []
    for case in cases:
        try:
            found.append([list(config) for config in cudnn.configurations(asked(case), ctypes.c_void_p())])
        except CudnnError as error:
            found.append(str(error))
    return found


def pytorch(cases: list[dict[str, Any]], tf32: bool, deterministic: bool) -> list[Any]:
    """What each allocates, in order: (alloc or free_requested, bytes)."""
    import torch

    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = tf32, deterministic
    found: list[Any] = []
    for case in cases:
        torch.cuda.memory._record_memory_history(enabled=None)
        torch.cuda.empty_cache()
        call = _call(torch, case)
        torch.cuda.memory._record_memory_history(max_entries=1000, context=None, stacks="python")
        try:
            kept = call()
            torch.cuda.synchronize()
            events = torch.cuda.memory._snapshot()["device_traces"][0]
            found.append([[e["action"], e["size"]] for e in events if e["action"] in ("alloc", "free_requested")])
            del kept
        except RuntimeError as error:
            found.append(str(error)[:150])
    return found


def _call(torch: Any, case: dict[str, Any]) -> Any:
    """The convolution with its tensors made."""
    rank, aten = len(case["pad"]), torch.ops.aten
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank) if case["cl"] else torch.contiguous_format
    x, w, y = (
        torch.zeros(case[name], device="cuda", dtype=getattr(torch, case["dtype"])).to(memory_format=layout)
        for name in "xwy"
    )
    geometry = (case["stride"], case["pad"], case["dil"])
    mask = [case["op"] == "data", case["op"] == "weight", False]
    if case["kind"] != "transposed":
        if case["op"] == "forward":
            return lambda: aten.convolution(x, w, None, *geometry, False, [0] * rank, case["groups"])
        return lambda: aten.convolution_backward(y, x, w, None, *geometry, False, [0] * rank, case["groups"], mask)
    more = [
        x.shape[2 + i] - ((y.shape[2 + i] - 1) * s - 2 * p + d * (w.shape[2 + i] - 1) + 1)
        for i, (s, p, d) in enumerate(zip(*geometry, strict=True))
    ]
    if case["op"] == "data":  # what undoes a convolution goes forward where that one's input has its gradient
        return lambda: aten.convolution(y, w, None, *geometry, True, more, case["groups"])
    mask[0] = case["op"] == "forward"
    return lambda: aten.convolution_backward(x, y, w, None, *geometry, True, more, case["groups"], mask)


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_uint * 16))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(_Attribute)), ("count", ctypes.c_uint),
    )  # fmt: skip


def clusters() -> dict[int, int]:
    """How many fit at once (`cuOccupancyMaxActiveClusters`), one block a multiprocessor."""
    import torch

    torch.zeros(1, device="cuda")  # a context
    driver = ctypes.CDLL("libcuda.so.1")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _succeed(driver.cuModuleLoadData(ctypes.byref(module), _PTX))
    _succeed(driver.cuModuleGetFunction(ctypes.byref(function), module, b"nothing"))
    _succeed(driver.cuFuncSetAttribute(function, _DYNAMIC_SHARED, _SHARED))
    _succeed(driver.cuFuncSetAttribute(function, _NON_PORTABLE, 1))
    found = {}
    for blocks in range(1, 17):
        attribute = _Attribute(id=_CLUSTER)
        attribute.value[:3] = [blocks, 1, 1]
        launch = _Launch((ctypes.c_uint * 3)(blocks * 1024, 1, 1), (ctypes.c_uint * 3)(_THREADS, 1, 1), _SHARED, None,
                         ctypes.pointer(attribute), 1)  # fmt: skip
        count = ctypes.c_int()
        status = driver.cuOccupancyMaxActiveClusters(ctypes.byref(count), function, ctypes.byref(launch))
        found[blocks] = -status if status else count.value
    return found


def _succeed(status: int) -> None:
    assert status == 0, f"CUDA driver: error {status}"


def main(what: str, *rest: str) -> None:
    if what == "clusters":
        print(json.dumps(clusters()))
        return
    cases = json.loads(Path(rest[0]).read_text())
    if what == "handle":
        found = through_handle(cases)
    else:
        found = pytorch(cases, "tf32=off" not in rest, "deterministic=on" in rest)
    with gzip.open(rest[1], "wt") as file:
        json.dump(found, file)
    print(len(found), sum(isinstance(one, str) for one in found), "refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
