"""`from memgraph.advisor import Advisor`, as it was before the advisor had a room."""

from memgraph.study.advisor import Advisor

__all__ = ["Advisor"]
