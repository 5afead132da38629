"""What the tests of pictures share: a run of nanoVLM with two blocks in each stack, traced once."""

from __future__ import annotations

import functools

import memgraph
from memgraph.options import Options
from memgraph.trace import Trace

SMALL = {"vit_n_blocks": "2", "lm_n_blocks": "2"}


@functools.cache
def run() -> Trace:
    """Two training steps, batch 2, 128 tokens."""
    return memgraph.predict(Options(batch=2, seq=128, gpu="rtx3090", set=SMALL))
