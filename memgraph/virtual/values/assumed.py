"""What to go on with where a value decides and nobody knows it. Each assumption is stated, with its source line.

Defaults: a boolean is False, and what an `assert` asks holds; a number is 1; a size that depends on data is its bound
(every element selected). A line that asks again and again may be a loop that waits for the answer to change: each
thousandth time it is another one, and in the end the run is refused.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch._library.fake_impl import FakeImplCtx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

from memgraph.errors import MemgraphError, UsageError
from memgraph.gpu.rules.layout import wrap
from memgraph.virtual.patches import replaced
from memgraph.virtual.values import counted, follow
from memgraph.virtual.values import known as values
from memgraph.virtual.values.asking import counts, goes_on, minimises, place, slices
from memgraph.virtual.values.known import Knowledge

aten = torch.ops.aten
_Question = tuple[str, str, tuple[CodeType, int] | None]
"""The program's line, the type of the answer, and the line that asks."""

BY_VALUE = frozenset(
    {
        aten._local_scalar_dense.default,
        aten.nonzero.default,
        aten.masked_select.default,
        aten.equal.default,
        aten._unique.default,
        aten._unique2.default,
        aten.unique_dim.default,
        aten.unique_consecutive.default,
        aten.repeat_interleave.Tensor,
        aten.bincount.default,
    }
)
"""Ops whose result, or its size, depends on values."""

_CONDITIONS = frozenset({aten.equal.default})
_FLAGS = {
    aten._unique.default: 2, aten._unique2.default: 2, aten.unique_consecutive.default: 1, aten.unique_dim.default: 3,
}  # fmt: skip
"""The place of `return_inverse`, which `return_counts` follows."""
_UNBOUNDED = frozenset({aten.repeat_interleave.Tensor, aten.bincount.default})
_MASKED = frozenset({aten.index.Tensor, aten.index_put.default})
"""Ops whose second argument has a mask among its indices."""
_SIZED = frozenset({aten.nonzero.default, aten.masked_select.default, aten.index.Tensor, *_FLAGS, *_UNBOUNDED})
"""Those with a policy for their result's size."""
_INTO = {
    aten.nonzero.out: aten.nonzero.default, aten.masked_select.out: aten.masked_select.default,
    aten.index.Tensor_out: aten.index.Tensor,
}  # fmt: skip
"""What makes the result that these put into a tensor they are given."""


PATIENCE = 1000
"""Times that a line is given the same answer before it is given another one."""
ENOUGH = 20 * PATIENCE
"""Times after which a line that still asks is taken to never end."""
_OTHERS: dict[type, tuple[Any, ...]] = {bool: (True, False), int: (0, 1000), float: (1e-9, 1e9)}
"""The other answers, in turn."""


