"""What torchvision's operators take, each size by hand or as it was recorded."""

from __future__ import annotations

from tests.gpu.workspace_calls import new, run, strided, told


def test_boxes_are_sorted_compared_in_pairs_and_kept() -> None:
    # Recorded of 3,375 boxes in torchvision's RPN, of which 1,946 were kept: 53 words of 64 bits a box.
    found = told(run("torchvision::nms", new(3375, 4), new(3375), 0.7, out=new(1946, dtype="int64")))
    assert found == [
        *[13_500, 27_000, 27_000, "free 2", "free 0", 54_000, 1_431_000, 3_375, 4, 1, "free 7"],
        *[15_568, 1_023, "free 9", "free 6", "out 0", "free 8"],
    ]
    assert told(run("torchvision::nms", new(0, 4), new(0), 0.7, out=())) == []


def test_regions_are_read_from_contiguous_maps() -> None:
    maps, regions, out = new(2, 256, 10, 10), new(64, 5), new(64, 256, 7, 7)
    assert told(run("torchvision::roi_align", maps, regions, 1.0, 7, 7, 2, False, out=out)) == ["out 0"]
    lying = strided((2, 256, 10, 10), (25_600, 1, 2_560, 256))
    found = told(run("torchvision::roi_align", lying, regions, 1.0, 7, 7, 2, False, out=out))
    assert found == ["out 0", 2 * 256 * 10 * 10 * 4]
    grad = strided((64, 256, 7, 7), (1, 64, 64 * 256, 64 * 256 * 7))
    assert told(run("torchvision::_roi_align_backward", grad, regions, 1.0, 7, 7, 2, out=maps)) == ["out 0"]
