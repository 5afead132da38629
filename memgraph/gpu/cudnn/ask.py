"""Questions to cuDNN, asked once: an answer is remembered here and on disk, by library, card and question."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import select
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from memgraph.gpu.cudnn.card import describe
from memgraph.gpu.cudnn.library import Library, find
from memgraph.gpu.cudnn.question import Config, Convolution
from memgraph.gpu.spec import GpuSpec

_PATIENCE = 60
"""Seconds for one answer; a usual one takes 3 milliseconds, the first a second."""
_ROOT = Path(__file__).parents[3]


class Asker:
    """cuDNN in a process of its own, started when the first question is not in the memory.

    Args:
        library: where it is.
        memory: file of answers, one JSON object a line; None to keep none.
    """

    def __init__(self, library: Library, memory: Path | None) -> None:
        self._library = library
        self._memory = memory
        self._lock = threading.Lock()
        self._known: dict[str, Any] = _read(memory)
        self._server: subprocess.Popen[str] | None = None
        self._owner = 0
        self._deaths = 0
        self.version = int(self._known.get("version", 0))
        """91900 for 9.19.0; 0 until it was started once."""
        atexit.register(self.close)

    def configs(
        self, asked: Convolution, gpu: GpuSpec, without: tuple[int, ...] = (), most: int = 1
    ) -> tuple[Config, ...]:
        """The configurations that cuDNN proposes for a card, best first; none if it supports no such convolution.

        Args:
            without: numerical notes (`cudnnBackendNumericalNote_t`) that none may have.
            most: how many at most.
        """
        question = json.dumps(
            {"card": describe(gpu), "asked": asked, "without": without, "most": most, "refused": True}
        )
        key = hashlib.sha1(question.encode()).hexdigest()
        with self._lock:
            if key not in self._known:
                self._remember(key, self._ask(question))
            found = self._known[key].get("configs", ())
        return tuple(
            Config(engine, tuple(map(tuple, knobs)), tuple(notes), size, None if refused is None else tuple(refused))
            for engine, knobs, notes, size, refused in found
        )

    def start(self) -> None:
        """Let the process load the library while others work, unless it was asked before: its answers are on disk."""
        if self.version:
            return
        with self._lock, contextlib.suppress(OSError):
            self._running()

    def close(self) -> None:
        """End the process."""
        server, self._server = self._server, None
        if server is not None and self._owner == os.getpid() and server.stdin is not None:
            with contextlib.suppress(OSError):
                server.stdin.close()
            server.kill()
            server.wait()

    def _ask(self, question: str) -> dict[str, Any]:
        if self._deaths > 1:
            return {"refused": "the process that asks cuDNN died twice", "passing": True}
        try:
            server = self._running()
            assert server.stdin is not None
            server.stdin.write(question + "\n")
            server.stdin.flush()
            answer: dict[str, Any] = json.loads(self._line(server))
        except (OSError, ValueError) as error:
            self._deaths += 1
            self.close()
            return {"refused": f"the process that asks cuDNN died: {error}", "passing": True}
        return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._server is None or self._owner != os.getpid():
            command = [sys.executable, "-m", "memgraph.gpu.cudnn.server", self._library.path, *self._library.needs]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])}
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=environment, start_new_session=True,
            )  # fmt: skip
            self._owner = os.getpid()
            self._greeted = False
        return self._server

    def _line(self, server: subprocess.Popen[str]) -> str:
        if not self._greeted:
            self.version = int(_within(server, _PATIENCE))
            self._greeted = True
            if "version" not in self._known:
                self._remember("version", self.version)
        return _within(server, _PATIENCE)

    def _remember(self, key: str, answer: Any) -> None:
        self._known[key] = answer
        if self._memory is None or (isinstance(answer, dict) and answer.get("passing")):
            return
        with contextlib.suppress(OSError):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            with self._memory.open("a") as file:
                file.write(json.dumps({key: answer}) + "\n")


def _within(server: subprocess.Popen[str], seconds: float) -> str:
    """A line of its output.

    Raises:
        OSError: it ended, or took too long.
    """
    assert server.stdout is not None
    ready, _, _ = select.select([server.stdout], [], [], seconds)
    line = server.stdout.readline() if ready else ""
    if not line:
        raise OSError("no answer")
    return line


def _read(memory: Path | None) -> dict[str, Any]:
    """What is remembered; lines that are cut off or not ours are left out."""
    known: dict[str, Any] = {}
    if memory is None:
        return known
    with contextlib.suppress(OSError):
        for line in memory.read_text().splitlines():
            with contextlib.suppress(ValueError, TypeError):
                known |= json.loads(line)
    return known


@cache
def asker() -> Asker | None:
    """The one of this process; None where cuDNN is not found."""
    library = find()
    if library is None:
        return None
    name = hashlib.sha1(f"{library.path} {library.stamp}".encode()).hexdigest()[:16]
    return Asker(library, _cache() / "cudnn" / f"{name}.jsonl")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memgraph"
