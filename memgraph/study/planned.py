"""A plan in force while a script runs, which does not know of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from memgraph.errors import UsageError
from memgraph.plan.apply import apply_plan
from memgraph.plan.plan_file import Plan

if TYPE_CHECKING:
    from memgraph.capture.session import VirtualGpu


@contextlib.contextmanager
def planned(gpu: VirtualGpu, plan: Plan) -> Iterator[None]:
    """The plan is applied to each model of a script that is trained and has the plan's modules, before its first call.

    Raises:
        UsageError: the block ended, and there was none.
    """
    from memgraph.capture.script_changes import before_models

    wanted = {module for region in plan.regions for module in region.modules}
    done: list[Any] = []

    def apply(root: Any) -> None:
        new = root.training and all(root is not one for one in done)
        if new and wanted <= {name for name, _ in root.named_modules(remove_duplicate=False)}:
            done.append(root)
            apply_plan(root, plan)

    with before_models(gpu, apply):
        yield
    if wanted and not done:
        raise UsageError(f"no model that the script trains has the plan's modules, like {min(wanted)}")