class Assumptions:
    """The policy, and the list of what it had to assume.

    Args:
        fraction: of the bound that a data-dependent size is taken to be, 0 to 1.

    Raises:
        UsageError: it is not between 0 and 1.
    """

    def __init__(self, fraction: float = 1.0) -> None:
        if not 0 <= fraction <= 1:
            raise UsageError(f"a share of {fraction} cannot be selected: use a number from 0 to 1")
        self.fraction = fraction
        self._stated: dict[str, int] = {}
        self._asked: dict[_Question, tuple[int, int, int]] = {}
        self._falls = 0

    @property
    def stated(self) -> tuple[str, ...]:
        """Each assumption once, with how often it was made."""
        return tuple(text if times == 1 else f"{text} ({times} times)" for text, times in self._stated.items())

    def state(self, text: str) -> None:
        """Write an assumption down."""
        self._stated[text] = self._stated.get(text, 0) + 1

    def select(self, bound: int, what: str) -> int:
        """A size that depends on data, of which the bound is known; it is written down."""
        size = math.ceil(bound * self.fraction)
        self.state(f"{size:,} of at most {bound:,} {what}")
        return size

    def instead(
        self, mode: FakeTensorMode, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], source: str,
        step: int = 0,
    ) -> Any:  # fmt: skip
        """The assumed result of an op whose result depends on values.

        Args:
            source: the line that asks.
            step: which optimizer step it is in.

        Raises:
            MemgraphError: the op is not one that memgraph has a policy for, or its line asks without end.
        """
        if func in _INTO:
            rest = {name: value for name, value in kwargs.items() if name != "out"}
            made = self.instead(mode, _INTO[func], args, rest, source, step)
            with mode:
                return kwargs["out"].resize_(made.shape)
        where = f" at {source}" if source else ""
        if func is aten._local_scalar_dense.default:
            return self._scalar(args[0], where, step)
        if func in _CONDITIONS:
            return self._condition(where, step)
        if func.namespace != "aten":
            return self._custom(mode, func, args, kwargs, where)
        if func not in _SIZED:
            raise MemgraphError(
                f"{func}{where} has a result whose size depends on values, and memgraph has no policy for it: "
                "replace it, or give it a mask of small integers, whose values are followed"
            )
        size = self._selected(func, args)
        if size is None:
            size = self._unbounded(func, args, kwargs, where) if func in _UNBOUNDED else self._bound(func, args, where)
        return self._sized(mode, func, args, kwargs, size)

    def put(self, args: Sequence[Any], source: str) -> int:
        """How many elements the mask of an `index_put` selects, which its own memory depends on."""
        func, where = aten.index_put.default, f" at {source}" if source else ""
        size = self._selected(func, args)
        return size if size is not None else self._bound(func, args, where)

    def found(
        self, mode: FakeTensorMode, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any],
        known: Knowledge, source: str,
    ) -> Any:  # fmt: skip
        """The result of an op whose result depends on values, where they are known or supposed; None where not."""
        if known is Knowledge.ALL:
            real = values.run_for_real(func, args, kwargs)
            if func in _FLAGS:
                real = _as_wanted(real, *_wanted(func, args, kwargs))
            return self._from_values(mode, real, None, _room(func, args))
        if func is aten._local_scalar_dense.default and (pair := values.bounds(args[0])) and torch.equal(*pair):
            return pair[0].item()
        guess, choice = follow.guess(func, args, kwargs)
        if guess is None or choice is None:
            return None
        self._choose(choice)
        return self._from_values(mode, guess, choice, _room(func, args))

    def _from_values(self, mode: FakeTensorMode, real: Any, choice: values.Choice | None, room: int) -> Any:
        """Fake tensors on the device, shaped like known results, or like supposed ones; a scalar is itself."""
        if isinstance(real, Tensor):
            fake = _empty(mode, tuple(real.shape), real.dtype, room)
            if choice is not None:
                values.keep(fake, None, real, choice)
            else:
                values.remember(fake, real)
            return fake
        if isinstance(real, (list, tuple)):
            return tuple(self._from_values(mode, item, choice, room) for item in real)
        return real

    def _choose(self, choice: values.Choice | None) -> None:
        """Say once of a choice how it is taken to turn out."""
        if choice is not None:
            self._stated.setdefault(choice.text, 1)

    def _selected(self, func: OpOverload, args: Sequence[Any]) -> int | None:
        """How many elements a mask selects whose values are known or supposed."""
        mask = _mask_of(func, args)
        value = values.supposed(mask) if mask is not None else None
        if mask is None or value is None:
            return None
        self._choose(values.choice_of(mask))
        return int(value.count_nonzero()) * _spread(func, args)

    def _condition(self, where: str, step: int) -> bool:
        value: bool = self._patiently(goes_on(usual=False), where, step)
        self.state(f"a condition on unknown values{where} is taken to be {value}")
        return value

    def _scalar(self, tensor: Tensor, where: str, step: int) -> bool | int | float:
        if tensor.dtype is torch.bool:
            return self._condition(where, step)
        if minimises():
            self._falls += 1
            self.state(f"what LBFGS reads{where} is taken to fall each time: no step of it ends early")
            return 1 / self._falls
        value = self._patiently(1.0 if tensor.dtype.is_floating_point else 1, where, step)
        if (pair := values.bounds(tensor)) is not None:
            most = pair[1].item()
            value = most if slices() or counts() else min(max(value, pair[0].item()), most)
        self.state(f"an unknown value read{where} is taken to be {value}")
        return value

    def _patiently(self, usual: Any, where: str, step: int) -> Any:
        """The usual answer, or another one if the line has asked too often: within one step, or once in each of many.

        Raises:
            MemgraphError: it goes on asking.
        """
        question = where, type(usual).__name__, place()
        last, within, steps = self._asked.get(question, (step, 0, 0))
        within, steps = (within + 1, steps) if last == step else (1, steps + 1)
        self._asked[question] = step, within, steps
        times = within if within > 1 else steps
        if times >= ENOUGH:
            raise MemgraphError(
                f"an unknown value was asked for {times:,} times{where}: a loop that waits for it would never end; "
                "give it a limit, or end the run with --steps N"
            )
        if times == 0 or times % PATIENCE:
            return usual
        others = _OTHERS[type(usual)]
        return others[(times // PATIENCE - 1) % len(others)]

    def _bound(self, func: OpOverload, args: Sequence[Any], where: str) -> int:
        bound = _elements(func, args)
        if (most := counted.most(_chosen_by(func, args))) is not None:
            bound = min(bound, most * _spread(func, args))
        if func in _FLAGS and _dimension(func, args) is None and (span := _span(args[0])) is not None:
            bound = min(bound, span[1] - span[0] + 1)
        size = math.ceil(bound * self.fraction)
        self.state(
            f"{func.overloadpacket.__name__}{where}: {size:,} of at most {bound:,} elements are taken to be selected"
        )
        return size

    def _unbounded(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> int:
        """The sum of repetitions, by their bounds or one for each; the largest value counted, by its bound or 1."""
        pair = values.bounds(args[0])
        if func is aten.bincount.default:
            least = args[2] if len(args) > 2 else kwargs.get("minlength", 0)
            span = _span(args[0])
            size = max(span[1] + 1 if span else 0 if least else 2, least)  # of values that are taken to be 1
            sure = span is not None and span[1] < least
        else:
            size, sure = int(pair[1].sum()) if pair else _elements(func, args), False
        if not sure:
            self.state(f"the result of {func.overloadpacket.__name__}{where} is taken to have {size:,} elements")
        return size

    def _custom(
        self, mode: FakeTensorMode, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], where: str
    ) -> Any:
        """A custom op whose fake kernel asks for a size that depends on data (`torch.library.get_ctx`): what the kernel
        says is the most, or each of the rows that its tensors share, or each element of a lone one."""

        def size(_context: Any, *, min: int = 0, max: int | None = None) -> int:  # noqa: A002  # torch's names
            bound = _rows(args, kwargs) if max is None else max
            return builtins.max(min, self.select(bound, f"for {func}{where} are taken to be selected"))

        with replaced(FakeImplCtx, "new_dynamic_size", size):
            return mode.dispatch(func, (), args, dict(kwargs))  # type: ignore[arg-type]

    def _sized(
        self, mode: FakeTensorMode, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], size: int
    ) -> Any:
        tensor = args[0]
        if func is aten.nonzero.default:
            return values.of_assumed_size(_empty(mode, (size, tensor.dim()), torch.int64))
        if func is aten.masked_select.default:
            return values.of_assumed_size(_empty(mode, (size,), tensor.dtype))
        if func is aten.index.Tensor:
            return values.of_assumed_size(_empty(mode, _indexed_shape(tensor, args[1], size), tensor.dtype))
        if func in _FLAGS:
            return _distinct(mode, func, args, kwargs, size)
        return _empty(mode, (size,), _counted_in(args, kwargs) if func is aten.bincount.default else torch.int64)


def _counted_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.dtype:
    """What `bincount` adds up in: weights of float32 as they are, others in float64
    (aten/src/ATen/native/cuda/SummaryOps.cu)."""
    weights = args[1] if len(args) > 1 else kwargs.get("weights")
    if weights is None:
        return torch.int64
    return torch.float32 if weights.dtype is torch.float32 else torch.float64


def _distinct(
    mode: FakeTensorMode, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], size: int
) -> tuple[Tensor, ...]:
    """What a unique returns: the values, where each element is among them, and how often each is there."""
    tensor, along, room = args[0], _dimension(func, args), _room(func, args)
    inverse, counts = _wanted(func, args, kwargs)
    shape, places = (size,), tuple(tensor.shape)
    if along is not None:
        shape, places = (*places[:along], size, *places[along + 1 :]), (places[along],)
    results = (
        _empty(mode, shape, tensor.dtype, room),
        _empty(mode, places if inverse else (0,), torch.int64),
        _empty(mode, (size if counts else 0,), torch.int64, room),
    )
    return results[: len(func._schema.returns)]


