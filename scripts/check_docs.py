"""Run what the documentation shows: every `console` and `python` block of README.md and docs/, and every example.

    python scripts/check_docs.py             fail where an output is not what is shown
    python scripts/check_docs.py --update    write the outputs anew
    python scripts/check_docs.py README.md   these files alone

The commands of one file run in one empty folder, in order, as a reader would type them; files run beside each other,
one on each core. A shown line `...` stands for any number of lines; such a block is checked but never rewritten, and
neither is Python that fails. Commands that need a GPU or change the system stand in `sh` blocks, which are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LIMIT = 600
"""Seconds that one command may take."""


def check(path: Path, update: bool) -> list[str]:
    """Run the blocks of one file; says what is wrong with which."""
    problems: list[str] = []
    text = path.read_text()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "project"  # outputs name the file's folder
        folder.mkdir()

        def run(match: re.Match[str]) -> str:
            kind, body = match[1], match[2]
            fresh = _console(body, folder) if kind == "console" else _python(body, folder)
            if not _same(body, fresh):
                if update and kind == "console" and "\n...\n" not in body:
                    return f"```{kind}\n{fresh}```"
                line = text[: match.start()].count("\n") + 1
                problems.append(f"{path.relative_to(ROOT)}:{line}: this is shown:\n{body}\nand this came:\n{fresh}")
            return match[0]

        new = _BLOCK.sub(run, text)
    if new != text:
        path.write_text(new)
    return problems


def _console(body: str, folder: Path) -> str:
    """The block as it comes when its commands are run: each `$ command` with its output below."""
    commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
    parts = [f"$ {command}\n{_run(['bash', '-c', command], folder).stdout}" for command in commands]
    return "\n".join(part.rstrip("\n") for part in parts) + "\n"


def _python(body: str, folder: Path) -> str:
    """The block itself if it runs; else what went wrong. One that begins with `# name.py` is saved under that name."""
    named = re.match(r"# (\w+\.py)\n", body)
    if named:
        (folder / named[1]).write_text(body)
    result = _run([sys.executable, "-c", body], folder)
    return body if result.returncode == 0 else f"(exit code {result.returncode})\n{result.stdout}"


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """stdout and stderr together."""
    return subprocess.run(
        command,
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT,
        check=False,
    )


def _environment() -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "80"}


def _same(shown: str, came: str) -> bool:
    pattern = re.escape(_trimmed(shown)).replace(re.escape("\n...\n"), r"\n(?:.*\n)*?")
    return re.fullmatch(pattern, _trimmed(came)) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def check_example(path: Path) -> list[str]:
    """Run an example in an empty folder; one that is for `torchrun` as a rank of a world."""
    ranks = ["-m", "memgraph", "run", "--world", "8"] if "torchrun" in path.read_text() else []
    with tempfile.TemporaryDirectory() as folder:
        result = _run([sys.executable, *ranks, str(path)], Path(folder))
    return [] if result.returncode == 0 else [f"{path.relative_to(ROOT)} fails:\n{result.stdout}"]


def check_file(path: Path, update: bool) -> list[str]:
    """A page, or an example."""
    began = time.monotonic()
    problems = check(path, update) if path.suffix == ".md" else check_example(path)
    print(f"{path.relative_to(ROOT)}: {time.monotonic() - began:.0f} s", flush=True)
    return problems


def main() -> None:
    update = "--update" in sys.argv
    named = [Path(name).resolve() for name in sys.argv[1:] if not name.startswith("-")]
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    files = named or [*pages, *sorted((ROOT / "examples").glob("*.py"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [problem for found in pool.map(check_file, files, [update] * len(files)) for problem in found]
    print("\n".join(problems), file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
