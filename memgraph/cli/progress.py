"""A progress bar while something runs."""

from __future__ import annotations

import sys

from tqdm import tqdm


class ProgressBar:
    """A progress bar on stderr while something is traced; nothing where stderr is not a terminal."""

    def __enter__(self) -> ProgressBar:
        self._bar = tqdm(
            total=None,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            leave=False,
            bar_format="{desc} |{bar:20}| {elapsed}",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, label: str, done: int, total: int | None) -> None:
        """As `memgraph.api.Progress`."""
        self._bar.total = total
        self._bar.n = done
        self._bar.set_description_str(label)
        self._bar.refresh()
