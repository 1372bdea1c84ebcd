"""The most relevant half second."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SECONDS = 0.5


class Moment(NamedTuple):
    """A part of a clip, in seconds from its beginning."""

    start: float
    end: float


def most_relevant(
    over_time: Array, times: Array, seconds: float, length: float = SECONDS
) -> Moment | None:
    """Return the window with the most relevance; None where no moment has more than another.

    The middle of the window counts twice as much as its ends, so that a short event lies in the
    middle and not at an end.

    Args:
        over_time: Relevance of each step.
        times: Seconds at the middle of each step.
        seconds: Length of the clip; a shorter one than the window is returned whole.
        length: Of the window.
    """
    if np.ptp(over_time) <= 1e-9 * float(np.abs(over_time).max()):
        return None
    length = min(length, seconds)
    starts = np.linspace(0, seconds - length, max(1, round((seconds - length) / 0.01) + 1))
    away = np.abs(times - starts[:, None] - length / 2) / max(length / 2, 1e-9)
    weight = np.where(away <= 1 + 1e-9, 2 - away, 0.0)
    # Less its median, a map's level does not matter, only what stands out of it.
    start = float(starts[(weight @ (over_time - np.median(over_time))).argmax()])
    return Moment(start, start + length)
