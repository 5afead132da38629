"""Ops that are called with functions, where they are not compiled: what an eager run makes of them.

torch has a fake form of most, for tracing, which returns results and says nothing of what is held on the way:
`flex_attention`'s eager form holds all scores. Sources: torch/_higher_order_ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch._C import DispatchKey
from torch._higher_order_ops.utils import registered_hop_fake_fns
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensorMode

from memgraph.errors import MemgraphError

_MADE_OF_OTHERS = frozenset(
    {
        "associative_scan", "flex_attention", "flex_attention_backward", "foreach_map", "hints_wrapper",
        "inductor_compiled_code", "map_impl", "out_dtype", "while_loop", "while_loop_stack_output",
    }
)  # fmt: skip
"""Those whose eager form is one that takes a mode's place as it finds it. Compiled code is one of them with Inductor's
`wrap_inductor_compiled_regions`, for selective checkpointing to see it as an op; its fake form is the graph before it
was compiled."""


def eager_form(func: HigherOrderOperator) -> Callable[..., Any] | None:
    """The function that an eager run calls, to be called with the recorder as the active mode; None for those that only
    compiled code calls, or that launch a kernel."""
    name = func.name()
    if name in _MADE_OF_OTHERS:
        return func.py_kernels.get(DispatchKey.CompositeExplicitAutograd)
    return _OURS.get(name)


def _cond(pred: Any, true_branch: Callable[..., Any], false_branch: Callable[..., Any], operands: Any) -> Any:
    """cond.py, `cond_op_dense`, which like the three below refuses to run under a mode."""
    return true_branch(*operands) if pred else false_branch(*operands)


def _scan(combine: Callable[..., Any], init: Any, xs: Any, additional: Any) -> Any:
    """scan.py, `scan_op_dense`."""
    from torch._higher_order_ops.scan import generic_scan

    return generic_scan(combine, init, xs, additional_inputs=additional)


def _invoke_subgraph(subgraph: Callable[..., Any], _identifier: str, *operands: Any) -> Any:
    """invoke_subgraph.py."""
    return subgraph(list(operands)) if getattr(subgraph, "_boxed_call", False) else subgraph(*operands)


def _strict_mode(function: Callable[..., Any], operands: Any) -> Any:
    """strict_mode.py, `strict_mode_op_dense`."""
    return function(*operands)


_OURS: Mapping[str, Callable[..., Any]] = {
    "cond": _cond,
    "scan": _scan,
    "invoke_subgraph": _invoke_subgraph,
    "strict_mode": _strict_mode,
}


def run_higher_order(
    mode: FakeTensorMode, func: HigherOrderOperator, args: Sequence[Any], kwargs: Mapping[str, Any], *, follow: bool,
    line: Callable[[], str],
) -> Any:  # fmt: skip
    """An op that is called with functions: what an eager run makes of it, whose ops come back to the mode; else, as of
    those with which compiled code restores random numbers, what torch does for fake tensors.

    Args:
        mode: sees what it is made of.
        follow: whether a program calls it, and no op.
        line: says where.

    Raises:
        MemgraphError: torch knows nothing to do.
    """
    eager = eager_form(func) if follow else None
    if eager is not None:
        with mode:
            return eager(*args, **kwargs)
    # from torch 2.13 on most are here, and the table leads back to us
    fake: Any = registered_hop_fake_fns.get(func)  # type: ignore[call-overload]
    if fake is not None:
        with mode:
            return fake(*args, **kwargs)
    handler = func.python_key_table.get(FakeTensorMode)
    if handler is None:
        raise MemgraphError(f"{func.name()} at {line()} does not run without a GPU")
    return handler(mode, *args, **kwargs)  # type: ignore[operator]
