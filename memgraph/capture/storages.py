"""The storages of a run: each is given a buffer when it is born, which is freed when it dies."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.capture.ledger import Ledger
from memgraph.errors import InvariantError
from memgraph.gpu.call import OnHost, Output, Release, Smaller, Steps, Temporary, Trial
from memgraph.trace import Role, TensorSpec
from memgraph.virtual.ops.shapes import Recipe, Shapes
from memgraph.virtual.ops.sparse import parts_of
from memgraph.virtual.raw import storage_of

_NO_BUFFER = -1
"""Stands for the buffer of a storage that is not on the device."""
_EMPTIED = "_memgraph_emptied"
_NO_BACKWARD = -1
"""What torch says of a graph that is not at work."""
Born = tuple[Tensor, torch.UntypedStorage, TensorSpec]
"""A storage that is new, and a tensor that looks at all of it."""


class _Followed(weakref.ref[torch.UntypedStorage]):
    """A storage that is alive. One object for each, which is what `Collecting` counts with."""

    __slots__ = ("buffer", "key")
    buffer: int
    key: int
    """The storage's `_cdata`."""


class Storages:
    """Follows storages by weak references.

    Args:
        ledger: where allocations go.
        shapes: the looks of the run's tensors.
    """

    def __init__(self, ledger: Ledger, shapes: Shapes) -> None:
        self.specs: dict[int, TensorSpec] = {}
        """Of the tensors that the buffers were allocated for, by buffer."""
        self._ledger = ledger
        self._shapes = shapes
        self._settled: dict[tuple[Smaller, int], int] = {}
        """What a temporary that can do with less took last."""
        self._tried_out: set[tuple[Smaller, bool]] = set()
        """Kernels that were tried, and whether by the thread of the backward: each thread keeps what it found
        (`benchmark_cache`, aten/src/ATen/native/cudnn/Conv_v8.cpp)."""
        self._live: dict[int, _Followed] = {}
        self._gone = self._died
        self.refilled: set[int] = set()
        """Buffers of storages that are emptied and filled again."""

    def __len__(self) -> int:
        """How many are followed."""
        return len(self._live)

    def new(self, outputs: Any) -> list[Born]:
        """Those on the device that an op's outputs have and that were not there before, in order."""
        born: dict[int, Born] = {}
        for tensor in _each(outputs):
            if isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda":
                for part in parts_of(tensor):
                    storage = storage_of(part)
                    key = storage._cdata
                    if key not in self._live and key not in born and storage.nbytes():
                        born[key] = (part, storage, self._shapes.look(part).spec)
        return list(born.values())

    def made(self, recipe: Recipe, outputs: Any) -> list[Born]:
        """The same of outputs that were made as remembered: the recipe says which are new."""
        each = (outputs,) if recipe.container is None else outputs
        return [(each[place], storage_of(each[place]), spec) for place, spec, _ in recipe.births]

    def allocate(self, steps: Steps | None, born: Sequence[Born]) -> None:
        """What an op allocates, and frees on the way: its outputs, and as `steps` say, in their order."""
        if steps:
            self._follow(steps, born)
        else:
            for _, storage, spec in born:
                self.hold(storage, spec)

    def bear(self, tensor: Tensor) -> None:
        """A tensor that stands for one on the device, whatever it is itself."""
        storage = storage_of(tensor)
        if storage.nbytes() and storage._cdata not in self._live:
            self.hold(storage, self._shapes.look(tensor).spec)

    def changed(self, tensors: Iterable[Tensor]) -> list[Born]:
        """Those on the device that were written to and hold more, or less, than before, or begin to hold anything."""
        found: dict[int, Born] = {}
        for tensor in tensors:
            if isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda":
                storage = storage_of(tensor)
                if storage.nbytes() != self._held(storage):
                    found[storage._cdata] = tensor, storage, self._shapes.look(tensor).spec
        return list(found.values())

    def resized(self, storage: torch.UntypedStorage) -> None:
        """A script may have given it another size."""
        if storage.nbytes() != self._held(storage):
            before = self._buffer_of(storage._cdata)
            self.hold(storage, TensorSpec((storage.nbytes(),), "uint8"))
            self._note_refill(storage, before)

    def _note_refill(self, storage: torch.UntypedStorage, before: int) -> None:
        if not storage.nbytes():
            vars(storage)[_EMPTIED] = True
            self.refilled.add(before)
        elif _EMPTIED in vars(storage):
            self.refilled.add(self._live[storage._cdata].buffer)

    def address(self, storage: torch.UntypedStorage) -> int:
        """Where its block begins; 0 if it has none."""
        buffer = self._buffer_of(storage._cdata)
        return self._ledger.address(buffer) if buffer != _NO_BUFFER else 0

    def check(self) -> None:
        """Compare what the live storages hold with the ledger, and the ledger with the allocator.

        Raises:
            InvariantError: they differ.
        """
        for reference in list(self._live.values()):
            storage, buffer = reference(), reference.buffer
            if storage is not None and buffer != _NO_BUFFER and storage.nbytes() != self._ledger.sizes[buffer]:
                raise InvariantError(
                    f"a storage of {storage.nbytes():,} bytes stands in the ledger with {self._ledger.sizes[buffer]:,}"
                    ": this is an error of memgraph's; please report the script that shows it"
                )
        self._ledger.check()

    def _held(self, storage: torch.UntypedStorage) -> int:
        """The bytes that the ledger has for it."""
        buffer = self._buffer_of(storage._cdata)
        return self._ledger.sizes[buffer] if buffer != _NO_BUFFER else 0

    def take_over(self, other: Storages) -> bool:
        """Those of an earlier run that are still alive, as what they were there, outside any op; whether it had any."""
        left = [(one.buffer, storage) for one in other._live.values() if (storage := one()) is not None]
        other._live.clear()
        op, self._ledger.op = self._ledger.op, -1
        for buffer, storage in left:
            size = storage.nbytes() if buffer != _NO_BUFFER else 0
            self._know(storage, self._again(other, buffer, size) if size else _NO_BUFFER)
        self._ledger.op = op
        return bool(left)

    def _again(self, other: Storages, buffer: int, size: int) -> int:
        """A buffer of another run, in this one."""
        new = self._ledger.allocate(size)
        self.specs[new] = other.specs[buffer]
        if buffer in other._ledger.categories:
            self._ledger.categories[new] = other._ledger.categories[buffer]
        if buffer in other._ledger.names:
            self._ledger.names[new] = other._ledger.names[buffer]
        return new

    def buffer_of(self, tensor: Tensor) -> int | None:
        """The buffer that holds a fake tensor's data, if it was allocated on the device."""
        if not isinstance(tensor, FakeTensor):
            return None
        *_, part = parts_of(tensor)
        return self.buffer_at(storage_of(part)._cdata)

    def buffer_at(self, storage: int) -> int | None:
        """The same for a storage, by its `_cdata`."""
        buffer = self._buffer_of(storage)
        return buffer if buffer != _NO_BUFFER else None

    def keys_of(self, buffers: Collection[int]) -> dict[int, int]:
        """These buffers, by the `_cdata` of the storages that they are given to."""
        wanted = set(buffers)
        return {key: one.buffer for key, one in self._live.items() if one.buffer in wanted}

    def _follow(self, steps: Steps, born: Sequence[Born]) -> None:
        temporaries: list[int | None] = []
        named = {step.index for step in steps if isinstance(step, (Output, OnHost))}
        for position, (_, storage, spec) in enumerate(born):
            if position not in named:
                self.hold(storage, spec)
        try:
            for step in steps:
                self._take(step, born, temporaries)
        finally:
            for position in reversed(range(len(temporaries))):
                self._release(temporaries, position)

    def _take(self, step: Any, born: Sequence[Born], temporaries: list[int | None]) -> None:
        if isinstance(step, Output):
            if step.index < len(born):
                self.hold(*born[step.index][1:])
        elif isinstance(step, OnHost):
            self._know(born[step.index][1], _NO_BUFFER)
        elif isinstance(step, Temporary):
            temporaries.append(self._temporary(step) if step.size else None)
        elif isinstance(step, Release):
            self._release(temporaries, step.index)
        elif isinstance(step, Trial):
            self._try_out(step.kernels)

    def _try_out(self, kernels: Smaller) -> None:
        key = kernels, torch._C._current_graph_task_id() != _NO_BACKWARD
        if key not in self._tried_out:
            self._tried_out.add(key)
            self._ledger.try_out(kernels.sizes())

    def _temporary(self, step: Temporary) -> int | None:
        """Its buffer. What can do with less takes it where the allocator says no, and from then on."""
        if step.smaller is None:
            return self._ledger.allocate(step.size, Role.TEMPORARY)
        key = step.smaller, step.size
        for size in self._tried(*key):
            buffer = self._ledger.may_allocate(size, Role.TEMPORARY) if size else None
            if buffer is not None or not size:
                self._settled[key] = size
                return buffer
        return self._ledger.allocate(step.size, Role.TEMPORARY)

    def _tried(self, smaller: Smaller, first: int) -> Iterator[int]:
        """Sizes in the order in which they are tried; what served before comes first."""
        yield self._settled.get((smaller, first), first)
        yield from smaller.sizes()

    def _release(self, temporaries: list[int | None], position: int) -> None:
        buffer, temporaries[position] = temporaries[position], None
        if buffer is not None:
            self._ledger.free(buffer)

    def hold(self, storage: torch.UntypedStorage, spec: TensorSpec) -> None:
        """A storage comes to life; its buffer is freed when it dies, or when it takes another size: then it is given
        a new one before the old one goes (`resize_bytes_cuda`, aten/src/ATen/native/cuda/Resize.cpp)."""
        key = storage._cdata
        before = self._buffer_of(key)
        self._live.pop(key, None)
        size = storage.nbytes()
        if size:
            buffer = self._ledger.allocate(size)
            self.specs[buffer] = spec
            self._know(storage, buffer)
        if before != _NO_BUFFER:
            if size:
                self._ledger.inherit(buffer, before)
            self._ledger.free(before)

    def born(self, storage: torch.UntypedStorage, spec: TensorSpec, size: int) -> None:
        """The same of a storage of so many bytes that was just made."""
        buffer = self._ledger.allocate(size)
        self.specs[buffer] = spec
        followed = self._live[storage._cdata] = _Followed(storage, self._gone)  # `_know`, without a call
        followed.key, followed.buffer = storage._cdata, buffer

    def _know(self, storage: torch.UntypedStorage, buffer: int) -> None:
        followed = self._live[storage._cdata] = _Followed(storage, self._gone)
        followed.key, followed.buffer = storage._cdata, buffer

    def _buffer_of(self, key: int) -> int:
        followed = self._live.get(key)
        return followed.buffer if followed is not None else _NO_BUFFER

    def _died(self, followed: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(followed, _Followed)
        self._live.pop(followed.key, None)
        if followed.buffer != _NO_BUFFER:
            self._ledger.free(followed.buffer)


def _each(outputs: Any) -> Iterator[Any]:
    """An op's outputs one by one, those in a list among them too."""
    if isinstance(outputs, (list, tuple)):
        for output in outputs:
            yield from _each(output)
    else:
        yield outputs


def storages_of(tensor: Tensor) -> list[torch.UntypedStorage]:
    """Those that hold a tensor's data on the device: a wrapper has none of its own."""
    if isinstance(tensor, FakeTensor):
        return [part.untyped_storage() for part in parts_of(tensor)]
    names, _ = tensor.__tensor_flatten__() if hasattr(tensor, "__tensor_flatten__") else ((), None)
    return [storage for name in names for storage in storages_of(getattr(tensor, name))]
