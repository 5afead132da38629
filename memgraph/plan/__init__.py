"""Which layers to checkpoint: the problem, its solution, and how a plan is applied. Only `apply` imports torch."""
