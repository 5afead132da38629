"""The colours of every picture: Okabe and Ito's, which people with colour-blindness tell apart.

Source: M. Okabe, K. Ito, "Color Universal Design", 2008; more from P. Tol's "muted" scheme, 2021.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from memgraph.trace import Category

COLOURS = {
    Category.PARAMETER: "#0072b2",
    Category.BUFFER: "#88ccee",
    Category.OPTIMIZER: "#56b4e9",
    Category.GRADIENT: "#d55e00",
    Category.INPUT: "#f0e442",
    Category.ACTIVATION: "#e69f00",
    Category.CACHE: "#44aa99",
    Category.WORKSPACE: "#009e73",
    Category.TEMPORARY: "#cc79a7",
    Category.UNSHARDED: "#332288",
    Category.COMMUNICATION: "#882255",
    Category.UNKNOWN: "#b4b4b4",
}
"""By category."""
OTHERS = "#dddddd"
"""What is not told apart."""

CURVES = ("#222222", "#7a3ea8", "#117733")
"""Lines over the boxes: requested, and whatever is laid over it."""

_SHADES = (0.0, 0.3, 0.15, 0.45)
"""Share of white in neighbours of one category, so that each is seen."""


def shades(categories: Iterable[Category | None]) -> tuple[str, ...]:
    """A colour for each band of a stack: its category's, in shades that set neighbours apart."""
    seen: Counter[Category | None] = Counter()
    found = []
    for category in categories:
        found.append(lighter(COLOURS[category] if category else OTHERS, _SHADES[seen[category] % len(_SHADES)]))
        seen[category] += 1
    return tuple(found)


def lighter(colour: str, white: float) -> str:
    """A colour with a share of white, 0 to 1: `lighter("#000000", 0.5)` is `#808080`."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def ink(colour: str) -> str:
    """Black or white, whichever is read more easily on a colour (relative luminance as in WCAG 2)."""
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "#ffffff"


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)
