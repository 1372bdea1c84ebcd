"""The classifier: waveforms in, logits out.

It owns everything between a decoded clip and its scores, so training, evaluation and prediction
cannot disagree about front-end, normalisation or label order.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from harken.backbones.backbone import Backbone, BackboneModule, Hidden
from harken.batch import Output
from harken.errors import ConfigError
from harken.frontends.frontend import Frontend, FrontendModule
from harken.heads import Heads, HeadsModule
from harken.labels import Labels
from harken.pooling import Pooling, PoolingModule


class Classifier(nn.Module):
    """Front-end, backbone, pooling and heads in a row.

    Args:
        frontend: Waveforms to features.
        backbone: Features to hidden states.
        pooling: Hidden states to an embedding.
        heads: Embedding to logits.
        labels: The logits' columns.
        sample_rate: Hz of the waveforms that are read.
    """

    def __init__(
        self,
        frontend: FrontendModule,
        backbone: BackboneModule,
        pooling: PoolingModule,
        heads: HeadsModule,
        labels: Labels,
        sample_rate: int,
    ) -> None:
        super().__init__()
        self.frontend, self.backbone = frontend, backbone
        self.pooling, self.heads = pooling, heads
        self.labels, self.sample_rate = labels, sample_rate

    @classmethod
    def build(
        cls,
        frontend: Frontend,
        backbone: Backbone,
        pooling: Pooling,
        heads: Heads,
        labels: Labels,
        sample_rate: int,
        max_samples: int | None,
        *,
        fetch: bool = True,
    ) -> Self:
        """Build a classifier from its configs; each part is checked against the one before it.

        Args:
            frontend: Config of the front-end.
            backbone: Config of the backbone.
            pooling: Config of the pooling.
            heads: Config of the heads.
            labels: What the logits' columns mean.
            sample_rate: Hz of the waveforms.
            max_samples: Samples that every clip is padded or cropped to, or None.
            fetch: Whether a backbone may load pretrained weights; False where the weights of a
                run folder are loaded right after, so that neither hub nor file is needed.

        Raises:
            ConfigError: two parts do not fit, e.g. a spectrogram network given tokens.
        """
        front = frontend.build(sample_rate, max_samples)
        back = (backbone if fetch else without_weights(backbone)).build(front.spec)
        pool = pooling.build(back)
        head = heads.build(pool.dim, _groups(labels))
        return cls(front, back, pool, head, labels, sample_rate)

    def features(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of waveforms `(batch, samples)` and their lengths in frames.

        Always in float32: log-mel energies do not survive the 8 bits of bfloat16 under autocast.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            features: tuple[Tensor, Tensor] = self.frontend(waveform.float(), lengths)
            return features

    def hidden(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Return the backbone's hidden states of features and their lengths in frames."""
        states: Hidden = self.backbone(features, lengths)
        return states

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """Return logits and embeddings of features and their lengths in frames."""
        embedding = self.pooling(self.hidden(features, lengths))
        return Output(self.heads(embedding).float(), embedding)

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        """Return logits and embeddings.

        Args:
            waveform: float32 `(batch, samples)`, zero beyond each length.
            lengths: int64 `(batch,)` in samples.
        """
        return self.classify(*self.features(waveform, lengths))

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits `(batch, classes)` into probabilities, or values for regression.

        Softmax over the columns for `single`, a sigmoid for each for `multi`.
        """
        if self.labels.task == "single":
            return logits.softmax(-1)
        return logits.sigmoid() if self.labels.task == "multi" else logits

    def num_parameters(self, trainable: bool = True) -> int:
        """Return the number of weights, of all of them or only of those that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)


def without_weights(backbone: Backbone) -> Backbone:
    """Return a backbone's config without its request for pretrained weights."""
    nothing = {"pretrained": False, "checkpoint": None}
    fields = type(backbone).model_fields
    return backbone.model_copy(update={k: v for k, v in nothing.items() if k in fields})


def _groups(labels: Labels) -> tuple[tuple[str, ...], ...]:
    groups = labels.groups
    names = tuple(name for group in groups for name in group)
    if names != labels.names:
        raise ConfigError(
            f"the groups hold {', '.join(names)}; the labels are {', '.join(labels.names)}",
            where="data.target.groups",
            fix="name every label once, in the order of the labels",
        )
    return groups
