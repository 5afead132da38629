"""What an op allocates on the GPU besides its outputs: the table of rules, and the look-up.

A file in `memgraph/gpu/rules` that exports `RULES`, a mapping from `name` or `name.overload` to a rule, is in the
table. A rule is given the call, the GPU and torch's version, and answers with the steps in the order of the real op,
or with None where it does not know this case. Nothing is ever made up: what no rule and no list knows is reported as
unknown.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from memgraph.errors import InvariantError
from memgraph.gpu import rules
from memgraph.gpu.call import Call, Steps
from memgraph.gpu.rules.layout import tensors
from memgraph.gpu.rules.plain import NO_TEMPORARIES
from memgraph.gpu.rules.sparse import OF_SPARSE, PLAIN_OF_SPARSE
from memgraph.gpu.spec import GpuSpec

Version = tuple[int, int]
"""Major and minor version of torch."""

Rule = Callable[[Call, GpuSpec, Version], "Steps | None"]
"""Steps of one call, in bytes; None if the rule does not know this case."""

_CACHED = 4096
"""Distinct calls remembered: a step repeats a few hundred."""


def steps(call: Call, gpu: GpuSpec, torch_version: Version) -> Steps | None:
    """What `call` allocates and frees on `gpu`, in order; outputs that are not named come first.

    Returns:
        `()` if the op takes nothing but its outputs, None if that is not known.
    """
    rule = rule_for(call.op, call.overload)
    if rule is None:
        return () if known_without_temporaries(call.op) else None
    key = _key(call)
    if key is None or not isinstance(gpu, Hashable):
        return _answer(rule, call, gpu, torch_version)
    return _remembered(rule, key, gpu, torch_version)


def steps_of_sparse(call: Call, gpu: GpuSpec, torch_version: Version) -> Steps | None:
    """As `steps`, of a call with a sparse tensor among its arguments: other kernels serve it."""
    rule = OF_SPARSE.get(call.op)
    if rule is not None:
        return _answer(rule, call, gpu, torch_version)
    return () if call.op in PLAIN_OF_SPARSE else None


def rule_for(op: str, overload: str = "") -> Rule | None:
    """The rule for an op: its overload's own, or the name's, if there is one."""
    table = table_of_rules()
    return table.get(f"{op}.{overload}") or table.get(op)


def known_without_temporaries(op: str) -> bool:
    """Whether an op, in place or not, is known to take nothing but its outputs whatever its arguments."""
    return op.startswith("_foreach_") or op in NO_TEMPORARIES or op.removesuffix("_") in NO_TEMPORARIES


@functools.cache
def table_of_rules() -> Mapping[str, Rule]:
    """All rules, by `name` or `name.overload`.

    Raises:
        InvariantError: two files claim the same op.
    """
    table: dict[str, Rule] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(rules.__path__)):
        found: Mapping[str, Rule] = getattr(importlib.import_module(f"{rules.__name__}.{module}"), "RULES", {})
        twice = table.keys() & found.keys()
        if twice:
            raise InvariantError(f"two rule files claim {', '.join(sorted(twice))}; the second is {module}.py")
        table |= found
    return table


class _Key(tuple[Any, ...]):
    """A call by its contents, kept as the call itself so that a rule can read it. Hashed once."""

    call: Call


def _key(call: Call) -> _Key | None:
    """What tells two calls apart, or None if an argument cannot be hashed. True, 1 and 1.0 are not the same
    argument."""
    arguments = (*call.args, *sorted(call.kwargs.items()))
    key = _Key((call.op, call.overload, arguments, tuple(map(type, arguments)), call.outputs))
    key.call = call
    try:
        hash(key)
    except TypeError:
        return None
    return key


@functools.lru_cache(maxsize=_CACHED)
def _remembered(rule: Rule, key: _Key, gpu: GpuSpec, torch_version: Version) -> Steps | None:
    return _answer(rule, key.call, gpu, torch_version)


def _answer(rule: Rule, call: Call, gpu: GpuSpec, torch_version: Version) -> Steps | None:
    """The rule's answer; an op on the host takes nothing from the GPU."""
    seen = list(tensors((call.args, tuple(call.kwargs.values()), call.outputs)))
    on_host = bool(seen) and all(tensor.device != "cuda" for tensor in seen)
    return () if on_host else rule(call, gpu, torch_version)
