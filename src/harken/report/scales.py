"""Scales of drawings of settings: linear, logarithmic, or one place for each word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from harken.standings import Setting, as_words, number_text

Kind = Literal["linear", "log", "words"]

LOG_RATIO = 30.0
"""Positive numbers whose ends lie further apart than this may get a logarithmic scale."""
FEW = 6
"""So many different numbers, or fewer, are the ticks themselves."""
APART = 0.055
"""Ticks lie no nearer to each other than this share of the scale."""
MISSING = -0.1
"""The place of what has no value, below the scale."""


@dataclass(frozen=True)
class Scale:
    """Where values lie between 0 and 1.

    Attributes:
        kind: `linear`, `log` or `words`.
        places: The place of every given value; `MISSING` for those that are null.
        ticks: Places and their words, from low to high.
        has_missing: Whether some values are null.
    """

    kind: Kind
    places: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]
    has_missing: bool


def scale_of(values: Sequence[Setting]) -> Scale:
    """Return the scale that suits some values.

    Numbers get a line, which is logarithmic where they are positive, span more than `LOG_RATIO` and
    lie more evenly so; anything else gets a place for each different word, in sorted order.
    """
    known = [value for value in values if value is not None]
    has_missing = len(known) < len(values)
    if known and all(is_number(value) for value in known):
        return _numbers(values, [float(str(value)) for value in known], has_missing)
    words = sorted({as_words(value) for value in known})
    at = {word: (i + 0.5) / len(words) for i, word in enumerate(words)}
    places = tuple(MISSING if value is None else at[as_words(value)] for value in values)
    return Scale("words", places, tuple((at[word], word) for word in words), has_missing)


def is_number(value: Setting) -> bool:
    """Whether a setting is a finite number; true and false are words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _numbers(values: Sequence[Setting], known: list[float], has_missing: bool) -> Scale:
    low, high = min(known), max(known)
    is_log = low > 0 and high / low > LOG_RATIO and _is_even_in_logs(sorted(set(known)))
    start, end = (math.log(low), math.log(high)) if is_log else (low, high)

    def place(value: float) -> float:
        at = math.log(value) if is_log else value
        return 0.5 if end == start else (at - start) / (end - start)

    different = sorted(set(known))
    marks = different if len(different) <= FEW else _decades(low, high) if is_log else []
    if len(marks) < 2:
        marks = _round_marks(low, high)
    ticks = _spread([(place(mark), number_text(mark)) for mark in marks])
    places = tuple(MISSING if v is None else place(float(str(v))) for v in values)
    return Scale("log" if is_log else "linear", places, ticks, has_missing)


def _is_even_in_logs(values: list[float]) -> bool:
    """Whether the median of positive numbers lies nearer to the middle of their logarithms."""
    logs = [math.log(value) for value in values]
    off = [abs((median(v) - v[0]) / (v[-1] - v[0]) - 0.5) for v in (logs, values)]
    return off[0] <= off[1] + 1e-9


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [float(f"1e{power}") for power in range(first, last + 1)]


def _round_marks(low: float, high: float, count: int = 5) -> list[float]:
    """Return some round numbers between two ends; the ends themselves where there are too few."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    marks = [round(i * step, 12) for i in range(first, last + 1)]
    return marks if len(marks) > 1 else [low, high]


def _spread(ticks: list[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    kept: list[tuple[float, str]] = []
    for place, text in ticks:
        if not kept or place - kept[-1][0] >= APART:
            kept.append((place, text))
    return tuple(kept)
