"""The slot `normalize` of spectrogram front-ends: which mean and spread the features have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harken.choice import Choice
from harken.errors import ConfigError, DataError, RunError
from harken.frontends.framing import frame_mask
from harken.frontends.frontend import NotFiniteError

_SMALLEST = 1e-3  # spreads below this are rounding: such clips become zeros, not noise or NaN

Finite = Annotated[float, Field(allow_inf_nan=False)]
Values = Finite | list[Finite]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NormalizeModule(nn.Module):
    """Base of what a `Normalize` builds; this one leaves features alone."""

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return features `(batch, bins, frames)` with zeros beyond each length."""
        return features

    def needs_statistics(self) -> bool:
        """Whether `learn` must come before the first forward."""
        return False

    def learn(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn from the `(features, lengths)` of training clips."""


class Normalize(Choice):
    """How features are shifted and scaled, after the logarithm."""

    def build(self, bins: int) -> NormalizeModule:
        """Build the module for features of so many bins."""
        raise NotImplementedError


class NoNormalize(Normalize):
    """Features as they are."""

    kind: Literal["none"] = "none"

    def build(self, bins: int) -> NormalizeModule:
        """Build the module, which leaves features alone."""
        return NormalizeModule()


class ClipNormalize(Normalize):
    """Zero mean and unit standard deviation within each clip's true frames."""

    kind: Literal["clip"] = "clip"
    per_bin: bool = False
    """Each bin has its own mean and deviation, instead of one pair for the whole clip."""

    def build(self, bins: int) -> NormalizeModule:
        """Build the module."""
        return ClipNormalizer(self.per_bin)


class DatasetNormalize(Normalize):
    """(x - mean) / (scale * std) with two constants, learned from training clips or given.

    The Audio Spectrogram Transformer's constants for AudioSet (Gong et al., 2021) are
    `{kind: dataset, mean: -4.2677393, std: 4.5689974, scale: 2}` after `kaldi_fbank`; Whisper's
    (x + 4) / 4 is `{kind: dataset, mean: -4, std: 4}`.
    """

    kind: Literal["dataset"] = "dataset"
    mean: Values | None = None
    """Given mean, or one per bin; null learns it from the training clips."""
    std: Positive | list[Positive] | None = None
    """Given standard deviation, or one per bin; goes with `mean`."""
    per_bin: bool = False
    """Learn one mean and deviation per bin, instead of one pair for all."""
    scale: float = Field(1.0, gt=0)
    """What the deviation is multiplied by: 2 gives features a deviation of one half."""

    @model_validator(mode="after")
    def _come_in_pairs(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither to learn them")
        if self.per_bin and isinstance(self.mean, float) and isinstance(self.std, float):
            raise ValueError("per_bin needs one mean and std per bin, or neither to learn them")
        return self

    def build(self, bins: int) -> NormalizeModule:
        """Build the module.

        Raises:
            ConfigError: the lists given do not have one value per bin.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if isinstance(values, list) and len(values) != bins:
                raise ConfigError(
                    f"there are {len(values)} values for {bins} bins",
                    where=f"frontend.normalize.{name}",
                    fix=f"give one value, or {bins}",
                )
        return DatasetNormalizer(self, bins)


class MinMaxNormalize(Normalize):
    """0 at each clip's smallest and 1 at its largest value; a constant clip becomes zeros."""

    kind: Literal["minmax"] = "minmax"

    def build(self, bins: int) -> NormalizeModule:
        """Build the module."""
        return MinMaxNormalizer()


class ClipNormalizer(NormalizeModule):
    """Standardises each clip by itself, with the population's standard deviation."""

    def __init__(self, per_bin: bool) -> None:
        super().__init__()
        self.axes = (2,) if per_bin else (1, 2)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return standardised features, zero beyond each length."""
        mask = frame_mask(lengths, features.shape[2])
        count = lengths[:, None, None] * (1 if self.axes == (2,) else features.shape[1])
        # Less their first value, constant features are exactly zero and sums lose fewer digits.
        shifted = features - (features[:, :, :1] if self.axes == (2,) else features[:, :1, :1])
        mean = torch.where(mask, shifted, 0.0).sum(self.axes, keepdim=True) / count
        centred = torch.where(mask, shifted - mean, 0.0)
        variance = centred.square().sum(self.axes, keepdim=True) / count
        return centred / variance.clamp(min=_SMALLEST**2).sqrt()


class MinMaxNormalizer(NormalizeModule):
    """Stretches each clip to 0..1."""

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return features between 0 and 1, zero beyond each length."""
        mask = frame_mask(lengths, features.shape[2])
        low = features.masked_fill(~mask, torch.inf).amin((1, 2), keepdim=True)
        high = features.masked_fill(~mask, -torch.inf).amax((1, 2), keepdim=True)
        stretched = (features - low) / (high - low).clamp(min=_SMALLEST)
        return torch.where(mask, stretched, 0.0)


class DatasetNormalizer(NormalizeModule):
    """Subtracts one mean and divides by one deviation; both travel in the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: DatasetNormalize, bins: int) -> None:
        super().__init__()
        self.scale, self.per_bin = config.scale, config.per_bin
        self.learns = config.mean is None
        lists = isinstance(config.mean, list) or isinstance(config.std, list)
        rows = bins if lists or (self.learns and self.per_bin) else 1
        self.register_buffer("mean", _column(config.mean, rows))
        self.register_buffer("std", _column(config.std, rows))
        self._known = not self.learns

    def needs_statistics(self) -> bool:
        """Whether mean and deviation are still unknown."""
        return not self._is_known()

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return (x - mean) / (scale * std), zero beyond each length.

        Raises:
            RunError: mean and deviation were neither given, learned nor loaded.
        """
        if not self._is_known():
            raise RunError(
                "the mean and deviation of the training clips are not known yet",
                where="frontend.normalize",
                fix="call fit with training clips, or load a trained model's weights",
            )
        scaled = (features - self.mean) / (self.scale * self.std)
        return torch.where(frame_mask(lengths, features.shape[2]), scaled, 0.0)

    def _is_known(self) -> bool:
        # Unknown values are NaN; the answer is remembered so that a forward on CUDA does not wait.
        self._known = self._known or bool(torch.isfinite(self.std).all())
        return self._known

    @torch.no_grad()
    def learn(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn mean and deviation in one pass, in float64; given constants stay as they are.

        Batches are merged by the update of Chan, Golub and LeVeque (1979), which does not lose
        digits where the mean is large beside the deviation.

        Raises:
            DataError: there are no clips, or a deviation is zero.
            NotFiniteError: features are not finite.
        """
        if not self.learns:
            return
        count = 0
        mean, squares = (torch.zeros_like(self.mean, dtype=torch.float64) for _ in range(2))
        for features, lengths in batches:
            size, middle, spread = self._moments(features, lengths)
            if not bool(torch.isfinite(spread).all()):
                _refuse_not_finite(features, lengths)
            delta = middle - mean
            squares += spread + delta.square() * (count * size / (count + size))
            mean += delta * (size / (count + size))
            count += size
        std = (squares / max(count, 1)).sqrt()
        _refuse_useless(count, std)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def _moments(self, features: Tensor, lengths: Tensor) -> tuple[int, Tensor, Tensor]:
        """Return the number of values, their mean and their sum of squares around it."""
        mask = frame_mask(lengths, features.shape[2])
        axes = (0, 2) if len(self.mean) > 1 else (0, 1, 2)
        values = features.double()
        size = int(lengths.sum()) * (1 if len(self.mean) > 1 else features.shape[1])
        mean = torch.where(mask, values, 0.0).sum(axes, keepdim=True)[0] / size
        return size, mean, torch.where(mask, values - mean, 0.0).square().sum(axes, keepdim=True)[0]


def _column(values: Values | None, rows: int) -> Tensor:
    if isinstance(values, list):
        return torch.tensor(values, dtype=torch.float32)[:, None]
    return torch.full((rows, 1), torch.nan if values is None else values, dtype=torch.float32)


def _refuse_not_finite(features: Tensor, lengths: Tensor) -> None:
    inside = frame_mask(lengths, features.shape[2])
    bad = (inside & ~torch.isfinite(features)).any(dim=(1, 2))
    raise NotFiniteError(bad.nonzero()[:, 0].tolist())


def _refuse_useless(count: int, std: Tensor) -> None:
    where = "frontend.normalize"
    if count == 0:
        raise DataError("there are no training clips to learn mean and deviation from", where=where)
    constant = (std[:, 0] < _SMALLEST).nonzero()[:, 0].tolist()
    if constant:
        what = f"bins {constant[:5]}" if len(std) > 1 else "the features"
        raise DataError(
            f"{what} have the same value in all training clips: their deviation is zero",
            where=where,
            fix="check that the recordings are not silent; with per_bin, take fewer n_mels or a "
            "larger n_fft so that no filter is empty",
        )