def _wanted(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a unique is asked for the inverse and the counts; what is not asked for is empty
    (aten/src/ATen/native/cuda/Unique.cu)."""
    first = _FLAGS[func]
    inverse = args[first] if len(args) > first else kwargs.get("return_inverse", False)
    counts = args[first + 1] if len(args) > first + 1 else kwargs.get("return_counts", False)
    return bool(inverse), bool(counts)


def _as_wanted(results: Sequence[Tensor], inverse: bool, counts: bool) -> list[Tensor]:
    """The same of what a CPU returned, which may count what it was not asked for."""
    kept = (True, inverse, counts)
    return [one if keep else one.new_empty(0) for one, keep in zip(results, kept, strict=False)]


def _room(func: OpOverload, args: Sequence[Any]) -> int:
    """Elements of the storage that a unique's values, and their counts, are found in: as many as it is given
    (aten/src/ATen/native/cuda/UniqueCub.cu)."""
    return args[0].numel() if func in _FLAGS and _dimension(func, args) is None else 0


def _dimension(func: OpOverload, args: Sequence[Any]) -> int | None:
    """The dimension along which a unique compares slices; None where it compares elements."""
    place = {aten.unique_dim.default: 1, aten.unique_consecutive.default: 3}.get(func, len(args))
    dimension: int | None = args[place] if place < len(args) else None
    return dimension if dimension is None else wrap(dimension, args[0].dim())


def _rows(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The most rows that two tensors among the arguments share; the elements of the largest where none do."""
    tensors = [tensor for tensor in values.tensors_in(args, kwargs) if tensor.dim()]
    rows = [tensor.shape[0] for tensor in tensors]
    shared = [count for count in rows if rows.count(count) > 1]
    return max(shared) if shared else max((tensor.numel() for tensor in tensors), default=1)


def _mask_of(func: OpOverload, args: Sequence[Any]) -> Tensor | None:
    """The boolean tensor that selects elements, of those ops that take one."""
    if func in _MASKED:
        return _mask(args)
    return args[1] if func is aten.masked_select.default else None


def _chosen_by(func: OpOverload, args: Sequence[Any]) -> Tensor | None:
    """The tensor whose elements other than 0 are as many as the result has, of those ops where there is one."""
    return args[0] if func is aten.nonzero.default else _mask_of(func, args)


def _spread(func: OpOverload, args: Sequence[Any]) -> int:
    """How often `masked_select` takes each element of its mask: as often as that is spread over the source."""
    if func is not aten.masked_select.default:
        return 1
    return math.prod(torch.broadcast_shapes(args[0].shape, args[1].shape)) // max(args[1].numel(), 1)


def _span(tensor: Tensor) -> tuple[int, int] | None:
    """The least and the greatest that any element can be."""
    pair = values.bounds(tensor)
    if pair is None or not tensor.numel() or tensor.dtype not in values.EXACT:
        return None
    return int(pair[0].min()), int(pair[1].max())


def _mask(args: Sequence[Any]) -> Tensor:
    """The boolean index of `tensor[..., mask, ...]`."""
    return next(index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8))


