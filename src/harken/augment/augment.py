"""The slot `augment`: changes of training clips, drawn anew for each clip and epoch.

Every draw comes from a generator made of (seed, epoch, clip), so a clip is changed alike whichever
batch or process handles it, and a resumed run repeats the draws of the run it continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from torch import Tensor

from harken.choice import Choice

Wave = npt.NDArray[np.float32]


class Augment(Choice):
    """A random change of training clips; evaluation never uses one.

    A field `min_x` beside a field `max_x` is a range, from which each clip's own value is drawn.
    """

    p: float = Field(1.0, ge=0.0, le=1.0)
    """Probability that a clip is changed."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in type(self).model_fields:
            most = "max" + name.removeprefix("min")
            low, high = getattr(self, name), getattr(self, most, None)
            if name.startswith("min_") and None not in (low, high) and low > high:
                raise ValueError(f"{name} is more than {most}")
        return self

    def check(self, sample_rate: int) -> None:
        """Refuse what could not be applied, before any clip is decoded.

        Args:
            sample_rate: Of the clips, in Hz.

        Raises:
            HarkenError: a file or a package is not there, or a frequency is beyond the rate's.
        """


class WaveformAugment(Augment):
    """A change of one waveform."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the changed waveform, float32 `(samples,)`; the input is left as it was."""
        raise NotImplementedError


class SpectrogramAugment(Augment):
    """A change of a batch of spectrograms, each clip with its own generator."""

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Return the changed features `(batch, bins, frames)`; the input is left as it was.

        `rngs` has one generator a clip; probability `p` is drawn here, per clip, from each.
        """
        raise NotImplementedError
