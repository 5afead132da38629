"""Copies between the host and the card, by Copy.cu: what is on the card between the two sides."""

from __future__ import annotations

import torch

from memgraph.gpu.call import TensorMeta
from tests.gpu.workspace_calls import new, run, strided, told

INSIDE = (27, 1, 9, 3)
"""Strides of (64, 3, 3, 3) with the channels innermost: 64 × 27 × 4 = 6912 bytes in fp32."""


def on_host(tensor: TensorMeta) -> TensorMeta:
    return tensor._replace(device="cpu")


def test_a_weight_that_changes_its_layout_on_the_way() -> None:
    """`.to("cuda", memory_format=torch.channels_last)`: it arrives as it was, and is then written in the new order."""
    out = strided((64, 3, 3, 3), INSIDE)
    assert told(run("_to_copy", on_host(new(64, 3, 3, 3)), out=out)) == ["out 0", 6912, "free 0"]
    assert told(run("_to_copy", on_host(out), out=out)) == ["out 0"]
    assert told(run("copy_", out, on_host(new(64, 3, 3, 3)))) == [6912, "free 0"]


def test_a_conversion_is_the_hosts_unless_nothing_waits() -> None:
    """100 fp32 values become bf16: on the host, or where the copy does not block, on the card."""
    source, out = on_host(new(100)), new(100, dtype="bfloat16")
    assert told(run("_to_copy", source, out=out)) == ["out 0"]
    assert told(run("_to_copy", source, out=out, non_blocking=True)) == ["out 0", 400, "free 0"]
    assert told(run("copy_", out, source, True)) == [400, "free 0"]


def test_to_the_host() -> None:
    """A transposed matrix of 4 × 8 is written out first; a conversion that does not block happens on the card too."""
    source = strided((4, 8), (1, 4))
    assert told(run("copy_", on_host(new(4, 8)), source)) == [128, "free 0"]
    assert told(run("copy_", on_host(source), source)) == []
    assert told(run("copy_", on_host(new(4, 8, dtype="bfloat16")), new(4, 8), True)) == [64, "free 0"]
    assert told(run("copy_", on_host(new(4, 8, dtype="bfloat16")), source, True)) == [64, 64, "free 1", "free 0"]


def test_a_new_tensor_on_the_host() -> None:
    """`x.cpu()` keeps the order of dimensions, and a slice is packed: 4 rows of 8 out of 4 of 16 are written out first.
    `save_image` turns what it permuted into bytes at once, which the host does with what came in its own order."""
    host = torch.device("cpu")
    turned, sliced = strided((4, 8), (1, 4)), strided((4, 8), (16, 1))
    assert told(run("_to_copy", turned, device=host)) == []
    assert told(run("_to_copy", sliced, device=host)) == [128, "free 0"]
    assert told(run("_to_copy", turned, device=host, dtype="uint8")) == [128, "free 0"]
    assert told(run("_to_copy", new(4, 8), device=host, dtype="uint8")) == []
    assert told(run("_to_copy", turned, device=host, memory_format=torch.contiguous_format)) == [128, "free 0"]
    assert told(run("_to_copy", turned, device=torch.device("meta"), dtype="uint8")) == []


def test_on_one_side_nothing() -> None:
    out = strided((64, 3, 3, 3), INSIDE, "bfloat16")
    assert told(run("_to_copy", new(64, 3, 3, 3), out=out)) == ["out 0"]
    assert told(run("copy_", out, new(64, 3, 3, 3))) == []
