"""Temporary storage of CUB's device-wide algorithms, in bytes, as the CUB of CUDA 13.0 (CCCL 3.0) computes it.

Sizes follow from the tile that one thread block handles, and that from tuning policies by compute capability.
Sources: CCCL 3.0, cub/device/dispatch/dispatch_{radix_sort,scan,unique_by_key,select_if,reduce}.cuh and tuning/*,
cub/util_device.cuh (`AliasTemporaries`), cub/agent/single_pass_scan_operators.cuh, cub/util_arch.cuh.
The tiles were printed from those headers, compiled with nvcc 13.0, and agree with what is computed or listed here.
"""

from __future__ import annotations

from memgraph.gpu.rules.layout import INT32_MAX, ceil_div

Capability = tuple[int, int]

_SHARED_MEMORY = 48 * 1024
"""Static shared memory of a block, which bounds its threads."""
_BLOCK = 256
"""Alignment of the parts of one temporary storage."""
_LOOKBACK = 32
"""Tile states of padding, a warp."""
_UNIQUE_RUN_TILE = {
    1: {0: 1280, 80: 19840, 86: 1280, 90: 5632, 100: 8448},
    2: {0: 1280, 80: 8064, 86: 1280, 90: 5632},
    4: {0: 1280, 80: 4608, 86: 1280, 90: 6528, 100: 5760},
    8: {0: 640, 80: 1920, 86: 640, 90: 4224},
}
"""Items of a `Select::Unique` tile by bytes of a primitive item, then by compute capability (tuning_select_if.cuh)."""
_NO_PRIMITIVE_TILE = 1280
"""The same of float16 and bfloat16, which no tuning knows."""
_RUN_LENGTH_TILE = 128 * 6
"""Keys of up to 8 bytes with lengths in int64, which no tuning knows (tuning_run_length_encode.cuh)."""
_RUNNING_SUM_TILE = {0: 1920, 80: 3840, 86: 1920, 90: 3072}
"""Items of an `InclusiveSum` tile, added up in 4 bytes (tuning_scan.cuh)."""
MAX_SCAN = 2**30
"""Longest scan that torch hands to CUB at once (`impl::max_cub_size`)."""

_UNIQUE_TILE = {
    8: {0: 320, 80: 1792, 86: 320, 90: 4480, 100: 3840},
    4: {0: 704, 80: 2816, 86: 704, 90: 7168, 100: 7168},
}
"""Items of a `UniqueByKey` tile by bytes of the key (with int32 values), then by compute capability."""
_FLAGGED_TILE = {0: 640, 80: 2304, 86: 640, 90: 4224, 100: 3520}
"""Items of a `Select::Flagged` tile over int64 items."""


def aliased(*sizes: int) -> int:
    """Bytes of one allocation that holds several, each on 256 bytes: itself aligned by hand, so 255 more."""
    return sum(ceil_div(size, _BLOCK) * _BLOCK for size in sizes) + _BLOCK - 1


def radix_sort(
    items: int, key: int, value: int, capability: Capability, bits: int = 0, *, floats: bool = False
) -> int | None:
    """`DeviceRadixSort` of `items` keys and values of so many bytes (value 0: keys only), 64-bit offsets, on the lowest
    `bits` bits (0: all). None where the size depends on occupancy: keys below 4 bytes before Hopper.

    Args:
        floats: keys are of float32.
    """
    if items <= _scaled(256, 19, max(key, value)):
        return 1
    nominal = _onesweep(key, value, capability, floats)
    if nominal is None:
        return None
    tile = _scaled(*nominal, max(key, value))
    passes = ceil_div(bits or 8 * key, 8)
    portion = (2**28 - 1) // tile * tile
    portions, blocks = ceil_div(items, portion), ceil_div(min(items, portion), tile)
    spare = items if passes > 1 else 0
    return aliased(portions * passes * 256 * 8, blocks * 256 * 4, spare * key, spare * value, portions * passes * 4)


