"""Libraries that are compiled once and cached: where they are kept, and how they get there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from memgraph import children
from memgraph.errors import ShimError
from memgraph.temporary import temporary_folder


def cache_folder() -> Path:
    """`MEMGRAPH_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("MEMGRAPH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memgraph"


def build(path: Path, command: Callable[[Path], Sequence[str]], what: str, variable: str) -> None:
    """Compile into a temporary file beside the target, then rename: never a half-written library.

    Args:
        command: the compiler's command line for an output file.
        what: what is built, for the error.
        variable: the environment variable that names another compiler.

    Raises:
        ShimError: the build failed, or the cache folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(".build-", beside=path.parent) as folder:
            built = folder / path.name
            _compile(command(built), what, variable)
            built.replace(path)
    except OSError as error:
        raise ShimError(
            f"cannot write the cache folder {path.parent}: {error.strerror or error}; "
            "set MEMGRAPH_CACHE to one that can be written"
        ) from error


def compiler(variable: str, names: Sequence[str], otherwise: str) -> str:
    """The first of these compilers that is there.

    Raises:
        ShimError: none is; `otherwise` says so.
    """
    for name in (os.environ.get(variable), *names):
        if name and shutil.which(name):
            return name
    raise ShimError(otherwise)


def _compile(command: Sequence[str], what: str, variable: str) -> None:
    try:
        result = children.run(command)
    except OSError as error:
        reason = f"cannot run {command[0]}: {error.strerror or error}; set {variable} to a compiler"
        raise ShimError(f"building {what} failed: {reason}") from error
    if result.returncode != 0:
        reason = (
            _first_error(result.stderr.decode(errors="replace"))
            or f"the compiler said nothing (exit code {result.returncode})"
        )
        raise ShimError(f"building {what} failed: {reason}")


def _first_error(text: str) -> str:
    """The first line that speaks of an error, else the first that says anything."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "")[:200]
