"""`attention` and `rollout`: where the tokens of a transformer look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from harken.backbones.ast import AstModule, Block
from harken.backbones.backbone import BackboneModule, Hidden
from harken.backbones.speech import SpeechModule
from harken.backbones.timm import TimmModule
from harken.errors import ConfigError
from harken.explain.grid import spread
from harken.explain.method import Explain, Relevance
from harken.explain.subject import Subject
from harken.model import Classifier
from harken.pooling import Cls

Array = npt.NDArray[np.float64]
Reader = Callable[[Tensor, Tensor], list[Tensor]]


class AttentionMap(Explain):
    """How much of a layer's attention each token gets, averaged over the heads.

    Asked are the tokens that the classifier reads: the class token, or all tokens of the clip.
    Attention says where a network looks, not what speaks for a label: it is the same for each.
    """

    kind: Literal["attention"] = "attention"
    layer: int | None = Field(None, ge=1)
    """Layer, counted from 1; null takes the last."""

    def fits(self, model: Classifier) -> bool:
        """Whether the network has attention that can be read."""
        return is_transformer(model.backbone)

    def relevance(self, subject: Subject) -> Relevance:
        """Return the map of a clip."""
        maps, hidden = read_attention(subject)
        if self.layer is not None and self.layer > len(maps):
            raise ConfigError(
                f"there is no layer {self.layer}: the network has {len(maps)}",
                where="layer",
                fix=f"layer=1 to layer={len(maps)}",
            )
        return _as_read(maps[(self.layer or 0) - 1], hidden, subject)


class Rollout(Explain):
    """Attention through all layers, residual connections included (Abnar & Zuidema, 2020).

    Each layer passes on `(1 - residual) * attention + residual * identity`, averaged over the
    heads; the layers' matrices are multiplied.
    """

    kind: Literal["rollout"] = "rollout"
    residual: float = Field(0.5, ge=0.0, lt=1.0)
    """Share of each layer's output that goes past its attention."""

    def fits(self, model: Classifier) -> bool:
        """Whether the network has attention that can be read."""
        return is_transformer(model.backbone)

    def relevance(self, subject: Subject) -> Relevance:
        """Return the map of a clip."""
        maps, hidden = read_attention(subject)
        flow = np.eye(len(maps[0]))
        for attention in maps:
            mixed = (1 - self.residual) * attention + self.residual * np.eye(len(attention))
            flow = mixed / mixed.sum(axis=1, keepdims=True) @ flow
        return _as_read(flow, hidden, subject)


def _as_read(attention: Array, hidden: Hidden, subject: Subject) -> Relevance:
    """Average the rows that the pooling reads, and bring the columns to the features' grid."""
    mask = hidden.mask[0].cpu().numpy()
    extra = len(attention) - len(mask)
    patches = isinstance(subject.model.backbone, SpeechModule) and hidden.grid is not None
    if patches:
        # transformers' AST has its patches in the order of time, and two class tokens.
        assert hidden.grid is not None
        order = np.arange(len(mask)).reshape(hidden.grid[::-1]).T.ravel()
        order = np.concatenate([np.arange(extra), extra + order])
        attention = attention[np.ix_(order, order)]
    own = np.concatenate([np.zeros(extra, dtype=bool), mask])
    asked = attention[: extra if patches else 1]
    rows = asked if isinstance(subject.model.pooling, Cls) else attention[own]
    return Relevance(spread(rows.mean(axis=0)[extra:], hidden, subject))


@torch.no_grad()
def read_attention(subject: Subject) -> tuple[list[Array], Hidden]:
    """Return each layer's attention `(tokens, tokens)`, averaged over the heads, and the states.

    Tokens are those of the states, after those that stand for no place, such as a class token.

    Raises:
        ConfigError: the attention is not between all tokens, as in windowed transformers.
    """
    backbone = subject.model.backbone
    reader = _reader(backbone)
    assert reader is not None
    # What the backbone reads may hold side information beside the features.
    read: list[tuple[Tensor, Tensor]] = []

    def look(_: nn.Module, arguments: tuple[Tensor, Tensor]) -> None:
        read.append(arguments)

    with _hooked([backbone.register_forward_pre_hook(look)]):
        hidden = subject.hidden()
    maps, tokens = reader(*read[0]), hidden.states.shape[1]
    if not maps or any(
        len(m) != 1 or m.shape[2] != m.shape[3] or m.shape[3] < tokens for m in maps
    ):
        raise ConfigError(
            "this network's attention is not between all of its tokens",
            where="--method",
            fix="--method gradcam, or occlusion",
        )
    return [m[0].mean(0).double().cpu().numpy() for m in maps], hidden


def is_transformer(backbone: BackboneModule) -> bool:
    """Whether a network has attention that can be read."""
    return _reader(backbone) is not None


def _reader(backbone: BackboneModule) -> Reader | None:
    """Return what reads each layer's attention `(batch, heads, tokens, tokens)`, if anything can.

    A backbone may say it itself, by a method `attentions(features, lengths)`.
    """
    own = getattr(backbone, "attentions", None)
    if callable(own):
        return cast("Reader", own)
    if isinstance(backbone, AstModule):
        return lambda features, lengths: _of_ast(backbone, features, lengths)
    if isinstance(backbone, TimmModule) and _timm_layers(backbone):
        return lambda features, lengths: _of_timm(backbone, features, lengths)
    return None


def _of_ast(backbone: AstModule, features: Tensor, lengths: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []

    def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        block = cast("Block", module)
        x, mask = arguments
        qkv = block.qkv(block.norm1(x)).unflatten(-1, (3, block.num_heads, -1))
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        maps.append((scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1))

    with _hooked(block.register_forward_pre_hook(look) for block in backbone.blocks):
        backbone(features, lengths)
    return maps


def _of_timm(backbone: TimmModule, features: Tensor, lengths: Tensor) -> list[Tensor]:
    """Read timm's attention where it is dropped out, its fused form being switched off."""
    layers, maps = _timm_layers(backbone), list[Tensor]()

    def look(_: nn.Module, __: object, out: Tensor) -> None:
        maps.append(out)

    fused = [layer.fused_attn for layer in layers]
    for layer in layers:
        layer.fused_attn = False
    try:
        with _hooked(layer.attn_drop.register_forward_hook(look) for layer in layers):
            backbone(features, lengths)
    finally:
        for layer, before in zip(layers, fused, strict=True):
            layer.fused_attn = before
    return maps


def _timm_layers(backbone: TimmModule) -> list[Any]:
    """Return the attention layers of a network whose tokens all see each other."""
    blocks = getattr(backbone.network, "blocks", ())
    plain = backbone.layout.order == "NC" and isinstance(blocks, nn.ModuleList | nn.Sequential)
    layers = [getattr(block, "attn", None) for block in blocks] if plain else []
    known = all(hasattr(layer, "fused_attn") and hasattr(layer, "attn_drop") for layer in layers)
    return layers if known else []


@contextmanager
def _hooked(hooks: Iterable[Any]) -> Iterator[None]:
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
