"""The cross entropy of logits that are never there as a whole: made, used and dropped a chunk of rows at a time.

The logits and what the loss makes of them take rows × vocabulary × 12 to 14 bytes at once: with a vocabulary of 50,000
that is most of a small model's peak. In chunks it is a chunk's share of that, for one more product with the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]


def chunked_cross_entropy(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    chunks: int = 8,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`F.cross_entropy(head(hidden), targets)`, a chunk of rows at a time; each is computed again in the backward.

    Args:
        head: makes a row of logits of a row of `hidden`, whatever the other rows are.
        hidden: [rows, C].
        targets: [rows], class indices.
        chunks: into how many.
        ignore_index: rows with this target do not count.
        reduction: `mean` or `sum`.
        label_smoothing: as in `F.cross_entropy`.
    """

    def part(rows: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(
            head(rows), wanted, ignore_index=ignore_index, reduction="sum", label_smoothing=label_smoothing
        )

    size = max(1, -(-hidden.size(0) // chunks))
    pieces = zip(hidden.split(size), targets.split(size), strict=True)
    losses = [checkpoint(part, rows, wanted, use_reentrant=False) for rows, wanted in pieces]
    total: Tensor = torch.stack(losses).sum()
    return total if reduction == "sum" else total / (targets != ignore_index).sum()


class LogitsInChunks:
    """Stands for `head(hidden)` until somebody asks for it. `F.cross_entropy` takes it in chunks; reshapes that leave the
    vocabulary whole only reshape `hidden`; anything else gets the real logits.

    Args:
        head: makes logits.
        hidden: [..., C].
        classes: the logits' last dimension.
        chunks: into how many the rows are split.
    """

    def __init__(self, head: Head, hidden: Tensor, classes: int, chunks: int) -> None:
        self._head, self._hidden, self._classes, self._chunks = head, hidden, classes, chunks
        self._widen = False

    def materialize(self) -> Tensor:
        """The logits themselves."""
        logits = self._head(self._hidden)
        return logits.float() if self._widen else logits

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self._hidden.shape[:-1], self._classes))

    @property
    def device(self) -> torch.device:
        return self._hidden.device

    @property
    def ndim(self) -> int:
        return self._hidden.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def float(self) -> Self:
        copy = self._with(self._hidden)
        copy._widen = True
        return copy

    def contiguous(self) -> Self:
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """To where it is already, or the real logits to somewhere else."""
        here = args and not kwargs and args[0] in (self.device, str(self.device))
        return self if here else self.materialize().to(*args, **kwargs)

    def reshape(self, *shape: Any) -> Any:
        return self._reshaped("reshape", shape)

    def view(self, *shape: Any) -> Any:
        return self._reshaped("view", shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        if end_dim % self.ndim == self.ndim - 1:
            return self.materialize().flatten(start_dim, end_dim)
        return self._with(self._hidden.flatten(start_dim, end_dim))

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(part, int | slice) or part is Ellipsis for part in parts):
            return self.materialize()[index]
        reaches_last = parts[-1] is not Ellipsis if Ellipsis in parts else len(parts) == self.ndim
        if reaches_last and parts[-1] != slice(None):
            return self.materialize()[index]
        return self._with(self._hidden[index])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.materialize(), name)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """torch calls this when a function of its own is given one."""
        kwargs = kwargs or {}
        if func is F.cross_entropy and (loss := _in_chunks(*args, **kwargs)) is not None:
            return loss
        return func(*map(_real, args), **{name: _real(value) for name, value in kwargs.items()})

    def _with(self, hidden: Tensor) -> Self:
        copy = type(self)(self._head, hidden, self._classes, self._chunks)
        copy._widen = self._widen
        return copy

    def _reshaped(self, how: str, shape: tuple[Any, ...]) -> Any:
        sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list, torch.Size)) else shape
        if not sizes or sizes[-1] != self._classes:
            return getattr(self.materialize(), how)(*shape)
        return self._with(getattr(self._hidden, how)(*sizes[:-1], self._hidden.size(-1)))

    def _real_head(self, rows: Tensor) -> Tensor:
        logits = self._head(rows)
        return logits.float() if self._widen else logits


def _real(value: Any) -> Any:
    return value.materialize() if isinstance(value, LogitsInChunks) else value


def _in_chunks(
    input: Any,  # noqa: A002  # torch's own name
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    """`F.cross_entropy` of rows of logits and class indices; None where it is called in another way."""
    odd = weight is not None or size_average is not None or reduce is not None or reduction not in ("mean", "sum")
    if odd or not isinstance(input, LogitsInChunks) or input.ndim != 2 or target.ndim != 1:
        return None
    return chunked_cross_entropy(
        input._real_head, input._hidden, target, input._chunks, ignore_index=ignore_index, reduction=reduction,
        label_smoothing=label_smoothing,
    )  # fmt: skip


__all__ = ["LogitsInChunks", "chunked_cross_entropy"]
