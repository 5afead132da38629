"""Which rule decides an allocation: where to look when it is not what was recorded."""

from __future__ import annotations

from memgraph.gpu.workspace import known_without_temporaries, rule_for
from memgraph.trace import Op, Role


def rule_of(kind: str, op: Op | None, role: Role) -> str:
    """The file of the rule, below `memgraph/`; empty if no rule decides it.

    Args:
        kind: as of `memgraph.analyze.compare.Difference`.
        op: that allocated, or after which something was allocated that was not predicted.
        role: why it was predicted to allocate.
    """
    if kind == "lifetime" or op is None:
        return ""
    if role is Role.LIBRARY:
        return "gpu/cublas.py"
    if role is Role.OUTPUT:
        return "its own output"
    name, _, overload = op.name.removeprefix("aten.").rpartition(".")
    rule = rule_for(name or overload, overload if name else "")
    if rule is not None:
        return f"{rule.__module__.removeprefix('memgraph.').replace('.', '/')}.py"
    return "gpu/rules/plain.py" if known_without_temporaries(name or overload) else "no rule"
