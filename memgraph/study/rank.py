"""The process of one rank of a world: `python -m memgraph.study.rank FOLDER RANK LIFELINE`. See `ranks.py`."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from memgraph.capture.ended import in_words
from memgraph.errors import MemgraphError
from memgraph.study.ranks import noted, start
from memgraph.study.run import run_script_on
from memgraph.world.mail import Mail


def main(folder: Path, rank: int, lifeline: int) -> None:
    """Run the folder's script as this rank, and leave what came of it there.

    Args:
        lifeline: what can be read when this is to end.
    """
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    mail = Mail(rank, folder, start, compared=True)
    try:
        told = _run(folder, rank, mail)
    except MemgraphError as error:
        told = {"error": str(error), "traceback": "", "code": error.exit_code}
    (folder / f"result-{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    mail.ended(told["error"])


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def _run(folder: Path, rank: int, mail: Mail) -> dict[str, Any]:
    script = noted(folder)
    trace, ended, calls = run_script_on(script, script.place(rank), mail)
    trace.save(folder / f"rank-{rank}.memgraph")
    error = ended.error
    return {
        "error": "" if error is None else f"the script failed: {type(error).__name__}: {in_words(error)}",
        "traceback": "" if error is None else "".join(traceback.format_exception(error)),
        "code": ended.code, "message": ended.message,
        "peers": sorted({call.peer for call in calls if call.peer is not None}),
        "calls": [(call.name, call.group.ranks, call.place) for call in calls if not call.is_message],
        "messages": [(call.name, call.peer, call.place) for call in calls if call.is_message],
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
