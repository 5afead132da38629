"""`torch.cuda.memory_stats`, its peaks and sums by pool, and torch's own summary of them."""

from __future__ import annotations

import random

import pytest
import torch

import memgraph
from memgraph.capture.ledger import Ledger
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.virtual.cuda import _COUNTED, _in_segment
from memgraph.virtual.statistics import Statistics

MIB = 2**20


def test_peaks_and_sums_of_each_pool() -> None:
    """1000 bytes are a block of 1024 of the small pool; 3 MiB one of the large, which is freed again."""
    with memgraph.virtual_gpu("h100"):
        small, large = torch.zeros(250, device="cuda"), torch.zeros(3 * 2**18, device="cuda")
        del large
        stats = torch.cuda.memory_stats()
        told = {
            part: [stats[f"allocated_bytes.{pool}.{part}"] for pool in ("all", "small_pool", "large_pool")]
            for part in ("current", "peak", "allocated", "freed")
        }
        assert told == {
            "current": [1024, 1024, 0],
            "peak": [1024 + 3 * MIB, 1024, 3 * MIB],
            "allocated": [1024 + 3 * MIB, 1024, 3 * MIB],
            "freed": [3 * MIB, 0, 3 * MIB],
        }
        assert (stats["num_device_alloc"], stats["num_device_free"], stats["segment.all.current"]) == (2, 0, 2)
        assert stats["inactive_split_bytes.all.current"] == 2 * MIB - 1024  # the large segment is whole again
        assert stats["inactive_split_bytes.all.peak"] == 2 * MIB - 1024 + 17 * MIB
        assert list(stats) == sorted(stats)
        del small


def test_what_is_reset_starts_again() -> None:
    with memgraph.virtual_gpu("h100"):
        held = [torch.zeros(250, device="cuda") for _ in range(3)]
        del held[1:]
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.reset_accumulated_memory_stats()
        stats = torch.cuda.memory_stats()
        assert (stats["allocation.all.peak"], stats["allocation.all.allocated"], stats["allocation.all.freed"]) == (
            1, 0, 0,
        )  # fmt: skip
        held.append(torch.zeros(250, device="cuda"))
        assert torch.cuda.memory_stats_as_nested_dict()["allocation"]["small_pool"] == {
            "current": 2, "peak": 2, "allocated": 1, "freed": 0,
        }  # fmt: skip
        held.clear()


def test_the_summary_is_torchs_own() -> None:
    with memgraph.virtual_gpu("h100"):
        held = torch.zeros(2**20, device="cuda")
        lines = torch.cuda.memory_summary().splitlines()
        assert "PyTorch CUDA memory summary, device ID 0" in lines[1]
        assert "| Allocated memory      |   4096 KiB |   4096 KiB |   4096 KiB |      0 B   |" in lines
        assert "| GPU reserved segments |       1    |       1    |       1    |       0    |" in lines
        assert len(torch.cuda.memory_summary(abbreviated=True)) < len("\n".join(lines))
        del held


@pytest.mark.parametrize("settings", ["", "expandable_segments:True", "max_split_size_mb:64"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_counted_from_events_is_what_the_blocks_say(seed: int, settings: str) -> None:
    """At any time, however blocks were split and joined, for each pool."""
    chance = random.Random(seed)
    allocator = Allocator(2**40, AllocatorConfig.parse(settings))
    ledger = Ledger(allocator)
    statistics, live = Statistics(ledger), []
    for _ in range(400):
        if live and chance.random() < 0.45:
            ledger.free(live.pop(chance.randrange(len(live))))
        elif chance.random() < 0.02:
            ledger.empty_cache()
        else:
            live.append(ledger.allocate(int(2 ** chance.uniform(3, 27))))
        if chance.random() < 0.1:
            assert_told(statistics, allocator, expandable="expandable" in settings)


def assert_told(statistics: Statistics, allocator: Allocator, *, expandable: bool) -> None:
    stats = statistics.now()
    for pool in ("all", "small_pool", "large_pool"):
        sums = dict.fromkeys(_COUNTED, 0)
        for segment in allocator.segments.values():
            if pool in ("all", "small_pool" if segment.small else "large_pool"):
                for name, value in _in_segment(segment, ()).items():
                    sums[name] += value
        if expandable:  # a segment of addresses is mapped piece by piece, and each piece is one of torch's
            del sums["segment"], sums["inactive_split"], sums["inactive_split_bytes"]
        assert {name: stats[f"{name}.{pool}.current"] for name in sums} == sums
    peaks = [stats[f"{name}_bytes.all.peak"] for name in ("allocated", "requested", "reserved", "active")]
    assert peaks == [
        allocator.peak_allocated, allocator.peak_requested, allocator.peak_reserved, allocator.peak_active,
    ]  # fmt: skip
