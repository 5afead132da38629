"""Autocast under another torch than the installed one."""

from __future__ import annotations

import pytest
import torch

import memgraph


@pytest.mark.parametrize("release", ["2.11", "2.13"])
def test_normalised_half_types_under_autocast(release: str) -> None:
    """With its weight in fp32: torch 2.13 casts to fp32 and calls one kernel, 2.11 takes it apart."""
    if release == "2.13" and torch.__version__.startswith("2.11"):
        pytest.skip("what autocast casts besides is not added to a torch that does not")
    with memgraph.virtual_gpu("h200", torch=release) as gpu:
        norm = torch.nn.RMSNorm(64).cuda()
        rows = torch.randn(8, 16, 64, device="cuda", dtype=torch.bfloat16)
        with torch.autocast("cuda", torch.bfloat16):
            made = norm(rows)
        names = [op.name for op in gpu.trace.ops]
    assert made.dtype is (torch.bfloat16 if release == "2.11" else torch.float32)
    assert ("aten._fused_rms_norm.default" in names) is (release == "2.13")
    assert ("aten.rsqrt.default" in names) is (release == "2.11")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("aten::rms_norm", "AutocastCUDA") is (
        not torch.__version__.startswith("2.11")
    )
