"""How often Hopper's kernels split a reduction, and what the parts take.

cuDNN's persistent kernels for Hopper (engines 62, 65, 67, 68 and 71 of cuDNN 9.19) work on tiles of the result, a
cluster of thread blocks on one or a few at a time. What is left over after the last full wave of clusters is cut along
the reduction, so that all clusters have work, and the cuts meet in fp32 partial sums and in flags: those are in the
workspace. How many clusters fit on the card at once is something the library asks the driver. Where it has only a
description it counts on one graphics processing cluster of 18 multiprocessors, so its answer is right in all but this;
here the one is taken out and the other put in.

The law was read off the library itself, without a GPU, by planning one engine over a range of tiles, reductions, types
and clusters. On convolutions that were not looked at before it gives the workspace of 440 of 448 descriptions (channels
last), and, with the clusters that the driver of an H200 counts, of 1,015 of 1,043 plans made on that card through a
handle (2,400 random convolutions). `benchmarks/cudnn` has both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from memgraph.gpu.cudnn.question import Config, Convolution
from memgraph.gpu.rules.layout import ceil_div

ENGINES = frozenset((62, 65, 67, 68, 71))
_TILE, _TILE_K, _WORKSPACE, _CLUSTER_M, _CLUSTER_N = 2, 13, 25, 27, 28
"""Numbers of the knobs (`cudnnBackendKnobType_t`)."""
_TILES = {
    0: (128, 128), 1: (128, 64), 3: (256, 128), 4: (256, 64), 5: (64, 64), 6: (128, 256), 7: (64, 128), 9: (64, 256),
    18: (64, 192), 19: (128, 192),
}  # fmt: skip
"""Rows and columns of a tile, by the knob's setting."""
_ASSUMED_MULTIPROCESSORS = 18
"""Of the one graphics processing cluster that a description stands for."""
_BESIDE, _COUNTER, _FLAGS = 131, 4, 28
"""Bytes beside the parts: of any such plan that keeps a counter, of its counter, and of one with flags."""
_FLOAT = 4
_LONG = 1024
"""Elements of a reduction that a part of more than eight has at least."""
_SHORT = 128
"""Elements of a reduction that any part has at least."""
_HALF_DEPTH = 64
"""Elements of the reduction that an iteration takes in a half type, usually."""
_NARROW = 64
"""Channels up to which groups lie side by side in one tile."""


class _Cost(NamedTuple):
    """What meeting once costs, in iterations of the reduction of the usual depth."""

    fixed: float
    small: float
    """More of it for a tile of 64 x 64, and less in proportion for a larger one."""
    tail: float
    """What the last wave of several waits at least."""

    def of(self, elements: int) -> float:
        """For a tile of so many elements."""
        return self.fixed + self.small * 4096 / elements


_COSTS = {"float16": _Cost(4.6, 8, 3.5), "bfloat16": _Cost(36.9, 63, 28), "float32": _Cost(8.8, 15.7, 7)}
"""Read off the reduction at which the library begins to halve, over five tiles; of half types in iterations of 64."""


class Work(NamedTuple):
    """The tiles of one convolution."""

    clusters: int
    """Of tiles."""
    blocks: int
    """Thread blocks of a cluster, a tile each."""
    tile: int
    """Elements of a tile."""
    iterations: int
    """Of the reduction."""
    depth: int
    """Elements of the reduction that an iteration takes."""
    dtype: str
    may_split: bool


