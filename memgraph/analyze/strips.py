"""Memory over time as boxes: where each lies, how wide and how high. Plain numbers, for any picture.

Time is counted in events. It is cut into stretches, and in each the moment with the most memory stands for it; so no
stretch hides a peak, and at the peak the boxes sum to it exactly. A band that is a single buffer is cut exactly where
it is allocated and freed, so its boxes are as wide as its life.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from memgraph.analyze.bands import Band, bands, changes
from memgraph.errors import UsageError, unknown_name
from memgraph.trace import Phase, Trace

COLUMNS = 240
"""Stretches of equal length, before those that single buffers add."""


class Window(NamedTuple):
    """A part of a run: events `start` ≤ t < `stop`."""

    start: int
    stop: int


class Piece(NamedTuple):
    """One box: events `start` ≤ t < `stop`, `height` bytes on top of `base` bytes."""

    band: int
    """Index into `Chart.bands`."""
    start: int
    stop: int
    base: int
    height: int


class Chart(NamedTuple):
    """A stack of bands over a window of a run."""

    window: Window
    bands: tuple[Band, ...]
    """From the bottom up."""
    cuts: tuple[int, ...]
    """Events where stretches begin, and the window's end."""
    moments: tuple[int, ...]
    """The event that stands for each stretch: the one with the most requested bytes."""
    heights: tuple[tuple[int, ...], ...]
    """Bytes of each band at each moment."""

    @property
    def totals(self) -> tuple[int, ...]:
        """Requested bytes at each moment."""
        return tuple(map(sum, zip(*self.heights, strict=True))) if self.heights else (0,) * len(self.moments)

    @property
    def top(self) -> int:
        """The place of the highest moment, which is the peak if the window holds it."""
        return max(range(len(self.moments)), key=self.totals.__getitem__) if self.moments else -1


def chart(trace: Trace, by: str = "auto", top: int = 16, window: Window | None = None, columns: int = COLUMNS) -> Chart:
    """A run, or a window of it, as a stack of bands.

    Args:
        by: one of `memgraph.analyze.bands.BY`.
        top: how many bands to tell apart.
        columns: stretches of equal length to cut time into.
    """
    window = window or Window(0, len(trace.events))
    found = bands(trace, by, top, *window)
    cuts = _cuts(trace, found, window, columns)
    curve = trace.usage[0]
    moments = [max(range(start, stop), key=curve.__getitem__) for start, stop in itertools.pairwise(cuts)]
    return Chart(window, found, tuple(cuts), tuple(moments), _heights(trace, found, moments))


def pieces(chart: Chart) -> tuple[Piece, ...]:
    """The boxes of a chart, from the bottom up. A band that is moved by what is below it has several."""
    bases = [0] * len(chart.moments)
    found: list[Piece] = []
    for place, heights in enumerate(chart.heights):
        found += _row(place, chart.cuts, bases, heights)
        bases = [base + height for base, height in zip(bases, heights, strict=True)]
    return tuple(found)


def _cuts(trace: Trace, found: Sequence[Band], window: Window, columns: int) -> list[int]:
    """Equal stretches; the borders of the phases; the ends of every single buffer."""
    start, stop = window
    columns = min(columns, stop - start)
    places = {start + (stop - start) * part // columns for part in range(columns + 1)} if columns else set()
    places.update(border for phase in seen_phases(trace, window) for border in (phase.start, phase.stop))
    for band in found:
        if len(band.buffers) == 1:
            places.update(column[band.buffers[0]] for column in trace.spans)
    return sorted(place for place in places if start <= place <= stop)


def seen_phases(trace: Trace, window: Window) -> list[Phase]:
    """The phases in a window; where there are very many, those that are long enough to be seen."""
    start, stop = window
    inside = [phase for phase in trace.phases if phase.start < stop and phase.stop > start]
    if len(inside) <= COLUMNS:
        return inside
    return [phase for phase in inside if phase.stop - phase.start >= (stop - start) / COLUMNS]


def _heights(trace: Trace, found: Sequence[Band], moments: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """One walk through the run that stops at each moment."""
    of = [-1] * len(trace.buffers)
    for place, band in enumerate(found):
        for index in band.buffers:
            of[index] = place
    now, rows, done = [0] * len(found), [], 0
    for moment in moments:
        for place, change in changes(trace, of, done, moment + 1):
            now[place] += change
        done = moment + 1
        rows.append(tuple(now))
    return tuple(zip(*rows, strict=True))


def _row(band: int, cuts: Sequence[int], bases: Sequence[int], heights: Sequence[int]) -> list[Piece]:
    """The boxes of one band: neighbours of equal base and height are one."""
    found: list[Piece] = []
    for (base, height), group in itertools.groupby(range(len(heights)), lambda at: (bases[at], heights[at])):
        members = list(group)
        if height:
            found.append(Piece(band, cuts[members[0]], cuts[members[-1] + 1], base, height))
    return found


def window_of(trace: Trace, phase: str | None = None, around: str | None = None) -> Window:
    """The part of a run that is asked for.

    Args:
        phase: `backward` for that of the step with the peak, or the last such; `backward:1` for that of step 1.
        around: `peak`, or the number of an event: a twentieth of the run with it in the middle.

    Raises:
        UsageError: there is no such phase or event.
    """
    whole = Window(0, len(trace.events))
    if phase is not None:
        whole = _phase(trace, phase)
    return _around(trace, around, whole) if around is not None else whole


def _phase(trace: Trace, text: str) -> Window:
    name, _, step = text.partition(":")
    found = [phase for phase in trace.phases if phase.name == name and phase.stop > phase.start]
    if not found:
        raise unknown_name("phase", name, {phase.name for phase in trace.phases})
    if step:
        chosen = [phase for phase in found if str(phase.step) == step]
        if not chosen:
            raise UsageError(f"there is no {name} in step {step}: its steps are {found[0].step} to {found[-1].step}")
        return Window(chosen[0].start, chosen[-1].stop)
    in_step = [phase for phase in found if phase.step == trace.peak.step] or found[-1:]
    return Window(in_step[0].start, in_step[-1].stop)


def _around(trace: Trace, text: str, whole: Window) -> Window:
    """A part of the run's length that holds the event, cut where the run, or the phase, ends."""
    if text.lower() != "peak" and not text.isdecimal():
        raise UsageError(f"--around {text}: write peak, or the number of an event")
    event = trace.peak.event if text.lower() == "peak" else int(text)
    if not whole.start <= event < whole.stop:
        raise UsageError(f"event {event} is not in what is drawn, {whole.start} to {whole.stop - 1}")
    half = max(20, len(trace.events) // 40)
    return Window(max(whole.start, event - half), min(whole.stop, event + half))


def band_at(chart: Chart, event: int, level: int) -> int:
    """Which band lies at so many bytes at an event; -1 above the stack or outside the window."""
    if not chart.window.start <= event < chart.window.stop:
        return -1
    place = bisect.bisect_right(chart.cuts, event) - 1
    for band, heights in enumerate(chart.heights):
        level -= heights[place]
        if level < 0:
            return band
    return -1
