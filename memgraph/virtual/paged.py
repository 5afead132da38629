"""bitsandbytes' paged optimizers: their states are in managed memory, which the driver moves and PyTorch never sees.

`get_paged`, `prefetch_tensor` and `elementwise_func` of bitsandbytes/functional.py call its CUDA library, 0.43 and
later; here such a state is a tensor of the host.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from memgraph.virtual.after_import import Change
from memgraph.virtual.patches import replaced

Assume = Callable[[str], None]


def paged_states(assume: Assume) -> dict[str, Change]:
    """What to change in bitsandbytes, for `changed_when_imported`."""

    def get_paged(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None) -> Tensor:
        assume("a paged state is in managed memory, which PyTorch does not count")
        made: Any = torch.empty(shape, dtype=dtype)
        made.is_paged, made.page_deviceid = True, 0
        return made  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def change(functional: types.ModuleType) -> Iterator[None]:
        with (
            replaced(functional, "get_paged", get_paged),
            replaced(functional, "prefetch_tensor", lambda *_, **__: None),
            replaced(functional, "elementwise_func", lambda *_, **__: None),
        ):
            yield

    return {"bitsandbytes.functional": change}
