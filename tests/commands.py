"""Commands as the tests run them. The fixture `run` of conftest.py runs one in this process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

SMALL = ("--batch", "1", "--seq", "64", "--steps", "1", "--set", "lm_n_blocks=1", "--set", "vit_n_blocks=1")
"""A run of half a second."""


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


def command(*arguments: object) -> list[str]:
    """The words that run it as a process of its own."""
    return [sys.executable, "-m", "memgraph", *map(str, arguments)]


def process(*arguments: object, timeout: float = 60, **options: Any) -> Result:
    """Run a command as a process of its own."""
    result = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=timeout, **options
    )
    return Result(result.returncode, result.stdout, result.stderr)


def is_one_line(result: Result, code: int, message: str) -> None:
    """An error: nothing on stdout, one line on stderr that says whose it is, and no traceback."""
    assert result.err.startswith("memgraph: ") and result.err.endswith("\n") and result.err.count("\n") == 1, result.err
    assert re.search(message, result.err), result.err
    assert (result.code, result.out) == (code, "")
