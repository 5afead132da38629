"""The process that asks cuDNN: questions come as lines of JSON, answers go as lines of JSON. It may die without taking
a run along, and ends when its parent does: nothing more comes in then."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from memgraph.gpu.cudnn.backend import Cudnn, CudnnError
from memgraph.gpu.cudnn.question import Convolution


def answers(library: Cudnn, questions: Iterable[str]) -> Iterator[str]:
    """One line for each: the configurations, or why there are none."""
    cards: dict[str, ctypes.c_void_p] = {}
    for line in questions:
        try:
            yield json.dumps({"configs": _answer(library, cards, json.loads(line))})
        except CudnnError as error:
            yield json.dumps({"refused": str(error)})


def _answer(library: Cudnn, cards: dict[str, ctypes.c_void_p], question: dict[str, Any]) -> list[Any]:
    description = question["card"]
    if description not in cards:
        cards[description] = library.card(description)
    parts: list[Any] = [tuple(part) if isinstance(part, list) else part for part in question["asked"]]
    asked = Convolution(*parts)
    found = library.configurations(asked, cards[description], question["without"], question["most"])
    return [list(config) for config in found]


def main(path: str, *needs: str) -> None:
    """Say the library's version, then answer until there is no more question."""
    for need in needs:
        ctypes.CDLL(need, mode=ctypes.RTLD_GLOBAL)
    library = Cudnn(path)
    print(library.version, flush=True)
    for answer in answers(library, sys.stdin):
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
