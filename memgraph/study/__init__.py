"""Many runs of one configuration: what fits, what would make it fit, which layers to checkpoint."""

from memgraph.study.study import Headroom, Study, laws_of

__all__ = ["Headroom", "Study", "laws_of"]
