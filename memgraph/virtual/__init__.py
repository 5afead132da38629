"""The CUDA device that is not there. What it needs of torch is looked for when it is first wanted."""

from memgraph.virtual.private_names import check

check()
