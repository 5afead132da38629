"""What ranks tell each other in small numbers: the stages of a pipeline agree on shapes by messages.

Each rank is a process of its own; a message is a file in a folder that they share. A rank that is asked and does not
run yet is started by who asks. Nobody waits for one that has ended.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memgraph.errors import MemgraphError

_PAUSE = 0.005
"""Seconds between two looks into the folder."""

Start = Callable[[int, Path], int]
"""Starts the process of a rank that uses this folder; its id."""


class Mail:
    """One rank's end of it.

    Args:
        rank: whose.
        folder: shared by the ranks of one run.
        start: how a rank is started that does not run; None where nobody can.
        compared: whether it is known that the other ranks call what this one calls, or will be looked at.
    """

    def __init__(self, rank: int, folder: Path, start: Start | None, compared: bool = False) -> None:
        self.rank = rank
        self.folder = folder
        self.compared = compared
        self._start = start
        self._sent: Counter[int] = Counter()
        self._taken: Counter[int] = Counter()
        self._told: Counter[tuple[int, str]] = Counter()

    def announce(self) -> None:
        """This rank runs."""
        _write(self.folder / f"runs-{self.rank}", str(os.getpid()).encode())

    def ended(self, reason: str) -> None:
        """This rank sends nothing more: it finished, or failed for a reason."""
        _write(self.folder / f"ended-{self.rank}", reason.encode())

    def send(self, peer: int, content: Any) -> None:
        """To another rank."""
        number = self._sent[peer]
        self._sent[peer] += 1
        _write(self.folder / f"{self.rank}-{peer}-{number}", pickle.dumps(content))

    def take(self, peer: int) -> Any:
        """The next message from another rank, which is waited for.

        Raises:
            MemgraphError: it will not come.
        """
        number = self._taken[peer]
        self._taken[peer] += 1
        return pickle.loads(self._awaited(self.folder / f"{peer}-{self.rank}-{number}", peer))

    def tell(self, topic: str, content: bytes) -> None:
        """To all other ranks that ask."""
        _write(self._about(self.rank, topic), content)

    def told(self, peer: int, topic: str) -> bytes | None:
        """What another rank tells all next of a topic, which is waited for; None where no other rank is.

        Raises:
            MemgraphError: it will not come.
        """
        return self._awaited(self._about(peer, topic), peer)

    def _about(self, rank: int, topic: str) -> Path:
        number = self._told[rank, topic]
        self._told[rank, topic] += 1
        return self.folder / f"{rank}-all-{hashlib.sha256(topic.encode()).hexdigest()[:16]}-{number}"

    def _awaited(self, message: Path, peer: int) -> bytes:
        self.see_to(peer)
        while not message.exists():
            if not runs(self.folder, peer) and not message.exists():
                raise MemgraphError(f"rank {self.rank} waits for a message from rank {peer}, which {self._why(peer)}")
            time.sleep(_PAUSE)
        return message.read_bytes()

    def see_to(self, peer: int) -> None:
        """That a rank runs, or has run. Who makes the file first starts it."""
        if self._start is None:
            return
        try:
            descriptor = os.open(self.folder / f"runs-{peer}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(descriptor, str(self._start(peer, self.folder)).encode())
        os.close(descriptor)

    def _why(self, peer: int) -> str:
        try:
            reason = (self.folder / f"ended-{peer}").read_text()
        except FileNotFoundError:
            return "does not run here: `memgraph run` starts the ranks that it needs"
        return f"failed: {reason}" if reason else "ended without sending it: a real run would hang"


def runs(folder: Path, rank: int) -> bool:
    """Whether a rank of this folder is running."""
    if (folder / f"ended-{rank}").exists():
        return False
    try:
        process = (folder / f"runs-{rank}").read_text()
    except FileNotFoundError:
        return False
    return not process or _is_alive(int(process))  # whoever starts it is about to write its number


def _write(path: Path, content: bytes) -> None:
    """All of it appears at once."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a child that has ended and that nobody has asked for yet still has its number
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:1]
    except OSError:
        return True
