"""`occlusion`: what the label loses when a part of the clip is deleted."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from harken.errors import ConfigError
from harken.explain.method import Explain, Relevance
from harken.explain.subject import Flags, Subject
from harken.model import Classifier


class Occlusion(Explain):
    """Windows of time, and bands of frequency if asked, are deleted one by one.

    Zeiler & Fergus (2014). A step's relevance is the mean loss of evidence over the windows that
    cover it. Needs no gradient and fits every network.
    """

    kind: Literal["occlusion"] = "occlusion"
    window_seconds: float = Field(0.1, gt=0)
    """Length of what is deleted."""
    step_seconds: float = Field(0.05, gt=0)
    """Time between two windows, at most their length."""
    bands: int = Field(1, ge=1)
    """Bands of neighbouring bins that are deleted one by one; 1 deletes all bins together."""

    def fits(self, model: Classifier) -> bool:
        """Whether parts can be deleted: everywhere but where tokens are read."""
        return model.frontend.spec.kind != "tokens"

    def relevance(self, subject: Subject) -> Relevance:
        """Return the map of a clip.

        Raises:
            ConfigError: more bands than bins, or windows that leave gaps.
        """
        windows, bands = self._windows(subject), self._bands(subject)
        gone = (bands[:, None, :, None] & windows[None, :, None, :]).reshape(
            -1, bands.shape[1], windows.shape[1]
        )
        whole = subject.judge(np.zeros((1, 1, subject.steps), dtype=bool))
        loss = (whole - subject.judge(gone)).reshape(len(bands), len(windows))
        over_time = loss @ windows / windows.sum(axis=0)
        if len(bands) == 1:
            return Relevance(over_time)
        return Relevance(bands.T / bands.sum(axis=1) @ over_time)

    def _windows(self, subject: Subject) -> Flags:
        """Return bool `(windows, steps)`; the last window ends with the clip."""
        if self.step_seconds > self.window_seconds:
            raise ConfigError(
                f"windows of {self.window_seconds:g} s every {self.step_seconds:g} s leave gaps",
                where="step_seconds",
                fix=f"step_seconds={self.window_seconds:g} or less",
            )
        per_second = subject.model.frontend.spec.rate / subject.hop
        width = min(subject.steps, max(1, round(self.window_seconds * per_second)))
        step = min(width, max(1, round(self.step_seconds * per_second)))
        starts = np.unique([*range(0, subject.steps - width, step), subject.steps - width])
        place = np.arange(subject.steps) - starts[:, None]
        return np.asarray((place >= 0) & (place < width))

    def _bands(self, subject: Subject) -> Flags:
        """Return bool `(bands, bins)`, or `(1, 1)` where all bins go together."""
        if self.bands > subject.bins:
            raise ConfigError(
                f"{self.bands} bands of {subject.bins} bins", where="bands", fix="fewer bands"
            )
        if self.bands == 1:
            return np.ones((1, 1), dtype=bool)
        of = np.arange(subject.bins) * self.bands // subject.bins
        return np.asarray(of == np.arange(self.bands)[:, None])
