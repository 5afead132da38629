"""Who holds what should have gone, in a phrase, and what to write so that nobody does."""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.analyze.steps import Kind
from memgraph.trace import Category, Held, Trace

_CONTAINERS = ("list", "deque", "dict", "set", "tuple", "OrderedDict", "defaultdict")


def held_by(held: Held | None, trace: Trace | None = None) -> str:
    """Who holds it, in a phrase."""
    if held is None and trace is not None and trace.origin == "measured":
        return "a recording does not say who holds it: `memgraph run` on the script does"
    if held is None:
        return "held by nothing that the program names"
    if held.kind == "cycle":
        place = f" ({held.source})" if held.source else ""
        of = (
            f" of `{held.name}` objects{place}"
            if held.name
            else ", of objects, or of an exception that is kept with its traceback,"
        )
        return f"held by a reference cycle{of} until Python's collector runs"
    if held.kind == "gradient" and held.graph:
        return f"held by a reference cycle: a gradient that has a graph, `{held.name}`" + (
            f", made at {held.source}" if held.source else ""
        )
    what = f"{_article(held)} `{held.name}`"
    if held.kind == "traceback":
        what = f"the variables of functions that an exception in `{held.name}` went through"
    if held.graph:
        what = f"the autograd graph behind {what}"
    verb = "filled at" if held.kind in _CONTAINERS else "registered at" if held.kind == "hook" else "set at"
    return f"held by {what}" + (f", {verb} {held.source}" if held.source else "")


def _article(held: Held) -> str:
    said = {"variable": "the variable", "attribute": "the attribute", "buffer": "the module's buffer",
            "closure": "the variable of a closure,", "gradient": "the gradient", "hook": "a hook:",
            "default": "the default of an argument,", "cache": "the cache of"}  # fmt: skip
    return said.get(held.kind, f"the {held.kind}")


def _saved_for_a_backward(trace: Trace, kind: Kind) -> bool:
    """Whether it is what a backward has use for: it is kept of a step's forward, and no input of it."""
    return trace.buffers[kind.buffers[0]].category in (Category.ACTIVATION, Category.TEMPORARY)


def remedy(held: Held | None, kinds: Sequence[Kind] = (), trace: Trace | None = None, *, trains: bool = False) -> str:
    """What to write so that it is not held any more.

    Args:
        trains: whether what grows is of steps that have a backward, which `torch.no_grad()` would end.
    """
    if held is None and trace is not None and trace.origin == "measured":
        if trace.rounds:
            return (
                "look for a list of what the model returns: put `.cpu()` of it there, or the figures that you want of "
                "it; and run the model under torch.no_grad()"
            )
        graph = any(_saved_for_a_backward(trace, kind) for kind in kinds)
        return (
            "look for a loss or an output that is kept with its graph, and `.detach()` or `.item()` it; or for a list "
            "or a hook that keeps what this line makes"
            if graph
            else "look for what keeps what this line makes: a list, a dict, a hook"
        )
    if held is None:
        return "look at what the line keeps; `del` it, or break the cycle of references that holds it"
    if held.kind == "cycle":
        return "break the cycle: weakref.ref for one of its references, or `del` one; gc.collect() only hides it"
    if held.kind == "gradient" and held.graph:
        return "backward(create_graph=True) makes gradients hold their graph: take torch.autograd.grad(...), " \
               "or optimizer.zero_grad(set_to_none=True) each step"  # fmt: skip
    if held.kind == "traceback":
        return f"keep `traceback.format_exc()` or `str(error)` in `{held.name}`: an exception keeps its traceback"
    if held.kind == "buffer":
        return f"compute what `{held.name}` is given under torch.no_grad(), or `.detach()` it"
    if held.kind == "cache":
        return f"`{held.name}.cache_clear()`, a maxsize, or no tensors: it keeps its arguments and its results"
    if held.graph and held.kind in _CONTAINERS:
        told = f"put `.detach()` (or `.item()`) of it into `{held.name}`"
        return told if trains else f"{told}, or run the model under torch.no_grad()"
    if held.graph:
        return f"add `.detach()` or `.item()` to what is kept in `{held.name}`"
    if trace and all(trace.buffers[index].category is Category.PARAMETER for index in kinds[0].buffers):
        return f"let go of the models in `{held.name}` before the next is made"
    if trace and kinds and all(trace.buffers[kind.buffers[0]].category is Category.OPTIMIZER for kind in kinds):
        return f"keep one optimizer, whose param_groups can be changed, in place of those in `{held.name}`"
    if held.kind == "hook" and any(kind.count > 1 for kind in kinds):
        return "keep the handle that registering the hook returns, and `.remove()` it; or register it once"
    if held.kind in ("closure", "hook"):
        variable, _, function = held.name.partition(" in ")
        return f"keep a number, or `.detach().cpu()`, of `{variable}` for `{function}`; or let go of such functions"
    return f"empty `{held.name}` each step, or keep `.detach().cpu()` in it"
