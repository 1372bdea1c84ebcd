"""The slot `covariates`: how side information enters the network.

An entry names a covariate and acts in one place: on the features, on the hidden states, or on the
embedding that the heads read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harken.backbones.backbone import Hidden, mask_from_lengths
from harken.choice import Choice
from harken.covariates import Covariate, Known
from harken.errors import ConfigError
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

    @model_validator(mode="after")
    def _has_a_value(self) -> Self:
        if self.covariate.on_missing == "unknown":
            raise ValueError("a network needs a value: on_missing is error or default")
        return self

    def build(self, known: Known) -> ConditionModule:
        """Build the module for what training rows taught about the covariate.

        Raises:
            ConfigError: this way does not suit the covariate.
        """
        raise NotImplementedError


class Row(Condition):
    """One more bin under the spectrogram, the same in every frame; augmentation does not reach it.

    A network of a fixed number of bins has to be given one bin fewer: `frontend.n_mels: 79` for a
    Whisper encoder of 80.
    """

    kind: Literal["row"] = "row"
    scale: float = 1.0
    """What the value is multiplied by; 0 would do nothing and is refused."""
    standardise: bool = True
    """Numbers with the training rows' mean 0 and deviation 1; off takes them as they stand. A
    category is its place among the n names, from -1 for the first to 1 for the last."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale is 0: the row would say nothing")
        return self

    def build(self, known: Known) -> ConditionModule:
        """Build the module."""
        return RowModule(known, self.scale, self.standardise)


class Add(Condition):
    """A learned vector of the value, added to every hidden state."""

    kind: Literal["add"] = "add"

    def build(self, known: Known) -> ConditionModule:
        """Build the module."""
        return AddModule(known)


class Film(Condition):
    """A learned scale and shift of every hidden state (FiLM, Perez et al., 2018).

    Both start at zero, so that training begins with the network as it is without the covariate.
    """

    kind: Literal["film"] = "film"

    def build(self, known: Known) -> ConditionModule:
        """Build the module."""
        return FilmModule(known)


class CrossAttention(Condition):
    """Hidden states attend to vectors of the value, and what they find is added to them.

    With one vector a value, attention could only ever find that vector; several let each state
    take what concerns it. The sum keeps the audio in.
    """

    kind: Literal["attention"] = "attention"
    num_tokens: int = Field(4, ge=2)
    """Vectors of each value."""
    num_heads: int = Field(4, ge=1)
    """Attention heads; they must divide the width of the hidden states."""

    def build(self, known: Known) -> ConditionModule:
        """Build the module."""
        return CrossAttentionModule(known, self.num_tokens, self.num_heads)


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


class ValueEncoder(nn.Module):
    """Learned vectors of a value: a table of them for categories, a small network for numbers."""

    def __init__(self, known: Known, width: int) -> None:
        super().__init__()
        self.known = known
        self.table: nn.Module
        if known.encoding == "category":
            self.table = nn.Embedding(len(known.names), width)
            nn.init.normal_(self.table.weight, std=0.02)
        else:
            self.table = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, width))

    def forward(self, values: Tensor) -> Tensor:
        """Turn values `(batch,)` into vectors `(batch, width)`."""
        if self.known.encoding == "category":
            vectors: Tensor = self.table(values.long())
        else:
            vectors = self.table(((values - self.known.mean) / self.known.std)[:, None])
        return vectors


class RowModule(ConditionModule):
    """Puts a covariate under the spectrogram."""

    level = "features"

    def __init__(self, known: Known, scale: float, standardise: bool) -> None:
        super().__init__(known)
        self.scale, self.standardise = scale, standardise

    def extend(self, spec: FeatureSpec) -> FeatureSpec:
        """Return the spectrogram's description with one bin more.

        Raises:
            ConfigError: the features are no spectrogram.
        """
        if spec.kind != "spectrogram":
            raise ConfigError(
                f"a row is added to spectrograms, and the front-end makes {spec.kind}",
                where="covariates",
                fix="kind: film, add, attention or concat",
            )
        return replace(spec, dim=spec.dim + 1)

    def features(self, features: Tensor, lengths: Tensor, values: Tensor) -> Tensor:
        """Return features `(batch, bins + 1, frames)`."""
        if self.known.encoding == "category":
            row = 2.0 * values / max(len(self.known.names) - 1, 1) - 1.0
        else:
            row = self.standardised(values) if self.standardise else values
        inside = mask_from_lengths(lengths, features.shape[2])
        rows = (self.scale * row)[:, None] * inside
        return torch.cat([features, rows[:, None].to(features.dtype)], dim=1)


class AddModule(ConditionModule):
    """Adds a vector of the value to hidden states."""

    level = "hidden"

    def attach_hidden(self, dim: int) -> None:
        """Build the vectors."""
        self.encoder = ValueEncoder(self.known, dim)

    def hidden(self, hidden: Hidden, values: Tensor) -> Hidden:
        """Return the states plus the vector."""
        vector = self.encoder(values)
        cls = None if hidden.cls is None else hidden.cls + vector
        return replace(hidden, states=hidden.states + vector[:, None], cls=cls)


class FilmModule(ConditionModule):
    """Scales and shifts hidden states."""

    level = "hidden"

    def attach_hidden(self, dim: int) -> None:
        """Build the scales and shifts, all 0 at first."""
        self.encoder = ValueEncoder(self.known, 64)
        self.change = nn.Linear(64, 2 * dim)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def hidden(self, hidden: Hidden, values: Tensor) -> Hidden:
        """Return states · (1 + scale) + shift."""
        scale, shift = self.change(torch.tanh(self.encoder(values))).chunk(2, dim=-1)
        states = hidden.states * (1 + scale[:, None]) + shift[:, None]
        cls = None if hidden.cls is None else hidden.cls * (1 + scale) + shift
        return replace(hidden, states=states, cls=cls)


class CrossAttentionModule(ConditionModule):
    """Lets hidden states attend to vectors of the value."""

    level = "hidden"

    def __init__(self, known: Known, num_tokens: int, num_heads: int) -> None:
        super().__init__(known)
        self.num_tokens, self.num_heads = num_tokens, num_heads

    def attach_hidden(self, dim: int) -> None:
        """Build the layers.

        Raises:
            ConfigError: the heads do not divide the width.
        """
        if dim % self.num_heads:
            raise ConfigError(
                f"{self.num_heads} heads do not divide hidden states of {dim}",
                where="covariates.num_heads",
            )
        self.tokens = ValueEncoder(self.known, self.num_tokens * dim)
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, self.num_heads, batch_first=True)

    def hidden(self, hidden: Hidden, values: Tensor) -> Hidden:
        """Return the states plus what they find."""
        tokens = self.tokens(values).unflatten(1, (self.num_tokens, -1))
        states = hidden.states + self._found(hidden.states, tokens)
        cls = hidden.cls
        if cls is not None:
            cls = cls + self._found(cls[:, None], tokens)[:, 0]
        return replace(hidden, states=states, cls=cls)

    def _found(self, states: Tensor, tokens: Tensor) -> Tensor:
        found: Tensor = self.attention(self.norm(states), tokens, tokens, need_weights=False)[0]
        return found
