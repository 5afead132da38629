"""Which layers to recompute in the backward so that a step fits: candidates, coefficients, the exact plan, its proof."""
