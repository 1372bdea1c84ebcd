"""The slot `backbone`: features in, hidden states out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from harken.choice import Choice
from harken.frontends.frontend import FeatureSpec, Frontend
from harken.frontends.log_mel import LogMel


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

    A backbone that learns throughout defines `forward`. One that is frozen in part defines `lower`,
    which does not learn and whose results may be kept from epoch to epoch, and `upper`.

    Attributes:
        dim: Width of the hidden states.
        has_cls: Whether `Hidden.cls` is filled.
        frozen: How much of it does not learn: `lower` is the identity for `none`, everything that
            costs something for `all`.
        num_depths: Steps from the input to the output that `depth_of` tells apart; 0 if it does
            not.
        bins_read: How many bins of a spectrogram are read, from the lowest on, where patches leave
            some out; None for all.
    """

    dim: int
    has_cls: bool = False
    num_depths: int = 0
    bins_read: int | None = None
    frozen: Literal["none", "part", "all"] = "none"

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn features (see `FeatureSpec`) and their lengths into hidden states."""
        return self.upper(*self.lower(features, lengths))

    def lower(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the part that does not learn.

        Returns:
            Its states, float32 `(batch, channels, frames)`, zero beyond each length, and their
            lengths int64 `(batch,)` in frames.
        """
        return features, lengths

    def upper(self, states: Tensor, lengths: Tensor) -> Hidden:
        """Run the rest on what `lower` returned."""
        raise NotImplementedError

    def merge(self, pooled: Tensor) -> Tensor:
        """Finish after pooling `(batch, width)`: a learned sum over layers side by side, say."""
        return pooled

    def merged_dim(self, width: int) -> int:
        """Return the width that `merge` makes of a pooled width."""
        return width

    def depth_of(self, name: str) -> int:
        """Return how far from the input a parameter of this module lies.

        Args:
            name: As in `named_parameters`.

        Returns:
            0 next to the input, `num_depths - 1` next to the output; `num_depths` for parameters
            that come after pooling and learn at the heads' rate.
        """
        return self.num_depths - 1

    def describe(self) -> dict[str, Any]:
        """Return what a report should say of the trained module, such as the layers' weights."""
        return {}


class Backbone(Choice):
    """The network between features and pooling."""

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the module for such features.

        Raises:
            ConfigError: these features cannot be read, e.g. a spectrogram network given tokens.
        """
        raise NotImplementedError

    def check(self, spec: FeatureSpec) -> None:
        """Refuse features that it cannot read, without building anything; `build` does so, too.

        Raises:
            ConfigError: these features cannot be read.
        """

    def default_frontend(self) -> Frontend:
        """Return the front-end that this backbone is made for."""
        return LogMel()

    def resolved(self) -> Self:
        """Return the config with what it refers to read in, such as a checkpoint's own settings.

        The recipe of a run folder holds the resolved config, which builds the module again without
        the checkpoint.

        Raises:
            ConfigError: what it refers to is not there.
        """
        return self
