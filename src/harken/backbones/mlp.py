"""`mlp`: dense layers over a whole clip, the baseline that everything else has to beat."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.backbones.shapes import fixed_frames, pad_frames, require_spectrogram
from harken.frontends.frontend import FeatureSpec


class MlpBackbone(Backbone):
    """Dense layers with ReLU over a flattened or summarised spectrogram."""

    kind: Literal["mlp"] = "mlp"
    summary: Literal["flatten", "statistics"] = "flatten"
    """`flatten`: all bins of all frames, which needs `audio.clip_seconds`; `statistics`: each bin's
    mean, standard deviation, maximum and mean absolute change per frame, for clips of any length.
    """
    hidden: list[PositiveInt] = Field(default=[512, 256], min_length=1)
    """Widths of the layers."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of dropping a value after each layer."""

    def check(self, spec: FeatureSpec) -> None:
        """Refuse what is no spectrogram."""
        require_spectrogram(spec, self.kind)

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the layers for spectrograms.

        Raises:
            ConfigError: other features; for `flatten` also clips of no fixed length.
        """
        self.check(spec)
        if self.summary == "statistics":
            return MlpModule(4 * spec.dim, None, self)
        frames = fixed_frames(spec, "mlp with summary flatten")
        return MlpModule(spec.dim * frames, frames, self)


class MlpModule(BackboneModule):
    """Dense layers that turn a clip into one state."""

    def __init__(self, inputs: int, frames: int | None, config: MlpBackbone) -> None:
        super().__init__()
        self.frames = frames
        self.dim = config.hidden[-1]
        widths = [inputs, *config.hidden]
        self.layers = nn.Sequential()
        for before, after in pairwise(widths):
            self.layers.extend([nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)])

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn spectrograms `(batch, bins, frames)` into one state per clip."""
        if self.frames is None:
            x = summarise(features, lengths)
        else:
            x = pad_frames(features, self.frames).flatten(1)
        x = self.layers(x)
        return Hidden(x[:, None], torch.ones(len(x), 1, dtype=torch.bool, device=x.device))


def summarise(features: Tensor, lengths: Tensor) -> Tensor:
    """Return each bin's mean, deviation, maximum and mean absolute change, `(batch, 4 * bins)`.

    Args:
        features: float32 `(batch, bins, frames)`.
        lengths: int64 `(batch,)`; frames beyond them do not count.
    """
    mask = mask_from_lengths(lengths.clamp(min=1), features.shape[-1])[:, None]
    count = mask.sum(-1)
    mean = (features * mask).sum(-1) / count
    centred = (features - mean[..., None]) * mask
    # The floor keeps the root's gradient finite for a bin that does not change.
    deviation = (centred.square().sum(-1) / count).clamp(min=1e-8).sqrt()
    largest = features.masked_fill(~mask, -torch.inf).amax(-1)
    change = (features.diff(dim=-1).abs() * mask[..., 1:]).sum(-1) / (count - 1).clamp(min=1)
    return torch.cat((mean, deviation, largest, change), dim=1)
