"""Libraries that are changed when a script imports them, and paged states among them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import memgraph

LIBRARY = """
def get_paged(*shape, dtype=None, device=None):
    raise OSError("no CUDA library")

prefetch_tensor = elementwise_func = get_paged
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `bitsandbytes` whose CUDA library is not there."""
    package = tmp_path / "bitsandbytes"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "functional.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)  # type: ignore[no-untyped-call]
    for name in ("bitsandbytes", "bitsandbytes.functional"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("before", [True, False])
def test_paged_states_take_nothing_of_the_card(before: bool) -> None:
    if before:
        importlib.import_module("bitsandbytes.functional")
    with memgraph.virtual_gpu("rtx3090") as gpu:
        functional = importlib.import_module("bitsandbytes.functional")
        state = functional.get_paged(1024, 1024, dtype=torch.uint8, device=torch.device("cuda", 0))
        functional.elementwise_func("fill", state, None, 0)
        functional.prefetch_tensor(state)
        assert (state.is_paged, state.page_deviceid, state.dtype) == (True, 0, torch.uint8)
        assert torch.cuda.memory_allocated() == 0
    assert "managed memory" in gpu.trace.assumptions[0]
    with pytest.raises(OSError, match="no CUDA library"):
        functional.get_paged(1)


def test_nothing_is_imported_for_it() -> None:
    finders = list(sys.meta_path)
    with memgraph.virtual_gpu("rtx3090"):
        assert len(sys.meta_path) == len(finders) + 1
    assert sys.meta_path == finders
