"""What the tests of traces share."""

from __future__ import annotations

from pathlib import Path

import pytest

from memgraph.trace import Trace


@pytest.fixture
def saved(toy: Trace, tmp_path: Path) -> Path:
    """The toy trace in a file."""
    path = tmp_path / "toy.memgraph"
    toy.save(path)
    return path
