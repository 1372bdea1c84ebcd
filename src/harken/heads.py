"""Heads: embeddings in, logits out; one small classifier per group of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from harken.choice import Config

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}


class Heads(Config):
    """The classifiers on top of the embedding."""

    shared: PositiveInt | None = None
    """Width of a dense layer with ReLU that all groups of labels share; null: none."""
    bottleneck: PositiveInt | None = None
    """Width of each group's own hidden layer; null: none."""
    layer_norm: bool = False
    """Normalise the bottleneck before its activation."""
    activation: Literal["relu", "gelu", "silu", "tanh", "none"] | None = None
    """What follows the bottleneck; null: relu."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of dropping a value before each group's last layer."""

    @model_validator(mode="after")
    def _refuse_options_without_effect(self) -> Self:
        if self.bottleneck is None and self.layer_norm:
            raise ValueError(
                "layer_norm does nothing without a bottleneck; leave it out or set one"
            )
        if self.bottleneck is None and self.activation is not None:
            raise ValueError(
                "activation does nothing without a bottleneck; leave it out or set one"
            )
        return self

    def build(self, dim: int, groups: Sequence[Sequence[str]]) -> HeadsModule:
        """Build the classifiers.

        Args:
            dim: Width of the embedding.
            groups: The label names, parted into classifiers, in column order.
        """
        return HeadsModule(self, dim, [len(group) for group in groups])


class HeadsModule(nn.Module):
    """A shared dense layer, if asked for, then one classifier per group of labels."""

    def __init__(self, config: Heads, dim: int, sizes: Sequence[int]) -> None:
        super().__init__()
        shared: list[nn.Module] = []
        if config.shared is not None:
            shared, dim = [nn.Linear(dim, config.shared), nn.ReLU()], config.shared
        self.shared = nn.Sequential(*shared)
        self.groups = nn.ModuleList(_head(config, dim, size) for size in sizes)
        self.has_shared, self.has_bottleneck = bool(shared), config.bottleneck is not None

    def forward(self, embedding: Tensor) -> Tensor:
        """Turn embeddings `(batch, dim)` into logits `(batch, sum of the groups' sizes)`."""
        shared = self.after_shared(embedding)
        return torch.cat([head(shared) for head in self.groups], dim=1)

    def after_shared(self, embedding: Tensor) -> Tensor:
        """Return what all groups read, `(batch, shared)`; the embedding itself without a layer."""
        shared: Tensor = self.shared(embedding)
        return shared

    def after_first(self, embedding: Tensor, merge: Literal["mean", "sum"] = "mean") -> Tensor:
        """Return each group's bottleneck before its norm and activation, `(batch, bottleneck)`.

        Args:
            embedding: `(batch, dim)`.
            merge: How the groups' bottlenecks become one.
        """
        assert self.has_bottleneck
        shared = self.after_shared(embedding)
        bottlenecks = torch.stack([head[0](shared) for head in _sequences(self.groups)])
        return bottlenecks.mean(0) if merge == "mean" else bottlenecks.sum(0)


def _sequences(groups: nn.ModuleList) -> list[nn.Sequential]:
    return [head for head in groups if isinstance(head, nn.Sequential)]


def _head(config: Heads, dim: int, size: int) -> nn.Sequential:
    if config.bottleneck is None:
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(dim, size))
    norm: list[nn.Module] = [nn.LayerNorm(config.bottleneck)] if config.layer_norm else []
    return nn.Sequential(
        nn.Linear(dim, config.bottleneck),
        *norm,
        ACTIVATIONS[config.activation or "relu"](),
        nn.Dropout(config.dropout),
        nn.Linear(config.bottleneck, size),
    )
