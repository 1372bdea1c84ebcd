"""A clip as a network reads it, and what the network says of changed copies of it.

Everything is told on one grid of time: the frames of a spectrogram, or steps of 10 ms of a
waveform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harken.backbones.backbone import Hidden
from harken.errors import ConfigError
from harken.frontends.mel_frontend import MelFrontend
from harken.model import Classifier

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Fill = Literal["mean", "quiet"]

WAVEFORM_STEP = 0.01
"""Seconds per step of time where the network reads samples."""
_VALUES_PER_PASS = 2**20  # features per forward pass; a network's own maps are a hundred times that


@dataclass(frozen=True)
class Subject:
    """One clip before one classifier.

    Attributes:
        model: The classifier, in evaluation mode.
        features: What its backbone reads, float32 `(1, bins, frames)` or `(1, samples)`.
        label: The column that is explained.
        seconds: Length of the clip.
        silence: What deleted features become, float32 `(1, bins, 1)` or `(1, 1)`.
        covariates: Side information about the clip, float32 `(1, columns)`, where it is read.
    """

    model: Classifier
    features: Tensor
    label: int
    seconds: float
    silence: Tensor
    covariates: Tensor | None = None

    @classmethod
    def of(
        cls,
        model: Classifier,
        waveform: npt.NDArray[np.float32],
        label: int,
        fill: Fill = "mean",
        covariates: Tensor | None = None,
    ) -> Self:
        """Compute the features of a waveform `(samples,)` that holds no padding.

        Args:
            model: The classifier.
            waveform: What it hears, at its sample rate.
            label: The column that is explained.
            fill: What deleted features become: each bin's mean over the clip, or its least value.
            covariates: Side information about the clip, float32 `(1, columns)`.

        Raises:
            ConfigError: the network reads tokens, or `fill` is `quiet` and it reads samples.
        """
        kind = model.frontend.spec.kind
        if kind == "tokens":
            raise ConfigError("a network that reads tokens cannot be explained", where="--method")
        if kind == "waveform" and fill == "quiet":
            raise ConfigError(
                "samples have no quietest value; quiet is for spectrograms",
                where="fill",
                fix="fill=mean",
            )
        device = next(model.parameters()).device
        samples = torch.as_tensor(waveform, device=device)[None]
        with torch.no_grad():
            features, counts = model.features(samples, torch.tensor([len(waveform)], device=device))
        features = features[..., : int(counts)]
        silence = features.mean(-1, keepdim=True)
        if fill == "quiet":
            silence = features.amin(-1, keepdim=True)
        seconds = len(waveform) / model.sample_rate
        covariates = None if covariates is None else covariates.to(device)
        return cls(model, features, label, seconds, silence, covariates)

    def before(self, model: Classifier) -> Self:
        """Return the same features before another network of the same shape."""
        return replace(self, model=model)

    # --- the grid ---

    @property
    def hop(self) -> int:
        """Features per step of time: 1, or the samples of 10 ms."""
        if self.features.ndim == 3:
            return 1
        return max(1, round(WAVEFORM_STEP * self.model.sample_rate))

    @property
    def bins(self) -> int:
        """Rows of the features; 1 for a waveform."""
        return self.features.shape[1] if self.features.ndim == 3 else 1

    @property
    def steps(self) -> int:
        """Steps of time."""
        return -(-self.features.shape[-1] // self.hop)

    @property
    def times(self) -> Array:
        """Seconds at the middle of each step, `(steps,)`."""
        frontend, rate = self.model.frontend, self.model.frontend.spec.rate
        at = (np.arange(self.steps) + 0.5) * self.hop / rate
        if isinstance(frontend, MelFrontend):
            framing = frontend.energy.framing
            middle = framing.win_length / 2 - framing.left
            at = (np.arange(self.steps) * framing.hop_length + middle) / self.model.sample_rate
        return np.asarray(at.clip(0, self.seconds))

    @property
    def frequencies(self) -> Array | None:
        """Hz at the middle of each bin, `(bins,)`; None where that is not known."""
        frontend = self.model.frontend
        if not isinstance(frontend, MelFrontend):
            return None
        filters = frontend.energy.filters.double().cpu().numpy()
        hertz = np.linspace(0, self.model.sample_rate / 2, filters.shape[1])
        return np.asarray(filters @ hertz / filters.sum(axis=1).clip(1e-12))

    def per_step(self, values: Array) -> Array:
        """Sum values of features `(…, frames or samples)` within each step, `(…, steps)`."""
        starts = np.arange(0, values.shape[-1], self.hop)
        return np.asarray(np.add.reduceat(values, starts, axis=-1))

    # --- what the network says ---

    def without(self, gone: Flags) -> Tensor:
        """Return copies of the features with parts deleted.

        Args:
            gone: bool `(copies, 1 or bins, steps)`, True where features are deleted.
        """
        mask = torch.as_tensor(gone, device=self.features.device)
        mask = mask.repeat_interleave(self.hop, dim=-1)[..., : self.features.shape[-1]]
        return torch.where(
            mask[:, 0] if self.features.ndim == 2 else mask, self.silence, self.features
        )

    def inputs(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return copies of the features, their lengths and side information, as networks ask."""
        lengths = torch.full((len(features),), features.shape[-1], device=features.device)
        known = self.covariates
        return features, lengths, None if known is None else known.expand(len(features), -1)

    def hidden(self) -> Hidden:
        """Return the states that the pooling reads."""
        return self.model.hidden(*self.inputs(self.features))

    def evidence(self, features: Tensor) -> Tensor:
        """Return how strongly the network believes in the label, one number per copy.

        For one label per clip these are the log-odds, log p / (1 - p), whose softmax takes the
        other logits into account; for several labels the logit, which is the same; for regression
        the value.
        """
        logits = self.model.classify(*self.inputs(features)).logits
        chosen = logits[:, self.label]
        if self.model.labels.task != "single":
            return chosen
        others = [i for i in range(logits.shape[1]) if i != self.label]
        return chosen - logits[:, others].logsumexp(dim=1)

    @torch.no_grad()
    def judge(self, gone: Flags) -> Array:
        """Return the evidence left after deleting parts, `(copies,)`; see `without`."""
        found = [self.evidence(self.without(part)) for part in self._passes(gone)]
        return np.asarray(torch.cat(found).double().cpu())

    def _passes(self, gone: Flags) -> Iterator[Flags]:
        size = max(1, min(64, _VALUES_PER_PASS // self.features.numel()))
        return (gone[start : start + size] for start in range(0, len(gone), size))

    @property
    def baseline(self) -> Tensor:
        """The features with everything deleted."""
        return self.silence.expand_as(self.features)