def _elements(func: OpOverload, args: Sequence[Any]) -> int:
    if func in _MASKED:
        return _mask(args).numel()
    if func is aten.masked_select.default:
        return math.prod(torch.broadcast_shapes(args[0].shape, args[1].shape))
    along = _dimension(func, args)
    return int(args[0].numel() if along is None else args[0].shape[along])


def _indexed_shape(tensor: Tensor, indices: Sequence[Tensor | None], size: int) -> tuple[int, ...]:
    """Shape of `tensor[mask]` with `size` elements selected; the mask stands for as many dimensions as it has."""
    shape: list[int] = []
    dimension = 0
    for index in indices:
        if index is None:
            shape.append(tensor.shape[dimension])
            dimension += 1
        elif index.dtype in (torch.bool, torch.uint8):
            shape.append(size)
            dimension += index.dim()
        else:
            dimension += 1
    return (*shape, *tensor.shape[dimension:])


def _empty(mode: FakeTensorMode, shape: tuple[int, ...], dtype: torch.dtype, room: int = 0) -> Tensor:
    """A new tensor; of some elements, it is what is left of a storage for `room` of them."""
    with mode:
        if 0 < math.prod(shape) < room:
            return torch.empty(room, dtype=dtype, device="cuda").resize_(shape)
        return torch.empty(shape, dtype=dtype, device="cuda")
