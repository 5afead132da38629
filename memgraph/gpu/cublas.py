"""Workspaces of cuBLAS and cuBLASLt, which PyTorch takes from its own allocator and keeps for each handle and stream.

A handle belongs to a thread: the forward's and autograd's have one each. Source:
aten/src/ATen/cuda/CublasHandlePool.cpp (`getChosenWorkspaceSize`, `getCUDABlasLtWorkspaceSize`) of torch 2.11;
allocated at the first product of a handle, after the product's output. Measured on an H200 with torch 2.11: 33,554,432
and 1,048,576 bytes, once per thread and library.
"""

from __future__ import annotations

import os
import re

from memgraph.gpu.call import Call, TensorMeta

KIB = 2**10

MATRIX_OPS = frozenset(
    {
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "addbmm",
        "mv",
        "addmv",
        "dot",
        "vdot",
        "_addmm_activation",
        "addmm_",
        "_euclidean_dist",
        "_int_mm",
        "_scaled_mm",
    }
)
"""Ops that call cuBLAS or cuBLASLt."""

KEPT = frozenset({4096 * 8 * KIB, (4096 * 2 + 16 * 8) * KIB, 1024 * KIB})
"""Bytes of the workspaces below, unless the environment says otherwise."""

LT_OPS = frozenset({"addmm", "_addmm_activation"})
"""Ops that go to cuBLASLt where they add a bias vector."""
_SCALED = "_scaled_mm"


def workspaces(call: Call, capability: tuple[int, int], torch_version: tuple[int, int]) -> list[tuple[str, int]]:
    """(library, bytes) of each workspace that a call needs its thread to have, in the order of their allocation. Scaled
    products go to cuBLASLt with one scale for each matrix, and to CUTLASS with one for each row
    (aten/src/ATen/native/cuda/ScaledBlas.cpp)."""
    if call.op == _SCALED and call.arg(2, "scale_a").numel != 1:
        return []
    needed = [("cublas", cublas_workspace_bytes(capability))]
    if uses_cublaslt(call):
        needed.append(("cublaslt", cublaslt_workspace_bytes(capability)))
    return [(name, size) for name, size in needed if size]


def cublas_workspace_bytes(capability: tuple[int, int]) -> int:
    """CUBLAS_WORKSPACE_CONFIG if set; else 32 MiB on Hopper and its successors of the same class (`:4096:8`), and
    `:4096:2:16:8` = 8,519,680 bytes elsewhere."""
    configured = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if configured:
        pairs = re.findall(r":(\d+):(\d+)", configured)
        return sum(int(size) * int(count) * KIB for size, count in pairs)
    if capability[0] in (9, 10):
        return 4096 * 8 * KIB
    return (4096 * 2 + 16 * 8) * KIB


def cublaslt_workspace_bytes(_capability: tuple[int, int]) -> int:
    """CUBLASLT_WORKSPACE_SIZE in KiB if set; else 1 MiB."""
    configured = os.environ.get("CUBLASLT_WORKSPACE_SIZE", "")
    return (int(configured) if configured.isdigit() else 1024) * KIB


def uses_cublaslt(call: Call) -> bool:
    """Whether a product goes through cuBLASLt: `addmm` with a bias vector as the epilogue
    (aten/src/ATen/native/cuda/Blas.cpp, `isInputCompliesAddmmCudaLt`): a contiguous row of the output's width, alpha
    and beta 1, both sides of the product larger than 1."""
    if call.op not in LT_OPS:
        return call.op == _SCALED
    bias, left, right = (call.arg(position, name) for position, name in ((0, "self"), (1, "mat1"), (2, "mat2")))
    if not all(isinstance(tensor, TensorMeta) for tensor in (bias, left, right)):
        return False
    ones = call.kwargs.get("beta", 1) == 1 and call.kwargs.get("alpha", 1) == 1
    vector = len(bias.shape) == 1 and bias.is_contiguous and bias.shape[0] == right.shape[1]
    wide = right.shape[0] > 1 and right.shape[1] > 1
    return bool(ones and vector and wide)
