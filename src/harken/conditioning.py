"""The slot `covariates`: how side information enters the network.

An entry names a covariate and acts in one place: on the features, on the hidden states, or on the
embedding that the heads read.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from harken.backbones.backbone import Hidden
from harken.choice import Choice
from harken.covariates import Covariate, Known
from harken.frontends.frontend import FeatureSpec


class ConditionModule(nn.Module):
    """Base of what a `Condition` builds; what it does not define passes through.

    It is made in the order of the data: `extend` tells the backbone what it will see, then
    `attach_hidden` and `attach` learn the widths.

    Attributes:
        level: The one place where it acts.
    """

    level: Literal["features", "hidden", "embedding"] = "embedding"

    def __init__(self, known: Known) -> None:
        super().__init__()
        self.known = known

    def extend(self, spec: FeatureSpec) -> FeatureSpec:
        """Return what the features are after this."""
        return spec

    def attach_hidden(self, dim: int) -> None:
        """Build what acts on hidden states of this width."""

    def attach(self, width: int) -> int:
        """Build what acts on embeddings of this width, and return the width after it."""
        return width

    def features(self, features: Tensor, lengths: Tensor, values: Tensor) -> Tensor:
        """Change features `(batch, bins, frames)`, knowing values `(batch,)`."""
        return features

    def hidden(self, hidden: Hidden, values: Tensor) -> Hidden:
        """Change hidden states, knowing values `(batch,)`."""
        return hidden

    def embedding(self, embedding: Tensor, values: Tensor) -> Tensor:
        """Change embeddings `(batch, width)`, knowing values `(batch,)`."""
        return embedding

    def standardised(self, values: Tensor) -> Tensor:
        """Return numbers `(batch,)` with the training rows' mean 0 and deviation 1."""
        return (values - self.known.mean) / self.known.std


class Condition(Choice):
    """How one covariate enters the network."""

    covariate: Covariate
    """The column of the table, by name or as a mapping."""

    def build(self, known: Known) -> ConditionModule:
        """Build the module for what training rows taught about the covariate.

        Raises:
            ConfigError: this way does not suit the covariate.
        """
        raise NotImplementedError


class Concat(Condition):
    """The value beside the embedding: a standardised number, or a one-hot category."""

    kind: Literal["concat"] = "concat"

    def build(self, known: Known) -> ConditionModule:
        """Build the module."""
        return ConcatModule(known)


class ConcatModule(ConditionModule):
    """Puts a covariate beside the embedding."""

    def attach(self, width: int) -> int:
        """Return the width with the covariate's own columns."""
        return width + max(1, len(self.known.names))

    def embedding(self, embedding: Tensor, values: Tensor) -> Tensor:
        """Return embeddings `(batch, width + columns)`."""
        if self.known.encoding == "number":
            extra = self.standardised(values)[:, None]
        else:
            extra = nn.functional.one_hot(values.long(), len(self.known.names))
        return torch.cat([embedding, extra.to(embedding.dtype)], dim=1)
