"""A card as cuDNN describes it: the JSON of `CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION`.

Read off an H100 and an H200 through the library itself (cuDNN 9.19, driver 580); the limits of a multiprocessor are
those of the CUDA C++ Programming Guide's table of compute capabilities. What the heuristics look at, tried by changing
one number at a time over 300 convolutions: the capability; below 8.0 the number of multiprocessors too; clocks in a
few of a hundred questions. Nothing else changed an answer.
"""

from __future__ import annotations

import json

from memgraph.gpu.spec import GpuSpec

_KIB = 1024
_SHARED = {(7, 0): 96, (7, 5): 64, (8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99, (9, 0): 227, (10, 0): 227,
           (10, 3): 227, (12, 0): 99}  # fmt: skip
"""KiB of shared memory that one block may opt in to."""
_BLOCKS = {(7, 5): 16, (8, 6): 16, (8, 7): 16, (8, 9): 24}
"""Resident blocks of a multiprocessor, where they are not 32."""
_CLOCK_KHZ, _MEMORY_CLOCK_KHZ = 1_980_000, 3_201_000
"""Of an H200; the catalogue has none of its own."""
_DRIVER = 13_000


def describe(gpu: GpuSpec) -> str:
    """The description of a card of the catalogue."""
    major, minor = gpu.capability
    return json.dumps(
        {
            "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
            "multiProcessorCount": gpu.sms, "warpSize": 32, "maxSharedMemoryPerBlock": 48 * _KIB,
            "maxSharedMemoryPerBlockOptin": _SHARED.get(gpu.capability, 99) * _KIB,
            "reservedSharedMemoryPerBlock": _KIB if major >= 8 else 0, "maxRegistersPerSM": 65536,
            "maxCtasPerSM": _BLOCKS.get(gpu.capability, 32), "maxThreadsPerBlock": 1024,
            "maxThreadsPerSM": gpu.max_threads_per_sm, "pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1,
            "totalGlobalMem": gpu.memory, "smClockRateKHz": _CLOCK_KHZ, "memClockRateKHz": _MEMORY_CLOCK_KHZ,
            "l2CacheSize": gpu.l2, "cudaDeviceId": 0, "deviceVer": major * 100 + minor * 10, "driverVer": _DRIVER,
            "deviceName": gpu.title,
        },
        separators=(",", ":"),
    )  # fmt: skip
