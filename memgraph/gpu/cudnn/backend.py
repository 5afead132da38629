"""cuDNN's backend interface, as far as a question about a convolution needs it, through ctypes.

Only what NVIDIA documents (cuDNN's "Backend API"; the numbers are those of its public header cudnn_graph.h, which are
part of the interface and do not change). Since cuDNN 9.8 a question can be asked of a *description* of a card
(`CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR`), so no card and no driver is needed. The library may abort the process when a
part of it is missing: ask from a process that may die (`server.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from memgraph.gpu.cudnn.question import Config, Convolution
from memgraph.gpu.cudnn.refused import Refusals
from memgraph.gpu.cudnn.with_driver import PRODUCTS

_TYPES: dict[str, tuple[int, Any]] = {
    "data_type": (1, ctypes.c_int), "int64": (3, ctypes.c_int64), "float": (4, ctypes.c_float),
    "mode": (7, ctypes.c_int), "heuristic": (8, ctypes.c_int), "knob": (9, ctypes.c_int), "note": (11, ctypes.c_int),
    "descriptor": (15, ctypes.c_void_p), "char": (24, ctypes.c_char),
}  # fmt: skip
"""`cudnnBackendAttributeType_t`."""

_KINDS = {
    "convolution": 1, "engine": 2, "config": 3, "heuristic": 4, "plan": 5, "knob": 7, "forward": 10, "weight": 11,
    "data": 12, "graph": 15, "tensor": 17, "card": 38,
}  # fmt: skip
"""`cudnnBackendDescriptorType_t`."""

DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "int8": 3, "int32": 4, "bfloat16": 9}
"""`cudnnDataType_t`."""

NOTES = {"tensor core": 0, "down convert": 1, "reduced precision": 2, "fft": 3, "nondeterministic": 4, "winograd": 5}
"""`cudnnBackendNumericalNote_t`."""

_CROSS_CORRELATION = 1
_INSTANT, _FALLBACK = 0, 2
"""`cudnnBackendHeurMode_t`."""
ALL = 64
"""Configurations asked for if the first does not do; it proposes about thirty, and each costs it 40 µs."""
_A_PRODUCT = Convolution(
    "forward", (8, 64, 56, 56), (200704, 3136, 56, 1), (256, 64, 1, 1), (64, 1, 1, 1), (8, 256, 56, 56),
    (802816, 3136, 56, 1), "float32", (0, 0), (1, 1), (1, 1),
)  # fmt: skip
"""Of a ResNet: cuDNN 9.19 proposes the product's engine first for every card of the catalogue, and so does 9.8 for
those that were tried."""


class CudnnError(Exception):
    """A call of the library did not succeed."""


class Cudnn:
    """The library.

    Args:
        path: of `libcudnn.so.9`.

    Raises:
        OSError: it cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        self._library.cudnnGetErrorString.restype = ctypes.c_char_p
        self._library.cudnnGetVersion.restype = ctypes.c_size_t
        self._refusals = Refusals(self._library)
        self._tells: bool | None = None
        self._made: list[ctypes.c_void_p] = []

    @property
    def version(self) -> int:
        """91900 for 9.19.0."""
        return int(self._library.cudnnGetVersion())

    def card(self, description: str) -> ctypes.c_void_p:
        """A card by its description (`card.py`).

        Raises:
            CudnnError: the library does not know such a card.
        """
        card = self._new("card")
        self._set(card, 2702, "char", description.encode())
        self._finalize(card, "card")
        self._made.remove(card)  # it outlives the question
        return card

    def configurations(
        self, asked: Convolution, card: ctypes.c_void_p, without: Collection[int] = (), most: int = 1
    ) -> list[Config]:
        """What the instant heuristics propose, then the fallbacks, best first, of those that can be planned. The first
        says which engines the library left out before the last of them.

        Args:
            card: from `card`.
            without: `NOTES` that none may have.
            most: how many at most; from `ALL` on it is all, and all that was left out.

        Raises:
            CudnnError: it does not support such a convolution, or not such a card.
        """
        found: list[Config] = []
        try:
            graph = self._graph(asked)
            for heuristic in (_INSTANT, _FALLBACK):
                for place, config in enumerate(self._one_by_one(graph, card, heuristic)):
                    read = self._read(config, card, without)
                    found += [] if read is None else [read]
                    if len(found) == most:
                        return self._telling(found, graph, card, place + 1 if heuristic == _INSTANT else ALL)
            return self._telling(found, graph, card, ALL)
        finally:
            for descriptor in reversed(self._made):
                self._library.cudnnBackendDestroyDescriptor(descriptor)
            self._made.clear()

    # Building the question.

    def _graph(self, asked: Convolution) -> ctypes.c_void_p:
        operation = self._operation(asked)
        graph = self._new("graph")
        self._set(graph, 801, "descriptor", [operation.value])
        return self._finalize(graph, "graph")

    def _operation(self, asked: Convolution) -> ctypes.c_void_p:
        x = self._tensor(ord("x"), asked.x, asked.x_stride, asked.dtype)
        w = self._tensor(ord("w"), asked.w, asked.w_stride, asked.dtype)
        y = self._tensor(ord("y"), asked.y, asked.y_stride, asked.dtype)
        operation = self._new(asked.kind)
        first = {"forward": 700, "data": 706, "weight": 712}[asked.kind]
        order = {"forward": (w, x, y), "data": (w, x, y), "weight": (w, x, y)}[asked.kind]
        self._set(operation, first, "float", [1.0])
        self._set(operation, first + 1, "float", [0.0])
        self._set(operation, first + 2, "descriptor", [self._convolution(asked).value])
        for attribute, tensor in zip(range(first + 3, first + 6), order, strict=True):
            self._set(operation, attribute, "descriptor", [tensor.value])
        return self._finalize(operation, "operation")

    def _tensor(self, uid: int, shape: Sequence[int], stride: Sequence[int], dtype: str) -> ctypes.c_void_p:
        tensor = self._new("tensor")
        self._set(tensor, 906, "int64", [uid])
        self._set(tensor, 901, "data_type", [DATA_TYPES[dtype]])
        self._set(tensor, 900, "int64", [16])  # PyTorch's own bound (getAlignment, cudnn/Conv_v8.cpp)
        self._set(tensor, 902, "int64", shape)
        self._set(tensor, 903, "int64", stride)
        return self._finalize(tensor, "tensor")

    def _convolution(self, asked: Convolution) -> ctypes.c_void_p:
        convolution = self._new("convolution")
        compute = "float64" if asked.dtype == "float64" else "float32"
        self._set(convolution, 100, "data_type", [DATA_TYPES[compute]])
        self._set(convolution, 101, "mode", [_CROSS_CORRELATION])
        self._set(convolution, 106, "int64", [len(asked.padding)])
        for attribute, values in ((102, asked.dilation), (103, asked.stride), (105, asked.padding)):
            self._set(convolution, attribute, "int64", values)
        self._set(convolution, 104, "int64", asked.padding)
        return self._finalize(convolution, "convolution")

    # Reading the answer.

    def _one_by_one(self, graph: ctypes.c_void_p, card: ctypes.c_void_p, heuristic: int) -> Iterator[ctypes.c_void_p]:
        yield from self._proposed(graph, card, heuristic, 1)
        yield from self._proposed(graph, card, heuristic, ALL)[1:]

    def _telling(self, found: list[Config], graph: ctypes.c_void_p, card: ctypes.c_void_p, asked: int) -> list[Config]:
        """With the engines that it left out of so many proposals: it checks no more of them than it was asked for."""
        if self._tells is None:
            self._tells = self._does_tell(card)
        if found and self._tells:
            heuristics = (_INSTANT, _FALLBACK) if asked == ALL else (_INSTANT,)
            engines = [engine for one in heuristics for engine in self._left_out(graph, card, one, asked)[1]]
            found[0] = found[0]._replace(refused=tuple(dict.fromkeys(engines)))
        return found

    def _does_tell(self, card: ctypes.c_void_p) -> bool:
        """Whether a product that comes first everywhere is heard of, or is there: with a driver nothing is left out."""
        proposed, left_out = self._left_out(self._graph(_A_PRODUCT), card, _INSTANT, 1)
        known = [self._number(self._several(config, 300, "engine", 1)[0], 1301) for config in proposed]
        return PRODUCTS["forward"] in (*left_out, *known)

    def _left_out(
        self, graph: ctypes.c_void_p, card: ctypes.c_void_p, heuristic: int, most: int
    ) -> tuple[list[ctypes.c_void_p], list[int]]:
        with self._refusals.heard() as engines:
            proposed = self._proposed(graph, card, heuristic, most)
        return proposed, engines

    def _proposed(
        self, graph: ctypes.c_void_p, card: ctypes.c_void_p, heuristic: int, most: int
    ) -> list[ctypes.c_void_p]:
        asked = self._new("heuristic")
        self._set(asked, 201, "descriptor", [graph.value])
        self._set(asked, 200, "heuristic", [heuristic])
        self._set(asked, 204, "descriptor", [card.value])
        self._finalize(asked, "heuristics")
        return self._several(asked, 202, "config", most)

    def _read(self, config: ctypes.c_void_p, card: ctypes.c_void_p, without: Collection[int]) -> Config | None:
        """None if it has one of the notes, or cannot be planned."""
        engine = self._several(config, 300, "engine", 1)[0]
        notes = self._notes(engine)
        if not set(notes).isdisjoint(without):
            return None
        workspace = self._workspace(config, card)
        if workspace is None:
            return None
        knobs = tuple((self._kind_of_knob(choice), self._number(choice, 601)) for choice in self._choices(config))
        return Config(self._number(engine, 1301), knobs, notes, workspace)

    def _workspace(self, config: ctypes.c_void_p, card: ctypes.c_void_p) -> int | None:
        plan = self._new("plan")
        try:
            self._set(plan, 401, "descriptor", [config.value])
            self._set(plan, 407, "descriptor", [card.value])
            return self._number(self._finalize(plan, "plan"), 402)
        except CudnnError:
            return None

    def _choices(self, config: ctypes.c_void_p) -> list[ctypes.c_void_p]:
        return self._several(config, 302, "knob", 64)

    def _kind_of_knob(self, choice: ctypes.c_void_p) -> int:
        found, count = ctypes.c_int(), ctypes.c_int64()
        self._check(self._get(choice, 600, "knob", 1, count, ctypes.byref(found)), "knob")
        return found.value

    def _notes(self, engine: ctypes.c_void_p) -> tuple[int, ...]:
        found, count = (ctypes.c_int * 32)(), ctypes.c_int64()
        self._check(self._get(engine, 1303, "note", 32, count, found), "notes")
        return tuple(found[: count.value])

    def _number(self, descriptor: ctypes.c_void_p, attribute: int) -> int:
        found, count = ctypes.c_int64(), ctypes.c_int64()
        self._check(self._get(descriptor, attribute, "int64", 1, count, ctypes.byref(found)), str(attribute))
        return found.value

    def _several(self, descriptor: ctypes.c_void_p, attribute: int, kind: str, most: int) -> list[ctypes.c_void_p]:
        """The library fills descriptors that the caller made."""
        made = [self._new(kind) for _ in range(most)]
        array, count = (ctypes.c_void_p * most)(*[one.value for one in made]), ctypes.c_int64()
        self._check(self._get(descriptor, attribute, "descriptor", most, count, array), str(attribute))
        return made[: count.value]

    # The five calls.

    def _new(self, kind: str) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._check(self._library.cudnnBackendCreateDescriptor(_KINDS[kind], ctypes.byref(made)), kind)
        self._made.append(made)
        return made

    def _set(self, descriptor: ctypes.c_void_p, attribute: int, kind: str, values: Sequence[Any] | bytes) -> None:
        number, ctype = _TYPES[kind]
        array = ctypes.create_string_buffer(values, len(values)) if isinstance(values, bytes) else None
        filled = array if array is not None else (ctype * len(values))(*values)
        status = self._library.cudnnBackendSetAttribute(
            descriptor, attribute, number, ctypes.c_int64(len(values)), ctypes.byref(filled)
        )
        self._check(status, str(attribute))

    def _get(
        self, descriptor: ctypes.c_void_p, attribute: int, kind: str, most: int, count: ctypes.c_int64, into: Any
    ) -> int:
        return int(
            self._library.cudnnBackendGetAttribute(
                descriptor, attribute, _TYPES[kind][0], ctypes.c_int64(most), ctypes.byref(count), into
            )
        )

    def _finalize(self, descriptor: ctypes.c_void_p, what: str) -> ctypes.c_void_p:
        self._check(self._library.cudnnBackendFinalize(descriptor), what)
        return descriptor

    def _check(self, status: int, what: str) -> None:
        if status:
            text = ctypes.create_string_buffer(1024)
            self._library.cudnnGetLastErrorString(text, 1024)
            name = self._library.cudnnGetErrorString(status).decode()
            raise CudnnError(f"{what}: {name} {text.value.decode(errors='replace')[:300]}".strip())
