"""Predict a model of the transformers library from its config.json alone: no weights, no network, no GPU.

python examples/transformers_config.py        # needs pip install 'memgraph[transformers]'
"""

from __future__ import annotations

from pathlib import Path

import memgraph
from memgraph.options import Options
from memgraph.units import format_bytes

CONFIG = Path(__file__).parent / "llava-small"


def main() -> None:
    for checkpoint in ("none", "blocks"):
        trace = memgraph.predict(Options(model=f"transformers:{CONFIG}", batch=8, gpu="l4", checkpoint=checkpoint))
        print(
            f"{trace.settings['task']}, {trace.settings['seq']} tokens, checkpoint {checkpoint}: reserved "
            f"{format_bytes(trace.peak.reserved)}, {'fits' if trace.fits else 'does not fit'}"
        )


if __name__ == "__main__":
    main()
