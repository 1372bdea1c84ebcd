"""`ast`: the Audio Spectrogram Transformer, from basic parts."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.backbones.shapes import is_full, require_spectrogram
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec

Pair = Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]


class AstBackbone(Backbone):
    """Patches of a spectrogram, read by a transformer (Gong, Chung & Glass, 2021).

    Clips of any length: patches that reach beyond a clip's end are masked out of the attention.
    """

    kind: Literal["ast"] = "ast"
    patch_size: PositiveInt | Pair = 16
    """Side of a patch, or `[bins, frames]`."""
    patch_stride: PositiveInt | Pair = 10
    """Step between patches, or `[bins, frames]`; smaller than the patch means overlap."""
    dim: int = Field(192, ge=4)
    """Width of the tokens."""
    depth: int = Field(4, ge=1)
    """Number of transformer blocks."""
    num_heads: int = Field(3, ge=1)
    """Attention heads in each block; must divide `dim`."""
    mlp_ratio: float = Field(4.0, gt=0.0)
    """Width of each block's hidden dense layer, as a multiple of `dim`."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    cls_token: bool = True
    """Put a class token first, so that `pooling: cls` can read it."""
    positions: Literal["learned", "separable", "sincos"] = "learned"
    """`learned`: a vector per patch; `separable`: a vector per row plus a vector per column;
    `sincos`: fixed sines and cosines, for clips of any length.
    """
    max_seconds: float | None = Field(None, gt=0.0)
    """Length of the learned table; a longer clip stretches the table over its own length. Null:
    `audio.clip_seconds`, or 10 s where clips have no fixed length.
    """
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of dropping a value of the tokens and after each dense layer."""
    attention_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of dropping an attention weight."""
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of skipping the last block; rises linearly from 0 at the first one, so it
    needs a `depth` of 2 or more.
    """
    layer_scale: float | None = Field(None, gt=0.0)
    """Initial value of a learned factor on each block's output; null: no factor."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide dim {self.dim}")
        if self.positions == "sincos" and self.dim % 4:
            raise ValueError(f"positions sincos needs a dim divisible by 4, not {self.dim}")
        if self.positions == "sincos" and self.max_seconds is not None:
            raise ValueError("max_seconds does nothing with positions sincos; leave it out")
        if self.drop_path and self.depth == 1:
            raise ValueError("drop_path does nothing with a depth of 1; leave it out")
        return self

    @property
    def patch(self) -> tuple[int, int]:
        """Bins and frames of a patch."""
        return _pair(self.patch_size)

    @property
    def stride(self) -> tuple[int, int]:
        """Bins and frames between patches."""
        return _pair(self.patch_stride)

    def check(self, spec: FeatureSpec) -> None:
        """Refuse what is no spectrogram."""
        require_spectrogram(spec, self.kind)

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the transformer for spectrograms.

        Raises:
            ConfigError: other features, or fewer bins than a patch has.
        """
        self.check(spec)
        if spec.dim < self.patch[0]:
            raise ConfigError(
                f"a patch of {self.patch[0]} bins does not fit a spectrogram of {spec.dim}",
                where="backbone.patch_size",
                fix=f"backbone.patch_size=[{spec.dim},{self.patch[1]}] or more bins",
            )
        frames = spec.max_frames or round(10 * spec.rate)
        if self.max_seconds is not None:
            frames = round(self.max_seconds * spec.rate)
        return AstModule(self, spec.dim, frames)


def _pair(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class AstModule(BackboneModule):
    """Patches, positions and pre-norm transformer blocks, ended by a layer norm."""

    def __init__(self, config: AstBackbone, bins: int, frames: int) -> None:
        super().__init__()
        self.dim, self.has_cls = config.dim, config.cls_token
        (height, self.width), (step, self.step) = config.patch, config.stride
        rows = (bins - height) // step + 1
        self.bins_read = (rows - 1) * step + height
        columns = int(self._patches_in(torch.tensor(frames)))
        self.project = nn.Conv2d(1, config.dim, config.patch, config.stride)
        self.positions = Positions(config.positions, rows, columns, config.dim)
        self.cls_token = nn.Parameter(torch.zeros(config.dim)) if config.cls_token else None
        self.dropout = nn.Dropout(config.dropout)
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.num_depths = config.depth + 2
        self._initialise()

    def depth_of(self, name: str) -> int:
        """Return a parameter's depth: patches and positions, then the blocks, then the norm."""
        part, _, rest = name.partition(".")
        if part == "blocks":
            return 1 + int(rest.partition(".")[0])
        return self.num_depths - 1 if part == "norm" else 0

    def _initialise(self) -> None:
        """Draw every matrix from a normal distribution cut at two deviations of 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def _patches_in(self, lengths: Tensor) -> Tensor:
        """Return how many patches lie wholly within each length, at least 1."""
        fits = torch.div(lengths - self.width, self.step, rounding_mode="floor") + 1
        return fits.clamp(min=1)

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn spectrograms `(batch, bins, frames)` into states of `rows * columns` patches.

        `Hidden.grid` holds `(rows, columns)`; a column belongs to a clip if all its frames do.
        """
        features = F.pad(features, (0, max(0, self.width - features.shape[-1])))
        maps = self.project(features[:, None])
        rows, columns = maps.shape[2:]
        counts = self._patches_in(lengths).clamp(max=columns)
        maps = maps + self.positions(counts, columns).to(maps.dtype)
        tokens = maps.flatten(2).transpose(1, 2)
        mask = mask_from_lengths(counts, columns).repeat(1, rows)
        full = is_full(counts, columns)
        tokens = self.encode(self._prepend_cls(tokens), None if full else self._attend_to(mask))
        if self.cls_token is None:
            return Hidden(tokens, mask, grid=(rows, columns))
        return Hidden(tokens[:, 1:], mask, grid=(rows, columns), cls=tokens[:, 0])

    def encode(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Run the blocks and the last norm over tokens `(batch, n, dim)`.

        Args:
            tokens: Patches with their positions, after the class token if there is one.
            mask: bool `(batch, 1, 1, n)`, True where a token may be attended to; None for all.
        """
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens, mask)
        normed: Tensor = self.norm(tokens)
        return normed

    def _prepend_cls(self, tokens: Tensor) -> Tensor:
        if self.cls_token is None:
            return tokens
        first = self.cls_token.to(tokens.dtype).expand(len(tokens), 1, -1)
        return torch.cat((first, tokens), dim=1)

    def _attend_to(self, mask: Tensor) -> Tensor:
        first = 0 if self.cls_token is None else 1
        return F.pad(mask, (first, 0), value=True)[:, None, None]


class Positions(nn.Module):
    """A vector for each patch of a grid; a clip's positions depend on its own length only."""

    def __init__(self, kind: str, rows: int, columns: int, dim: int) -> None:
        super().__init__()
        self.kind, self.rows, self.dim = kind, rows, dim
        shapes = {"learned": [(dim, rows, columns)], "sincos": []}
        tables = shapes.get(kind, [(dim, rows, 1), (dim, 1, columns)])
        self.tables = nn.ParameterList(torch.empty(shape) for shape in tables)
        for table in self.tables:
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, counts: Tensor, columns: int) -> Tensor:
        """Return the vectors of a grid, `(batch or 1, dim, rows, columns)`.

        Args:
            counts: int64 `(batch,)`, columns that belong to each clip.
            columns: Columns of the batch's grid.
        """
        if self.kind == "sincos":
            row = sincos(self.rows, self.dim // 2, counts.device)[:, :, None]
            column = sincos(columns, self.dim // 2, counts.device)[:, None, :]
            row, column = row.expand(-1, -1, columns), column.expand(-1, self.rows, -1)
            return torch.cat((row, column))[None]
        table = torch.stack([t.expand(-1, self.rows, self._known) for t in self.tables]).sum(0)
        return read_columns(table, counts, columns)

    @property
    def _known(self) -> int:
        return int(self.tables[-1].shape[2])


def read_columns(table: Tensor, counts: Tensor, columns: int) -> Tensor:
    """Read a table `(dim, rows, known)` for clips of any length.

    A clip that is longer than the table reads it at fractional columns, stretched over its own
    length; the others read its beginning.

    Args:
        table: A vector per row and column.
        counts: int64 `(batch,)`, columns that belong to each clip.
        columns: Columns of the batch's grid.

    Returns:
        `(batch or 1, dim, rows, columns)`.
    """
    known = table.shape[2]
    if columns <= known:
        return table[None, :, :, :columns]
    last = known - 1
    scale = torch.where(counts > known, last / (counts - 1).clamp(min=1), 1.0)
    place = (torch.arange(columns, device=counts.device) * scale[:, None]).clamp(max=last)
    before = place.long()
    after = (before + 1).clamp(max=last)
    weight = (place - before)[None, None]
    mixed = table[:, :, before] * (1 - weight) + table[:, :, after] * weight
    return mixed.permute(2, 0, 1, 3)


def sincos(places: int, dim: int, device: torch.device) -> Tensor:
    """Return sines, then cosines of each place, `(dim, places)` (Vaswani et al., 2017)."""
    rates = torch.exp(torch.arange(dim // 2, device=device) * (-math.log(10000.0) / (dim // 2)))
    angles = rates[:, None] * torch.arange(places, device=device)
    return torch.cat((angles.sin(), angles.cos()))


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + dense(norm(x))`."""

    def __init__(self, config: AstBackbone, drop_path: float) -> None:
        super().__init__()
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        self.num_heads, self.attention_dropout = config.num_heads, config.attention_dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)
        self.scale1, self.scale2 = (
            nn.Parameter(torch.full((dim,), config.layer_scale)) if config.layer_scale else None
            for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Transform tokens `(batch, n, dim)`; `mask` as in `AstModule.encode`."""
        x = x + self.drop_path(_scaled(self._attend(self.norm1(x), mask), self.scale1))
        dense = self.fc2(self.dropout(F.gelu(self.fc1(self.norm2(x)))))
        y: Tensor = x + self.drop_path(_scaled(self.dropout(dense), self.scale2))
        return y

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, n, dim = x.shape
        qkv = self.qkv(x).view(batch, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        p = self.attention_dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask, dropout_p=p)
        attended: Tensor = self.dropout(self.proj(out.transpose(1, 2).reshape(batch, n, dim)))
        return attended


def _scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


class DropPath(nn.Module):
    """Skip a branch for some clips of a training batch (Huang et al., 2016, stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero `x` for a share `rate` of the clips and scale up the others."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1 - self.rate
        kept = torch.empty(len(x), 1, 1, device=x.device, dtype=x.dtype).bernoulli_(keep)
        return x * kept / keep
