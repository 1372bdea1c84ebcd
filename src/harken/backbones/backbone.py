"""The slot `backbone`: features in, hidden states out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harken.choice import Choice
from harken.frontends.frontend import FeatureSpec


@dataclass(frozen=True)
class Hidden:
    """What a backbone returns.

    Attributes:
        states: float32 `(batch, frames, dim)`; convolutional maps are flattened frequency-major.
        mask: bool `(batch, frames)`, True where a state belongs to the clip.
        grid: `(bins, frames)` of the flattened map, so `states` has `bins * frames` rows, or None.
        cls: float32 `(batch, dim)`, the class token's state, or None.
    """

    states: Tensor
    mask: Tensor
    grid: tuple[int, int] | None = None
    cls: Tensor | None = None


def mask_from_lengths(lengths: Tensor, frames: int) -> Tensor:
    """Return bool `(batch, frames)`, True at positions before each length."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


class BackboneModule(nn.Module):
    """Base of what a `Backbone` builds.

    Attributes:
        dim: Width of the hidden states.
        has_cls: Whether `Hidden.cls` is filled.
    """

    dim: int
    has_cls: bool = False

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn features (see `FeatureSpec`) and their lengths into hidden states."""
        raise NotImplementedError


class Backbone(Choice):
    """The network between features and pooling."""

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the module for such features.

        Raises:
            ConfigError: these features cannot be read, e.g. a spectrogram network given tokens.
        """
        raise NotImplementedError
