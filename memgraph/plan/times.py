"""`MeasuredTimes`: what the ops of a step took on a real card. Plain data, and the small file that holds it."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memgraph.errors import DAMAGED, UsageError
from memgraph.gpu.specs import GpuSpec, find
from memgraph.options import Options
from memgraph.small_file import read_text
from memgraph.trace.output_file import write_file

SCHEMA = 1
"""Version of the file; a reader refuses a newer one."""
_KIND = "measured times"
_WANTED = ("gpu", "torch", "amp", "dtype")

Shapes = tuple[tuple[int, ...], ...]


class Row(NamedTuple):
    """Calls of one op with inputs of the same shapes."""

    name: str
    """ATen's, without overload: `mm`."""
    shapes: Shapes
    """Of its tensors, in the order of its arguments; those without dimensions are left out."""
    calls: int
    microseconds: float
    """Of the card, all calls together: their own kernels and those of the ops that they call."""


class Measured(NamedTuple):
    """Of how many of a step's ops the time was measured."""

    gpu: str
    """As the driver says it."""
    ops: int
    of: int
    """Ops that are no views, which take no time on the card."""


@dataclass(frozen=True)
class MeasuredTimes:
    """One step of one card, and what its file says of it."""

    gpu: str
    """As the driver says it: `NVIDIA H200`."""
    torch: str
    amp: str
    """Autocast of the step: the shapes do not tell a product's type."""
    dtype: str
    rows: tuple[Row, ...] = ()

    def of(self, name: str, shapes: Iterable[tuple[int, ...]]) -> int | None:
        """Nanoseconds of one call, the mean of those that were measured; None if there was none.

        Args:
            name: as `Row.name`.
            shapes: of the tensors among its inputs, of lists of tensors too.
        """
        return self._means.get((name, tuple(shape for shape in shapes if shape)))

    @functools.cached_property
    def _means(self) -> dict[tuple[str, Shapes], int]:
        """Nothing tells calls without a shape apart (a factory, a scalar), so they have no mean."""
        return {(row.name, row.shapes): round(1e3 * row.microseconds / row.calls) for row in self.rows if row.shapes}

    def require(self, card: GpuSpec, options: Options) -> None:
        """Raises:
        UsageError: the times are of another card, or of a step of other types, than a plan is for.
        """
        try:
            measured = find(self.gpu)
        except UsageError:
            raise UsageError(
                f"the times were measured on {self.gpu}, which is not in `memgraph gpus`: plan without them"
            ) from None
        if measured != card:
            raise UsageError(
                f"the times were measured on {self.gpu}, and the plan is for {card.title}: add --gpu {measured.name}, "
                f"or measure on that card: `memgraph record --times`"
            )
        if (self.amp, self.dtype) != (options.amp, options.dtype):
            raise UsageError(
                f"the times were measured with --amp {self.amp} --dtype {self.dtype}, and the plan is for --amp "
                f"{options.amp} --dtype {options.dtype}: give the same"
            )

    @property
    def text(self) -> str:
        """The file's content: JSON, a line a row."""
        head = {"schema": SCHEMA, "kind": _KIND, **{name: getattr(self, name) for name in _WANTED}}
        parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        rows = ",".join(f"\n    {json.dumps(row)}" for row in self.rows)
        return "{\n  " + ",\n  ".join([*parts, f'"rows": [{rows}\n  ]']) + "\n}\n"

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write it. Refuses to overwrite without `force`."""
        write_file(Path(path), self.text.encode(), force=force)


def load_times(path: str | os.PathLike[str]) -> MeasuredTimes:
    """Times from their file.

    Raises:
        UsageError: there is no such file, or it holds no times.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"the times {path} cannot be read: {error}") from error
    return parse_times(text, str(path))


def parse_times(text: str, name: str = "the file") -> MeasuredTimes:
    """Times from their text.

    Raises:
        UsageError: it holds none.
    """
    try:
        found = json.loads(text)
        if found["kind"] != _KIND:
            raise KeyError("kind")
        if found["schema"] > SCHEMA:
            raise UsageError(f"{name} was written by a newer memgraph (schema {found['schema']}): update")
        head = {field: _text(found[field]) for field in _WANTED}
        return MeasuredTimes(**head, rows=tuple(_row(*row) for row in found["rows"]))
    except DAMAGED as error:
        raise UsageError(f"{name} holds no measured times: write it with `memgraph record --times` on a GPU") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _row(name: Any, shapes: Any, calls: Any, microseconds: Any) -> Row:
    sizes = tuple(tuple(map(_size, shape)) for shape in shapes)
    if _size(calls) == 0 or not isinstance(microseconds, int | float) or not 0 <= microseconds < math.inf:
        raise ValueError("row")
    return Row(_text(name), sizes, calls, float(microseconds))


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("size")
    return value
