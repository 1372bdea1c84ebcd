"""`bert`: a transformer encoder over tokens or frames of whole clips."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from harken.backbones.ast import AstBackbone, Block, sincos
from harken.backbones.backbone import BackboneModule, Hidden, mask_from_lengths
from harken.backbones.sequence import (
    SequenceBackbone,
    SequenceInput,
    SequenceModule,
    start_from,
)
from harken.backbones.shapes import is_full
from harken.errors import ConfigError, DataError
from harken.frontends.frontend import FeatureSpec

_SMALL = 0.02
"""Deviation of what a network begins with; positions are as large as the vectors that they join."""


class BertBackbone(SequenceBackbone):
    """A transformer encoder after BERT (Devlin et al., 2019), with a class token, normalised first.

    Every step of a clip sees every other, a clip of 10 s whole; padding is seen by none.
    """

    kind: Literal["bert"] = "bert"
    dim: int = Field(256, ge=4)
    """Width of the states."""
    depth: int = Field(4, ge=1)
    """Number of transformer blocks."""
    num_heads: int = Field(4, ge=1)
    """Attention heads in each block; must divide `dim`."""
    mlp_ratio: float = Field(4.0, gt=0.0)
    """Width of each block's hidden dense layer, as a multiple of `dim`."""
    stride: int = Field(1, ge=1)
    """Frames that are merged to one step, by a dense layer over them; training takes less than so
    much less time."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """`sinusoidal`: sines and cosines, for clips of any length; `learned`: a vector per step."""
    max_positions: int | None = Field(None, ge=1)
    """learned: most steps of a clip; null: those of `audio.clip_seconds`, or 2048."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Probability of dropping a value of what is read and after each dense layer."""
    attention_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of dropping an attention weight."""
    mask_rate: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of tokens that is replaced by the mask while training; frames become zero."""
    checkpoint: str | None = None
    """A run of `harken pretrain`, whose weights are the start."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide dim {self.dim}")
        if self.dim % 2:
            raise ValueError(f"dim must be even, not {self.dim}")
        if self.positions == "sinusoidal" and self.max_positions is not None:
            raise ValueError("max_positions does nothing with positions sinusoidal; leave it out")
        return self

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the transformer for tokens or spectrograms.

        Raises:
            ConfigError: waveforms, clips that are longer than the learned positions, or a
                checkpoint that cannot be used.
        """
        self.check(spec)
        module = BertModule(self, spec)
        if self.checkpoint is not None:
            start_from(module, self.checkpoint, spec)
        return module

    def block(self) -> AstBackbone:
        """Return the settings of a transformer block, which is that of `ast`."""
        return AstBackbone(
            dim=self.dim,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


class BertModule(SequenceModule):
    """Vectors of tokens or frames after a class token, positions, blocks and a layer norm."""

    has_cls = True

    def __init__(self, config: BertBackbone, spec: FeatureSpec) -> None:
        super().__init__()
        self.dim, self.num_depths = config.dim, config.depth + 2
        self.reads = SequenceInput(spec, config.dim, config.stride, config.mask_rate)
        frames = self.reads.tokens is None
        # Tokens have a reserved id for it; frames have none.
        self.cls_token = nn.Parameter(_SMALL * torch.randn(config.dim)) if frames else None
        self.table = _table(config, self.reads, spec)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config.block(), 0.0) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self._initialise()

    def _initialise(self) -> None:
        """Draw every matrix from a normal distribution cut at two deviations of 0.02, as BERT."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=_SMALL)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if isinstance(self.reads.embedding, nn.Embedding):
            nn.init.zeros_(self.reads.embedding.weight[self.reads.pad_id])

    def depth_of(self, name: str) -> int:
        """Return a parameter's depth: vectors and positions, then the blocks, then the norm."""
        part, _, rest = name.partition(".")
        if part == "blocks":
            return 1 + int(rest.partition(".")[0])
        return self.num_depths - 1 if part == "norm" else 0

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn tokens `(batch, frames)` or frames `(batch, bins, frames)` into states.

        Raises:
            DataError: a clip is longer than the learned positions.
        """
        x, counts = self.reads(features, lengths)
        steps = x.shape[1]
        x = torch.cat((self._first(x), x + self._positions(steps, x)), dim=1)
        mask = mask_from_lengths(counts, steps)
        seen = None if is_full(counts, steps) else F.pad(mask, (1, 0), value=True)[:, None, None]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, seen)
        x = self.norm(x)
        return Hidden(x[:, 1:], mask, cls=x[:, 0])

    def _first(self, x: Tensor) -> Tensor:
        token = self.cls_token
        first = self.reads.embedding.weight[self.reads.cls_id] if token is None else token
        return first.to(x.dtype).expand(len(x), 1, -1)

    def _positions(self, steps: int, x: Tensor) -> Tensor:
        if self.table is None:
            return _SMALL * sincos(steps, self.dim, x.device).T.to(x.dtype)
        if steps > len(self.table):
            raise DataError(
                f"a clip has {steps} steps and the network has {len(self.table)} positions",
                fix="crop it: audio.clip_seconds; or train with backbone.positions=sinusoidal",
            )
        return self.table[:steps].to(x.dtype)


def _table(config: BertBackbone, reads: SequenceInput, spec: FeatureSpec) -> nn.Parameter | None:
    """Return the learned positions `(steps, dim)`, if they are learned.

    Raises:
        ConfigError: there are fewer than the clips have steps.
    """
    if config.positions != "learned":
        return None
    needed = None if spec.max_frames is None else reads.steps(spec.max_frames)
    size = config.max_positions or needed or 2048
    if needed is not None and needed > size:
        raise ConfigError(
            f"clips have {needed} steps and the network {size} positions",
            where="backbone.max_positions",
            fix=f"backbone.max_positions={needed}, or a larger backbone.stride",
        )
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(size, config.dim), std=_SMALL))
