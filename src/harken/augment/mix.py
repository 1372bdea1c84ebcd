"""The slot `mix`: blends of training clips with each other, and of their targets alike."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from harken.choice import Choice
from harken.errors import ConfigError


class Mix(Choice):
    """A blend of the clips of a training batch; evaluation never uses one."""

    p: float = Field(1.0, ge=0.0, le=1.0)
    """Probability that a clip is blended with another."""
    domain: Literal["waveform", "features"] = "waveform"
    """Whether sounds are blended, or what the front-end made of them."""

    def apply(
        self, x: Tensor, lengths: Tensor, target: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return blended inputs, their lengths and targets; what comes in is left as it was.

        Args:
            x: float32 `(batch, samples)` or `(batch, bins, frames)`, zero beyond each length.
            lengths: int64 `(batch,)`.
            target: float32 `(batch, classes)`, NaN where missing.
            rng: The batch's generator.
        """
        raise NotImplementedError


class NoMix(Mix):
    """Clips as they are."""

    kind: Literal["none"] = "none"

    def apply(
        self, x: Tensor, lengths: Tensor, target: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return everything as it came."""
        return x, lengths, target


class Mixup(Mix):
    """Add two clips with weights `share` and `1 - share`, and their targets with the same ones.

    `share` is drawn per clip from Beta(alpha, alpha) (Zhang et al., 2018). The partner is another
    clip of the batch, never the clip itself. A blend is as long as the longer of the two, and a
    target is missing where either is. `{alpha: 10, p: 0.5, domain: waveform}` is the clinical
    systems' mixup; they take away each waveform's mean, which is the front-end's part here.
    """

    kind: Literal["mixup"] = "mixup"
    alpha: float = Field(0.4, gt=0)
    """Shape of the Beta distribution: near 0 one clip dominates, 1 is even, 10 is about half."""

    def apply(
        self, x: Tensor, lengths: Tensor, target: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the blend; a batch of one clip stays as it is.

        Raises:
            ConfigError: the inputs are tokens, which cannot be added.
        """
        if not x.is_floating_point():
            raise ConfigError(
                "tokens cannot be blended",
                where="mix.domain",
                fix="blend waveforms: mix.domain=waveform",
            )
        batch = len(x)
        share = rng.beta(self.alpha, self.alpha, batch)
        chosen = torch.from_numpy((rng.random(batch) < self.p) & (batch > 1)).to(x.device)
        partner = torch.from_numpy(_draw_partners(batch, rng)).to(x.device)
        weight = torch.from_numpy(share.astype(np.float32)).to(x.device)
        longer = torch.maximum(lengths, lengths[partner])
        return (
            _blend(x, partner, weight, chosen),
            torch.where(chosen, longer, lengths),
            _blend(target, partner, weight, chosen),
        )


def _draw_partners(
    batch: int, rng: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Seat the clips in a random circle and return each one's neighbour."""
    order = rng.permutation(batch)
    partner = np.empty(batch, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def _blend(x: Tensor, partner: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    shape = (-1, *[1] * (x.ndim - 1))
    share = weight.to(x.dtype).view(shape)
    return torch.where(chosen.view(shape), share * x + (1 - share) * x[partner], x)
