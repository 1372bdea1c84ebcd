"""Manifest rows → examples: decoded audio of the right length, augmented while training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from harken.audio import Audio, fit_length
from harken.augment import WaveformAugment, apply_waveform_augments
from harken.batch import Batch, Names
from harken.multi_hot import TargetTable
from harken.seeds import generator

Rows = npt.NDArray[np.int64]
Wave = npt.NDArray[np.float32]


class DecodedAudio(Protocol):
    """Where decoded clips are read: the cache, or files as they come."""

    def read(self, row: int, /) -> Wave:
        """Return a clip's waveform, mono at the recipe's rate."""

    @property
    def lengths(self) -> Rows:
        """Samples of every clip, int64 `(all rows,)`."""


@dataclass(frozen=True)
class ClipDataset:
    """The clips of one split.

    Attributes:
        cache: Decoded audio of all clips of the manifest.
        rows: Row numbers of this split's clips.
        target: float32 `(all rows, classes)`, an array or what reads like one.
        weight: float32 `(all rows,)`.
        audio: Length, cropping and padding.
        augments: Changes of the waveform; empty in evaluation.
        seed: Root of the draws; None means evaluation: nothing is drawn.
        silent: Leave out the waveforms, where features are known already.
        covariates: float32 `(all rows, columns)`, or None where there is no side information.
        names: What errors call the clips, by row number.
    """

    cache: DecodedAudio
    rows: Rows
    target: TargetTable
    weight: npt.NDArray[np.float32]
    audio: Audio
    augments: Sequence[WaveformAugment] = ()
    seed: int | None = None
    silent: bool = False
    covariates: npt.NDArray[np.float32] | None = None
    names: Names | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Rows:
        """Samples of each clip of the split, before cropping and padding."""
        return self.lengths_of(self.rows)

    def lengths_of(self, rows: Rows) -> Rows:
        """Samples of some manifest rows, before cropping and padding."""
        return self.cache.lengths[rows]

    def example(self, row: int, epoch: int) -> tuple[Wave, int]:
        """Return the waveform of a manifest row in one epoch, and its true length in samples."""
        waveform = self.cache.read(row)
        rng = None if self.seed is None else generator(self.seed, "augment", epoch, row)
        if rng is not None and self.augments:
            waveform = apply_waveform_augments(self.augments, waveform, self.audio.sample_rate, rng)
        if self.audio.clip_seconds is None:
            return waveform, len(waveform)
        samples = round(self.audio.clip_seconds * self.audio.sample_rate)
        return fit_length(waveform, samples, self.audio.crop, self.audio.pad, rng)

    def _examples(self, rows: Rows, epoch: int) -> Iterator[tuple[Wave, int]]:
        for row in rows:
            nothing = np.zeros(0, dtype=np.float32), 0
            yield nothing if self.silent else self.example(int(row), epoch)

    def batch(self, rows: Rows, epoch: int) -> Batch:
        """Collate the examples of some manifest rows, zero-padded to the longest of them."""
        waveforms, lengths = zip(*self._examples(rows, epoch), strict=True)
        padded = np.zeros((len(rows), max(map(len, waveforms))), dtype=np.float32)
        for line, waveform in zip(padded, waveforms, strict=True):
            line[: len(waveform)] = waveform
        nothing = np.zeros((len(rows), 0), dtype=np.float32)
        side = nothing if self.covariates is None else self.covariates[rows]
        return Batch(
            rows=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
            waveform=torch.from_numpy(padded),
            lengths=torch.tensor(lengths, dtype=torch.int64),
            target=torch.from_numpy(self.target[rows]),
            weight=torch.from_numpy(self.weight[rows]),
            covariates=torch.from_numpy(side),
        )
