"""The classifier: waveforms in, logits out.

It owns everything between a decoded clip and its scores, so training, evaluation and prediction
cannot disagree about front-end, normalisation or label order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from harken.backbones.backbone import Backbone, BackboneModule, Hidden
from harken.batch import Output
from harken.conditioning import Condition, ConditionModule
from harken.covariates import Covariates
from harken.errors import ConfigError
from harken.frontends.frontend import Frontend, FrontendModule
from harken.heads import Heads, HeadsModule
from harken.labels import Labels
from harken.pooling import Pooling, PoolingModule

Part = TypeVar("Part", Backbone, Frontend)

Stage = Literal["features", "lower", "pooled"]
"""How far a clip has come: out of the front-end, of the backbone's frozen part, of pooling."""


class Classifier(nn.Module):
    """Front-end, backbone, pooling and heads in a row.

    Args:
        frontend: Waveforms to features.
        backbone: Features to hidden states.
        pooling: Hidden states to an embedding.
        heads: Embedding to logits.
        labels: The logits' columns.
        sample_rate: Hz of the waveforms that are read.
        conditions: What brings side information in.
        places: Each condition's column of the covariates.

    Attributes:
        embedding_dim: Width of the embedding that the heads read.
    """

    embedding_dim: int

    def __init__(
        self,
        frontend: FrontendModule,
        backbone: BackboneModule,
        pooling: PoolingModule,
        heads: HeadsModule,
        labels: Labels,
        sample_rate: int,
        conditions: Sequence[ConditionModule] = (),
        places: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.frontend, self.backbone = frontend, backbone
        self.pooling, self.heads = pooling, heads
        self.labels, self.sample_rate = labels, sample_rate
        self.conditions, self.places = nn.ModuleList(conditions), tuple(places)

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
        conditions: Sequence[Condition] = (),
        covariates: Covariates | None = None,
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
            conditions: Configs of how side information enters.
            covariates: What training rows taught about it.
            fetch: Whether parts may load weights that lie elsewhere; False where the weights of a
                run folder are loaded right after, so that neither hub nor file is needed.

        Raises:
            ConfigError: two parts do not fit, e.g. a spectrogram network given tokens.
        """
        known = covariates or Covariates()
        wanted = [condition.covariate for condition in conditions]
        places = [known.place(each.name, each.encoding) for each in wanted]
        entries = [c.build(known.columns[at]) for c, at in zip(conditions, places, strict=True)]
        front = (frontend if fetch else without_weights(frontend)).build(sample_rate, max_samples)
        spec = front.spec
        for entry in entries:
            spec = entry.extend(spec)
        back = (backbone if fetch else without_weights(backbone)).build(spec)
        if fetch and any(entry.level == "features" for entry in entries):
            _refuse_unread_row(back, spec.dim)
        for entry in entries:
            entry.attach_hidden(back.dim)
        pool = pooling.build(back)
        width = back.merged_dim(pool.dim)
        for entry in entries:
            width = entry.attach(width)
        head = heads.build(width, _groups(labels), known)
        model = cls(front, back, pool, head, labels, sample_rate, entries, places)
        model.embedding_dim = width
        return model

    def features(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of waveforms `(batch, samples)` and their lengths in frames.

        Always in float32: log-mel energies do not survive the 8 bits of bfloat16 under autocast.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            features: tuple[Tensor, Tensor] = self.frontend(waveform.float(), lengths)
            return features

    def hidden(self, features: Tensor, lengths: Tensor, covariates: Tensor | None = None) -> Hidden:
        """Return the backbone's hidden states of features and their lengths in frames."""
        states: Hidden = self.backbone(self._seen(features, lengths, covariates), lengths)
        return self._informed(states, covariates)

    def classify(
        self,
        features: Tensor,
        lengths: Tensor,
        covariates: Tensor | None = None,
        stage: Stage = "features",
    ) -> Output:
        """Return logits and embeddings.

        Args:
            features: What a stage made of clips, float32 `(batch, channels, frames)`.
            lengths: int64 `(batch,)` in frames.
            covariates: float32 `(batch, columns)`; not needed without conditions.
            stage: The stage.
        """
        if stage == "features":
            pooled = self.pooling(self.hidden(features, lengths, covariates))
        elif stage == "lower":
            states = self.backbone.upper(features, lengths)
            pooled = self.pooling(self._informed(states, covariates))
        else:
            pooled = features[..., 0]
        embedding = self.backbone.merge(pooled)
        for entry, values in self._entries(covariates):
            embedding = entry.embedding(embedding, values)
        return Output(self.heads(embedding, covariates).float(), embedding)

    @property
    def still_stage(self) -> Stage:
        """The last stage before anything learns; what it makes of a clip never changes."""
        if self.backbone.frozen == "none":
            return "features"
        learns = any(p.requires_grad for p in self.pooling.parameters())
        learns |= any(entry.level == "hidden" for entry in self.conditions)
        return "lower" if learns or self.backbone.frozen == "part" else "pooled"

    def advance(
        self, features: Tensor, lengths: Tensor, covariates: Tensor | None, stage: Stage
    ) -> tuple[Tensor, Tensor]:
        """Take features on to a stage; a pooled clip counts as one frame.

        Returns:
            float32 `(batch, channels, frames)` and lengths int64 `(batch,)` in frames.
        """
        if stage == "features":
            return features, lengths
        seen = self._seen(features, lengths, covariates)
        states, lengths = self.backbone.lower(seen, lengths)
        if stage == "lower":
            return states, lengths
        pooled = self.pooling(self.backbone.upper(states, lengths))
        return pooled[..., None], torch.ones_like(lengths)

    def _entries(self, covariates: Tensor | None) -> Iterator[tuple[ConditionModule, Tensor]]:
        """Yield each condition with its clips' values `(batch,)`."""
        for entry, place in zip(self.conditions, self.places, strict=True):
            assert covariates is not None, "a model with conditions needs covariates"
            yield cast("ConditionModule", entry), covariates[:, place]

    def _seen(self, features: Tensor, lengths: Tensor, covariates: Tensor | None) -> Tensor:
        for entry, values in self._entries(covariates):
            features = entry.features(features, lengths, values)
        return features

    def _informed(self, hidden: Hidden, covariates: Tensor | None) -> Hidden:
        for entry, values in self._entries(covariates):
            hidden = entry.hidden(hidden, values)
        return hidden

    def forward(
        self, waveform: Tensor, lengths: Tensor, covariates: Tensor | None = None
    ) -> Output:
        """Return logits and embeddings.

        Args:
            waveform: float32 `(batch, samples)`, zero beyond each length.
            lengths: int64 `(batch,)` in samples.
            covariates: float32 `(batch, columns)`; not needed without conditions.
        """
        return self.classify(*self.features(waveform, lengths), covariates)

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits `(batch, classes)` into probabilities, or values for regression.

        Softmax over the columns for `single`, a sigmoid for each for `multi`.
        """
        if self.labels.task == "single":
            return logits.softmax(-1)
        return logits.sigmoid() if self.labels.task == "multi" else logits

    def describe(self) -> dict[str, Any]:
        """Return what a report should say of the network, such as its layers' learned weights."""
        sizes = {"parameters": self.num_parameters(False), "trained": self.num_parameters()}
        return sizes | self.backbone.describe()

    def num_parameters(self, trainable: bool = True) -> int:
        """Return the number of weights, of all of them or only of those that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)


def without_weights(config: Part) -> Part:
    """Return a part's config without its request for weights that lie elsewhere."""
    nothing = {"pretrained": False, "checkpoint": None, "vocabulary": None}
    fields = type(config).model_fields
    return config.model_copy(update={k: v for k, v in nothing.items() if k in fields})


def _refuse_unread_row(backbone: BackboneModule, bins: int) -> None:
    """Refuse side information in a last row of the spectrogram that lies beyond all patches."""
    read = backbone.bins_read
    if read is not None and read < bins:
        raise ConfigError(
            f"the backbone's patches end with bin {read} of {bins}, and the row of side "
            "information is the last, so that it would change nothing",
            where="covariates",
            fix=f"frontend.n_mels={read - 1}, or kind: film, add, attention or concat",
        )


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