def _scaled(threads: int, nominal: int, size: int) -> int:
    """Items of a tile: `nominal` items of 4 bytes a thread, fewer if they are larger. Source: `RegBoundScaling`."""
    items = max(1, nominal * 4 // max(4, size))
    return items * min(threads, ceil_div(_SHARED_MEMORY // (size * items), 32) * 32)


def _onesweep(key: int, value: int, capability: Capability, floats: bool) -> tuple[int, int] | None:
    """Threads and nominal items of the one-sweep policy. Source: tuning_radix_sort.cuh, Policy700, 800, 900, 1000."""
    if capability >= (9, 0):
        if key == 8:
            return 384, 30 if value < 8 else 24
        if key == 4:
            return 384, 19 - floats if value == 0 else 17 if value < 8 else 29
        return {(2, 8): (512, 23), (1, 8): (384, 18), (2, 0): (512, 19), (1, 0): (512, 19)}.get((key, value))
    if key < 4:
        return None
    if capability >= (8, 0):
        return 384, 17 if key == 4 and value else 21
    return 256, 46 if key == 4 and value == 4 else 23


def segmented_sort(items: int, key: int, value: int) -> int:
    """`DeviceSegmentedRadixSort::SortPairs`: a third buffer of keys and one of values."""
    return aliased(items * key, items * value)


def merge_sort(items: int, key: int, value: int) -> int:
    """`DeviceMergeSort` (dispatch_merge_sort.cuh): a second buffer of keys and one of values, and where each tile
    of 256 threads of 17 nominal items begins."""
    tile = 256 * max(1, 17 * 4 // max(4, key))
    return aliased(items * key, items * value, (1 + ceil_div(items, tile)) * 4)


def scan(items: int, size: int) -> int:
    """`DeviceScan` with an operator of torch's own, which no tuning knows: 128 threads of 15 nominal items."""
    per_thread = max(1, min(15 * 4 // size, 30))
    return aliased(_tile_states(ceil_div(items, 128 * per_thread), 16 if size == 8 else 8))


def scan_of_halves(items: int) -> int:
    """The same of float16 or bfloat16, which are no primitive types: the states of tiles are kept apart from what they
    come to so far and in all."""
    states = _LOOKBACK + ceil_div(items, 128 * 30)
    return aliased(aliased(states * 4, states * 2, states * 2))


def scan_by_key(items: int, key: int) -> int:
    """`DeviceScan::InclusiveScanByKey`: tile states, and the key before each tile. Tiles of 128 threads of 6 items; a
    few kilobytes whatever the tile. Measured: 1,279 for 8 to 8,192 items of 4 bytes, and for 6,400 of 8."""
    tiles = ceil_div(items, 128 * 6)
    return aliased(_tile_states(tiles, 8), (tiles + 1) * key)


def unique_by_key(items: int, key: int, capability: Capability) -> int:
    """`DeviceSelect::UniqueByKey` with 64-bit offsets."""
    return aliased(_tile_states(ceil_div(items, _policy(_UNIQUE_TILE[key], capability)), 16), 0)


def unique(items: int, size: int, primitive: bool, capability: Capability) -> int:
    """`DeviceSelect::Unique`, with 32-bit offsets in a partition."""
    tile = _policy(_UNIQUE_RUN_TILE[size], capability) if primitive else _NO_PRIMITIVE_TILE
    return aliased(_tile_states(ceil_div(items, tile), 8), 0)


def unique_by_function(items: int, size: int) -> int:
    """`thrust::unique` with a comparison that is a function (thrust/system/cuda/detail/unique.h): 64 threads of 11
    nominal items. Measured for slices, whose places are of 8 bytes: 1,535 bytes for 3,000, 3,839 for 100,000."""
    tile = 64 * max(1, 11 * 4 // max(4, size))
    return aliased(aliased(_tile_states(ceil_div(items, tile), 8), 0), size)


def run_lengths(items: int) -> int:
    """`DeviceRunLengthEncode::Encode` with lengths in int64: a state of 16 bytes a tile. Measured: 1,023 bytes for
    1,000 items, 3,071 for 100,000 and 21,759 for 1,000,000."""
    return aliased((_LOOKBACK + ceil_div(items, _RUN_LENGTH_TILE)) * 16)


def running_sum(items: int, capability: Capability) -> int:
    """`DeviceScan::InclusiveSum` as `unique` calls it: words of 8 bytes, so its sums are of 4. Measured on Hopper:
    1,023, 1,279 and 3,583 bytes for the same."""
    return aliased(_tile_states(ceil_div(items, _policy(_RUNNING_SUM_TILE, capability)), 8))


def flagged(items: int, capability: Capability) -> int:
    """`DeviceSelect::Flagged` of int64 items with 32-bit offsets in a partition."""
    states = _tile_states(ceil_div(min(items, INT32_MAX), _policy(_FLAGGED_TILE, capability)), 8)
    return aliased(states, 0, 16 if items > INT32_MAX else 0)


def reduce(items: int, size: int, sms: int, max_threads_per_sm: int) -> int:
    """`DeviceReduce` into `size` bytes: five waves of blocks of 256 threads at full occupancy, or one block for a tile.
    (The kernel needs 30 to 34 registers, so threads bound the occupancy.)"""
    if items <= 256 * 16:
        return 1
    return aliased(5 * sms * (max_threads_per_sm // 256) * size)


def _policy(tiles: dict[int, int], capability: Capability) -> int:
    """The newest policy that the capability reaches."""
    number = capability[0] * 10 + capability[1]
    return tiles[max(known for known in tiles if known <= number)]


def _tile_states(tiles: int, word: int) -> int:
    """Bytes of the states through which tiles look back at each other: status and value in one word."""
    return aliased((_LOOKBACK + tiles) * word, 0, 0)
