"""What the sequence models share: how they read tokens or frames, and pretrained weights."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from harken.backbones.backbone import Backbone, BackboneModule, mask_from_lengths
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec, Frontend
from harken.frontends.tokens import Tokens
from harken.storage import exists, join, local_copy

RESERVED = 3
"""Ids after a vocabulary of k tokens: padding is k, the class token k + 1, the mask k + 2."""

PRETRAINING = "pretraining.json"
"""The file of a run folder that says which tokens its network was pretrained on."""


class SequenceInput(nn.Module):
    """Turns tokens or frames into vectors, whatever lies beyond each length.

    Tokens have a vector each; frames, as pseudo-embeddings, are projected. Neighbours may be
    merged by a dense layer over `stride` of them, which makes sequences so much shorter.

    Args:
        spec: Tokens or spectrograms.
        dim: Width of the vectors.
        stride: Frames that become one step.
        mask_rate: Share of frames that is hidden while training.

    Attributes:
        tokens: Size of the vocabulary without the reserved ids, or None for frames.
    """

    def __init__(self, spec: FeatureSpec, dim: int, stride: int, mask_rate: float) -> None:
        super().__init__()
        self.tokens = spec.dim if spec.kind == "tokens" else None
        self.stride, self.mask_rate = stride, mask_rate
        self.embedding: nn.Embedding | nn.Linear
        if self.tokens is None:
            self.embedding = nn.Linear(spec.dim, dim)
        else:
            # The padding's vector is zero and stays so.
            self.embedding = nn.Embedding(self.tokens + RESERVED, dim, padding_idx=self.tokens)
        self.merge = nn.Linear(stride * dim, dim) if stride > 1 else None

    @property
    def pad_id(self) -> int:
        """The token that stands beyond a clip's end."""
        return self._reserved(0)

    @property
    def cls_id(self) -> int:
        """The token that stands for the whole clip."""
        return self._reserved(1)

    @property
    def mask_id(self) -> int:
        """The token that stands for a hidden one."""
        return self._reserved(2)

    def _reserved(self, place: int) -> int:
        assert self.tokens is not None, "frames have no reserved ids"
        return self.tokens + place

    def steps(self, frames: int) -> int:
        """Return the steps that so many frames make."""
        return -(-frames // self.stride)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read features.

        Args:
            features: Tokens int64 `(batch, frames)`, or frames float32 `(batch, bins, frames)`.
            lengths: int64 `(batch,)` in frames.

        Returns:
            Vectors `(batch, steps, dim)` and lengths int64 `(batch,)` in steps, at least 1.
        """
        lengths = lengths.clamp(min=1)
        inside = mask_from_lengths(lengths, features.shape[-1])
        hidden = None
        if self.training and self.mask_rate:
            hidden = torch.rand(inside.shape, device=inside.device) < self.mask_rate
        if self.tokens is None:
            seen = inside if hidden is None else inside & ~hidden
            x = self.embedding(features.transpose(1, 2).masked_fill(~seen[..., None], 0))
            x = x * inside[..., None]
        else:
            ids = features if hidden is None else features.masked_fill(hidden, self.mask_id)
            x = self.embedding(ids.masked_fill(~inside, self.pad_id))
        if self.merge is None:
            return x, lengths
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stride))
        merged = self.merge(x.reshape(len(x), -1, self.stride * x.shape[2]))
        return merged, -(-lengths // self.stride)


class SequenceBackbone(Backbone):
    """Settings of networks that read tokens, or frames in their place."""

    kind: str

    def default_frontend(self) -> Frontend:
        """Return a vocabulary of 500 frames, learned from the training clips."""
        return Tokens()

    def check(self, spec: FeatureSpec) -> None:
        """Refuse features that are neither tokens nor frames.

        Raises:
            ConfigError: the front-end makes waveforms.
        """
        if spec.kind == "waveform":
            raise ConfigError(
                f"{self.kind} cannot read {spec.kind} features",
                where="backbone.kind",
                fix="choose frontend.kind=tokens or frontend.kind=log_mel",
            )


class SequenceModule(BackboneModule):
    """Base of the sequence models.

    Attributes:
        reads: What they read with.
        has_order: Whether a state knows of the steps around it.
    """

    reads: SequenceInput
    has_order: bool = True


def start_from(module: SequenceModule, checkpoint: str, spec: FeatureSpec) -> None:
    """Fill a model with the weights of a run of `harken pretrain`.

    Raises:
        ConfigError: there is no such run, it learned other tokens, or it has another shape.
    """
    where = "backbone.checkpoint"
    about = _about(checkpoint)
    own = join(checkpoint, str(about["vocabulary_file"]))
    if spec.kind != "tokens" or spec.vocabulary != about["vocabulary"]:
        raise ConfigError(
            "these weights were pretrained on the tokens of another vocabulary",
            where=f"{where} {checkpoint}",
            fix=f"frontend.kind=tokens frontend.vocabulary={own}",
        )
    try:
        tensors = load_file(local_copy(join(checkpoint, "model.safetensors")))
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"the weights cannot be read: {error}", where=f"{where} {checkpoint}"
        ) from None
    theirs = {
        n.removeprefix("backbone."): v for n, v in tensors.items() if n.startswith("backbone.")
    }
    mine = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    odd = sorted(
        {n for n, _ in mine.items() ^ {n: tuple(v.shape) for n, v in theirs.items()}.items()}
    )
    if odd:
        raise ConfigError(
            f"these weights are of another network: {len(odd)} differ, {odd[0]} first",
            where=f"{where} {checkpoint}",
            fix="take the backbone's settings from the recipe.yaml there",
        )
    module.load_state_dict(theirs)


def _about(checkpoint: str) -> dict[str, Any]:
    file = join(checkpoint, PRETRAINING)
    if not exists(file):
        raise ConfigError(
            f"no pretrained network is here (no {PRETRAINING})",
            where=f"backbone.checkpoint {checkpoint}",
            fix=f"harken pretrain RECIPE --out {checkpoint}",
        )
    about = json.loads(local_copy(file).read_text())
    assert isinstance(about, dict)
    return about