def with_clusters(config: Config, asked: Convolution, resident: dict[int, int]) -> Config:
    """A description's answer, as the library gives it on the card.

    Args:
        resident: how many clusters fit on the card at once, by the thread blocks of a cluster.

    Returns:
        The configuration with the card's workspace, or as it was if it is none of these kernels.
    """
    work = work_of(config, asked) if config.engine in ENGINES else None
    if work is None or work.blocks not in resident:
        return config
    described = parts(work, max(1, _ASSUMED_MULTIPROCESSORS // work.blocks))
    if config.workspace < described:  # the library did not split where this law would
        return config._replace(workspace=_counter(work, resident[work.blocks]))
    return config._replace(workspace=config.workspace - described + parts(work, resident[work.blocks]))


def work_of(config: Config, asked: Convolution) -> Work | None:
    """The tiles, or None where the tile's size is not known."""
    knobs = dict(config.knobs)
    if knobs.get(_TILE) not in _TILES or _TILE_K not in knobs:
        return None
    rows, columns = _TILES[knobs[_TILE]]
    high, wide = knobs.get(_CLUSTER_M, 1), knobs.get(_CLUSTER_N, 1)
    depth = 64 if asked.dtype != "float32" and knobs[_TILE_K] == 1 else 32
    groups, inputs, outputs = _bundled(asked)
    places, taps = asked.y[0] * math.prod(asked.y[2:]), math.prod(asked.w[2:])
    if asked.kind == "forward":
        m, n, iterations = ceil_div(places, rows), ceil_div(outputs, columns), taps * ceil_div(inputs, depth)
    elif asked.kind == "data":
        m = ceil_div(asked.x[0] * math.prod(asked.x[2:]), rows)
        n, iterations = ceil_div(inputs, columns), taps * ceil_div(outputs, depth)
    else:
        m, n, iterations = ceil_div(outputs, rows), ceil_div(inputs, columns) * taps, ceil_div(places, depth)
    clusters = groups * ceil_div(m, high) * ceil_div(n, wide)
    may_split = knobs.get(_WORKSPACE) == 0
    return Work(clusters, high * wide, rows * columns, iterations, depth, asked.dtype, may_split)


def parts(work: Work, resident: int) -> int:
    """Bytes of the partial sums and their flags, with so many clusters at once."""
    waves, left = (0, work.clusters) if work.clusters <= resident else divmod(work.clusters, resident)
    splits = 1
    if work.may_split and 0 < left <= resident // 2:
        splits = _splits(work, resident // left, waves > 0)
    if splits == 1:
        return _counter(work, resident)
    flags = left * work.blocks * _meetings(splits) + (1 if waves >= 2 else 0)
    return left * splits * work.blocks * work.tile * _FLOAT + _BESIDE + _FLAGS + _COUNTER * flags


def _counter(work: Work, resident: int) -> int:
    """Bytes where nothing is split: clusters that take a third turn count them."""
    return _BESIDE if work.clusters > 2 * resident else 0


def _splits(work: Work, most: int, after_others: bool) -> int:
    """Into how many parts. Many are taken wherever each stays long. Otherwise, alone on the card, as many as make the
    whole shortest; after full waves, as many as meet in the time of one wave."""
    cost = _COSTS.get(work.dtype, _COSTS["float32"])
    shorter = 1 if work.dtype == "float32" else _HALF_DEPTH / work.depth
    meeting, tail = cost.of(work.tile) * shorter, cost.tail * shorter
    iterations = work.iterations
    most = max(1, min(most, iterations * work.depth // _SHORT))
    long = min(most, iterations // (_LONG // work.depth + 1))
    if after_others:
        hidden = [n for n in range(2, most + 1) if iterations * (1 + 1 / n) >= meeting * _levels(n) + tail]
        splits = max(hidden, default=1)
    elif long > 8:
        splits = long
    else:
        splits = min(range(1, most + 1), key=lambda n: (iterations / n + meeting * _levels(n), n))
    return ceil_div(iterations, ceil_div(iterations, splits))


def _levels(splits: int) -> int:
    """Of the tree in which so many parts meet."""
    return (splits - 1).bit_length()


def _meetings(splits: int) -> int:
    """Inner nodes of that tree, a flag each."""
    nodes = 0
    while splits > 1:
        splits = ceil_div(splits, 2)
        nodes += splits
    return nodes


def _bundled(asked: Convolution) -> tuple[int, int, int]:
    """Groups, and the input and output channels of each: narrow groups lie side by side, as one."""
    groups = asked.x[1] // asked.w[1]
    inputs, outputs = asked.w[1], asked.w[0] // groups
    bundle = 1
    while groups % (2 * bundle) == 0 and outputs * bundle < _NARROW and inputs * bundle * 2 <= _NARROW:
        bundle *= 2
    return groups // bundle, inputs * bundle, outputs * bundle
