"""Heads: embeddings in, logits out; one small classifier per group of labels.

With `by`, clips are parted too: those of each age, say, have classifiers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from harken.choice import Config
from harken.covariates import Covariate, Covariates, TrainingTable
from harken.errors import ConfigError, DataError

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
    by: Covariate | None = None
    """Column of the table, such as `age`, each value of which gets classifiers of its own: a clip
    is judged, and trains, those of its value only. What training has not seen is an error, or
    `by: {name: age, on_missing: default, default: 6}` takes the classifiers of 6."""
    bins: Annotated[list[float], Field(min_length=1)] | None = None
    """Limits that part the numbers of `by`: `[4, 7]` makes three of them, below 4, from 4 to below
    7, and from 7 on. Null: every value has its own."""

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

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if self.bins is not None and self.by is None:
            raise ValueError("bins do nothing without by; leave them out, or say by: age")
        if self.bins is not None and any(b <= a for a, b in pairwise(self.bins)):
            raise ValueError("bins must rise")
        if self.by is not None and self.by.on_missing == "unknown":
            raise ValueError("by needs to know each clip's value: on_missing: error or default")
        if self.by is not None and self.by.encoding not in (None, self._encoding):
            raise ValueError(f"by is read as a {self._encoding} here; leave encoding out")
        return self

    @property
    def _encoding(self) -> Literal["number", "category"]:
        return "category" if self.bins is None else "number"

    def covariates(self) -> tuple[Covariate, ...]:
        """Return the side information that parts the clips."""
        if self.by is None:
            return ()
        return (self.by.model_copy(update={"encoding": self._encoding}),)

    def build(
        self,
        dim: int,
        groups: Sequence[Sequence[str]],
        covariates: Covariates | None = None,
    ) -> HeadsModule:
        """Build the classifiers.

        Args:
            dim: Width of the embedding.
            groups: The label names, parted into classifiers, in column order.
            covariates: What training rows taught about side information.

        Raises:
            ConfigError: the column that parts the clips is not among the covariates.
        """
        sizes = [len(group) for group in groups]
        if self.by is None:
            return HeadsModule(self, dim, sizes)
        place = (covariates or Covariates()).place(self.by.name, self._encoding)
        known = (covariates or Covariates()).columns[place]
        count = len(known.names) if self.bins is None else len(self.bins) + 1
        return HeadsByGroup(self, dim, sizes, place, count)

    def check(self, table: TrainingTable) -> None:
        """Refuse a bin without training clips, whose classifiers would never learn.

        Raises:
            DataError: there is one.
        """
        if self.by is None or self.bins is None:
            return
        values = table.values[:, table.covariates.place(self.by.name, "number")]
        found = np.bincount(np.digitize(values, self.bins), minlength=len(self.bins) + 1)
        limits = ["", *(f"{limit:g}" for limit in self.bins), ""]
        for count, (low, high) in zip(found, pairwise(limits), strict=True):
            if not count:
                part = " and ".join([f"from {low} on"] * bool(low) + [f"below {high}"] * bool(high))
                raise DataError(
                    f"no training clip has {self.by.name} {part}",
                    where="heads.bins",
                    fix="leave this limit out",
                )


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

    def forward(self, embedding: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Turn embeddings `(batch, dim)` into logits `(batch, sum of the groups' sizes)`.

        Args:
            embedding: `(batch, dim)`.
            covariates: float32 `(batch, columns)`; needed where they part the clips.
        """
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


class HeadsByGroup(HeadsModule):
    """Classifiers for every group of clips; the dense layer, if any, is shared by all.

    The classifiers of a group that a batch lacks take no part in its graph. They get no gradient,
    not even one of zeros, so that neither momentum nor weight decay moves them.

    Args:
        config: The settings.
        dim: Width of the embedding.
        sizes: Labels of each classifier.
        place: Where the group stands among the covariates.
        count: Number of groups.
    """

    limits: Tensor | None

    def __init__(
        self, config: Heads, dim: int, sizes: Sequence[int], place: int, count: int
    ) -> None:
        super().__init__(config, dim, [])
        width = config.shared or dim
        self.groups = nn.ModuleList(
            nn.ModuleList(_head(config, width, size) for size in sizes) for _ in range(count)
        )
        self.place, self.by = place, config.by.name if config.by else ""
        limits = None if config.bins is None else torch.tensor(config.bins)
        self.register_buffer("limits", limits, persistent=False)

    def codes(self, covariates: Tensor) -> Tensor:
        """Return int64 `(batch,)`: the group of each clip."""
        values = covariates[:, self.place].contiguous()
        if self.limits is None:
            return values.long()
        return torch.bucketize(values, self.limits, right=True)

    def forward(self, embedding: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Turn embeddings into logits; see `HeadsModule.forward`."""
        assert covariates is not None, "heads by group need covariates"
        shared = self.after_shared(embedding)
        codes, order = self.codes(covariates).sort(stable=True)
        counts = torch.bincount(codes, minlength=len(self.groups)).tolist()
        parts = torch.split(shared[order], counts)
        logits = torch.cat(
            [
                torch.cat([head(part) for head in cast("nn.ModuleList", heads)], dim=1)
                for heads, part in zip(self.groups, parts, strict=True)
                if len(part)
            ]
        )
        return logits[order.argsort()]

    def after_first(self, embedding: Tensor, merge: Literal["mean", "sum"] = "mean") -> Tensor:
        """Refuse: there is no first layer that all clips share.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"each {self.by} has heads of its own, so there is no first layer of them all",
            where="--level",
            fix="take --level pt or st",
        )


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
