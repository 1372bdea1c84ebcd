"""Clips as counts of short runs of tokens: what is there without long order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from harken.choice import Config
from harken.errors import DataError

Tokens = npt.NDArray[np.integer[Any]]
NGram = tuple[int, ...]

LENGTH = 10.0
"""Length of a clip's vector: a probe's C is then worth a hundred times as much as with length 1."""


class NGrams(Config):
    """Which runs of tokens are counted."""

    smallest: int = Field(1, ge=1)
    """Tokens of the shortest run."""
    largest: int = Field(2, ge=1)
    """Tokens of the longest run."""
    min_clips: int = Field(2, ge=1)
    """Training clips that a run must be in to count."""
    max_runs: int = Field(200_000, ge=1)
    """Most kinds of runs; the most frequent ones stay."""
    collapse: bool = False
    """Count a token that is repeated once, so that runs tell changes and not durations."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} is more than largest {self.largest}")
        return self

    def runs(self, tokens: Tokens) -> Iterator[NGram]:
        """Yield every run of a clip's tokens, as often as it occurs."""
        ids: list[int] = [int(token) for token in tokens]
        if self.collapse:
            ids = [t for i, t in enumerate(ids) if i == 0 or t != ids[i - 1]]
        for n in range(self.smallest, self.largest + 1):
            yield from zip(*(ids[start:] for start in range(n)), strict=False)

    def tf_idf(self, clips: Sequence[Tokens], train: npt.NDArray[np.int64]) -> Any:
        """Return sparse vectors of clips, float64 `(clips, runs)`.

        A run weighs (1 + ln tf) · (1 + ln((1 + n) / (1 + df))) (Salton & Buckley, 1988; smoothed as
        in scikit-learn), with df counted over the n training clips; vectors have length 10.

        Args:
            clips: Each clip's tokens.
            train: Numbers of the training clips, which alone decide the runs and their weights.

        Raises:
            DataError: no run is in enough training clips.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        counter = TfidfVectorizer(
            analyzer=self.runs,
            min_df=self.min_clips,
            max_features=self.max_runs,
            sublinear_tf=True,
        )
        try:
            counter.fit([clips[row] for row in train])
        except ValueError as error:
            raise DataError(
                f"no run of tokens is in {self.min_clips} training clips", fix="--min-clips 1"
            ) from error
        return LENGTH * counter.transform(clips)
