"""The slot `pooling`: hidden states in, one embedding per clip out.

Every kind leaves out the states that lie beyond a clip's end.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harken.backbones.backbone import BackboneModule, Hidden
from harken.choice import Choice
from harken.errors import ConfigError


class PoolingModule(nn.Module):
    """Base of what a `Pooling` builds.

    Attributes:
        dim: Width of the embedding.
    """

    dim: int

    def forward(self, hidden: Hidden) -> Tensor:
        """Return the embedding, float32 `(batch, dim)`."""
        raise NotImplementedError


class Pooling(Choice):
    """How the states of a clip become one embedding."""

    def build(self, backbone: BackboneModule) -> PoolingModule:
        """Build the module for the states of such a backbone.

        Raises:
            ConfigError: the backbone does not make the states that are read.
        """
        raise NotImplementedError


class MeanPooling(Pooling):
    """The mean of the states."""

    kind: Literal["mean"] = "mean"

    def build(self, backbone: BackboneModule) -> PoolingModule:
        """Build the module."""
        return Reduce(backbone.dim, "mean")


class SumPooling(Pooling):
    """The sum of the states; longer clips give larger embeddings."""

    kind: Literal["sum"] = "sum"

    def build(self, backbone: BackboneModule) -> PoolingModule:
        """Build the module."""
        return Reduce(backbone.dim, "sum")


class MaxPooling(Pooling):
    """The largest value of each dimension."""

    kind: Literal["max"] = "max"

    def build(self, backbone: BackboneModule) -> PoolingModule:
        """Build the module."""
        return Reduce(backbone.dim, "max")


class MeanMaxPooling(Pooling):
    """The mean and the largest value of each dimension, side by side."""

    kind: Literal["mean_max"] = "mean_max"

    def build(self, backbone: BackboneModule) -> PoolingModule:
        """Build the module; its width is twice that of the states."""
        return Reduce(backbone.dim, "mean", "max")


class StatisticsPooling(Pooling):
    """The mean and the standard deviation of each dimension (Snyder et al., 2018, x-vectors)."""

    kind: Literal["statistics"] = "statistics"

    def build(self, backbone: BackboneModule) -> PoolingModule:
        """Build the module; its width is twice that of the states."""
        return Reduce(backbone.dim, "mean", "deviation")


class AttentionPooling(Pooling):
    """A mean with learned weights, softmax(v · tanh(W x)) (Bahdanau, Cho & Bengio, 2015)."""

    kind: Literal["attention"] = "attention"
    dim: int = Field(128, ge=1)
    """Width of the layer that judges each state."""

    def build(self, backbone: BackboneModule) -> PoolingModule:
        """Build the module."""
        return Attention(backbone.dim, self.dim)


class ClsPooling(Pooling):
    """The state of the class token."""

    kind: Literal["cls"] = "cls"

    def build(self, backbone: BackboneModule) -> PoolingModule:
        """Build the module.

        Raises:
            ConfigError: the backbone has no class token.
        """
        if not backbone.has_cls:
            raise ConfigError(
                "this backbone has no class token",
                where="pooling.kind",
                fix="choose another pooling, e.g. pooling=mean, or a backbone with a class token",
            )
        return Cls(backbone.dim)


def masked_mean(hidden: Hidden) -> Tensor:
    """Return the mean of each clip's own states, `(batch, dim)`."""
    return masked_sum(hidden) / hidden.mask.sum(1, keepdim=True)


def masked_sum(hidden: Hidden) -> Tensor:
    """Return the sum of each clip's own states, `(batch, dim)`."""
    return hidden.states.float().masked_fill(~hidden.mask[..., None], 0).sum(1)


def masked_max(hidden: Hidden) -> Tensor:
    """Return the largest value of each dimension among a clip's own states, `(batch, dim)`."""
    return hidden.states.float().masked_fill(~hidden.mask[..., None], -torch.inf).amax(1)


def masked_deviation(hidden: Hidden) -> Tensor:
    """Return the unbiased standard deviation of a clip's own states, `(batch, dim)`.

    A clip of one state gives the floor, 1e-4, which keeps the root's gradient finite.
    """
    count = hidden.mask.sum(1, keepdim=True)
    centred = hidden.states.float() - masked_mean(hidden)[:, None]
    squares = centred.square().masked_fill(~hidden.mask[..., None], 0).sum(1)
    return (squares / (count - 1).clamp(min=1)).clamp(min=1e-8).sqrt()


REDUCTIONS = {
    "mean": masked_mean,
    "sum": masked_sum,
    "max": masked_max,
    "deviation": masked_deviation,
}


class Reduce(PoolingModule):
    """Fixed reductions of the states, side by side."""

    def __init__(self, dim: int, *names: str) -> None:
        super().__init__()
        self.dim, self.names = dim * len(names), names

    def forward(self, hidden: Hidden) -> Tensor:
        """Return the embedding, float32 `(batch, dim)`."""
        return torch.cat([REDUCTIONS[name](hidden) for name in self.names], dim=1)


class Attention(PoolingModule):
    """A mean of the states with learned weights."""

    def __init__(self, dim: int, judge: int) -> None:
        super().__init__()
        self.dim = dim
        self.judge = nn.Sequential(
            nn.Linear(dim, judge), nn.Tanh(), nn.Linear(judge, 1, bias=False)
        )

    def weights(self, hidden: Hidden) -> Tensor:
        """Return each state's share of the embedding, `(batch, frames)`; rows sum to 1."""
        scores: Tensor = self.judge(hidden.states).squeeze(-1).float()
        return scores.masked_fill(~hidden.mask, -torch.inf).softmax(1)

    def forward(self, hidden: Hidden) -> Tensor:
        """Return the embedding, float32 `(batch, dim)`."""
        return (self.weights(hidden)[..., None] * hidden.states.float()).sum(1)


class Cls(PoolingModule):
    """The state of the class token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, hidden: Hidden) -> Tensor:
        """Return the embedding, float32 `(batch, dim)`."""
        assert hidden.cls is not None
        return hidden.cls.float()
