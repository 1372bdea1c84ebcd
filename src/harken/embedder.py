"""Embeddings: what a network makes of a clip, taken at one of four levels.

| level | what it is | needs |
|---|---|---|
| `pt` | the pooled states of one layer, never weighted | nothing |
| `wt` | the learned weighted sum of all layers' pooled states | `backbone.weighted` |
| `st` | what the shared dense layer makes of the embedding | `heads.shared` |
| `ft` | the groups' first layers, before norm and activation, merged | `heads.bottleneck` |
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harken.backbones.backbone import Backbone, BackboneModule
from harken.checkpoint import RunFolder
from harken.choice import nearest
from harken.conditioning import ConditionModule
from harken.dataset import ClipDataset, Rows
from harken.errors import ConfigError
from harken.heads import Heads
from harken.inference import naming
from harken.labels import Labels
from harken.loader import Loader, Order, even_batches
from harken.model import Classifier, without_weights
from harken.pooling import Pooling, PoolingModule
from harken.predictor import load_classifier
from harken.recipe import Recipe
from harken.seeds import seed_torch

Level = Literal["pt", "wt", "st", "ft"]
Merge = Literal["mean", "sum"]
LEVELS: tuple[Level, ...] = ("pt", "wt", "st", "ft")


@dataclass(frozen=True)
class Wanted:
    """Which embedding is taken.

    Attributes:
        level: See the module's text.
        layer: Number of the hidden layer, for `pt` of a speech encoder; None is the run's own.
        pooling: A kind of pooling without weights, for `pt` and `wt`; None is the run's own.
        merge: How `ft` merges the groups; None is `mean`.
    """

    level: Level = "pt"
    layer: int | None = None
    pooling: str | None = None
    merge: Merge | None = None

    def check(self) -> None:
        """Refuse options that the level does not have.

        Raises:
            ConfigError: says which option goes with which level.
        """
        if self.level not in LEVELS:
            raise ConfigError(
                f"there is no level {self.level!r}", where="--level", fix=f"one of {LEVELS}"
            )
        if self.layer is not None and self.level != "pt":
            _refuse("--layer", self.level, "--level pt takes a layer's states")
        if self.pooling is not None and self.level in ("st", "ft"):
            _refuse("--pooling", self.level, "the heads learned to read the run's own pooling")
        if self.merge is not None and self.level != "ft":
            _refuse("--merge", self.level, "--level ft merges the heads' first layers")
        if self.merge not in (None, "mean", "sum"):
            raise ConfigError(f"cannot merge by {self.merge!r}", where="--merge", fix="mean or sum")


def _refuse(option: str, level: str, reason: str) -> None:
    raise ConfigError(f"it does nothing at level {level}: {reason}", where=option, fix="leave out")


class Embedder(nn.Module):
    """Waveforms in, embeddings out.

    Args:
        model: The network; its heads are used by `st` and `ft` only.
        wanted: Which embedding is taken.
    """

    def __init__(self, model: Classifier, wanted: Wanted) -> None:
        super().__init__()
        self.model, self.wanted = model, wanted

    def forward(self, waveform: Tensor, lengths: Tensor, covariates: Tensor) -> Tensor:
        """Return embeddings, float32 `(batch, dim)`.

        Args:
            waveform: float32 `(batch, samples)`, zero beyond each length.
            lengths: int64 `(batch,)` in samples.
            covariates: float32 `(batch, columns)`, side information that the network reads.
        """
        model = self.model
        features = model.features(waveform, lengths)
        embedding = model.backbone.merge(model.pooling(model.hidden(*features, covariates)))
        if self.wanted.level in ("pt", "wt"):
            return embedding.float()
        for entry, place in zip(model.conditions, model.places, strict=True):
            embedding = cast("ConditionModule", entry).embedding(embedding, covariates[:, place])
        if self.wanted.level == "st":
            return model.heads.after_shared(embedding).float()
        return model.heads.after_first(embedding, self.wanted.merge or "mean").float()

    def digest(self) -> str:
        """Return a hash of the weights that are used, which tells networks apart."""
        found = hashlib.blake2b(digest_size=16)
        unused = () if self.wanted.level in ("st", "ft") else ("model.heads.",)
        for name, value in sorted(self.state_dict().items()):
            if not name.startswith(unused):
                found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
                found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return found.hexdigest()


def embedder_of_run(
    folder: RunFolder, recipe: Recipe, wanted: Wanted, device: torch.device
) -> Embedder:
    """Take a run's network, strictly loaded, for embeddings.

    Args:
        folder: A run, or one fold of it.
        recipe: Its recipe.
        wanted: Which embedding is taken.
        device: Where it runs.

    Raises:
        ConfigError: the run has no such level or layer; says what it takes.
        RunError: the run has no weights, or they do not fit its recipe.
    """
    wanted.check()
    _check_level(recipe, wanted.level)
    _check_layer(recipe.backbone, wanted.layer)
    model = load_classifier(folder, recipe, folder.labels(), device)
    is_other = wanted.level == "pt" and _is_other_layer(recipe.backbone, wanted.layer)
    if is_other:
        model.backbone = _single_layer(recipe.backbone, model, wanted.layer)
    if wanted.pooling is not None:
        model.pooling = _plain_pooling(wanted.pooling, model.backbone)
    elif is_other:
        pooling = recipe.pooling.build(model.backbone)
        if _has_weights(pooling):
            raise ConfigError(
                "this run's pooling has learned to read other states",
                where="--layer",
                fix="add --pooling mean",
            )
        model.pooling = pooling
    return Embedder(model, wanted).to(device).eval()


def embedder_of_checkpoint(recipe: Recipe, wanted: Wanted, device: torch.device) -> Embedder:
    """Build a pretrained network without any training, for `pt`.

    Args:
        recipe: A resolved recipe whose backbone brings its weights.
        wanted: Which embedding is taken; its layer is that of the recipe where it says none.
        device: Where it runs.

    Raises:
        ConfigError: the level needs a trained run, the layer is out of range, or a part needs
            training clips.
    """
    wanted.check()
    if wanted.level != "pt":
        raise ConfigError(
            f"level {wanted.level} is learned in training, and this is a bare checkpoint",
            where="--level",
            fix="take --level pt, or embed with a run folder",
        )
    _check_layer(recipe.backbone, wanted.layer)
    backbone = recipe.backbone
    if _is_other_layer(backbone, wanted.layer):
        backbone = _with_layer(backbone, -1 if wanted.layer is None else wanted.layer)
    pooling = recipe.pooling if wanted.pooling is None else _pooling_of(wanted.pooling)
    assert recipe.frontend is not None
    seed_torch(recipe.seed, "init")
    model = Classifier.build(
        recipe.frontend,
        backbone,
        pooling,
        Heads(),
        Labels("multi", ("none",), ("none",)),
        recipe.audio.sample_rate,
        recipe.audio.clip_samples,
    )
    if model.frontend.needs_statistics():
        raise ConfigError(
            "this front-end learns statistics from training clips, and there are none",
            where="frontend.normalize",
            fix="choose a front-end without them",
        )
    if _has_weights(model.pooling):
        raise _untrained_pooling("pooling" if wanted.pooling is None else "--pooling")
    return Embedder(model, wanted).to(device).eval()


def _check_level(recipe: Recipe, level: Level) -> None:
    wanting = {
        "wt": (
            getattr(recipe.backbone, "weighted", "none") == "none",
            "is the learned weighted sum of layers, and this run learned none",
            "train with backbone.weighted=softmax, or take --level pt",
        ),
        "st": (
            recipe.heads.shared is None,
            "comes after the shared dense layer, and this run has none",
            "train with heads.shared=768, or take --level pt",
        ),
        "ft": (
            recipe.heads.bottleneck is None,
            "is the heads' first layer, and this run's heads have only one",
            "train with heads.bottleneck=768, or take --level pt",
        ),
    }
    lacks, what, fix = wanting.get(level, (False, "", ""))
    if lacks:
        raise ConfigError(f"level {level} {what}", where="--level", fix=fix)


def _check_layer(backbone: Backbone, layer: int | None) -> None:
    if layer is not None and "layer" not in type(backbone).model_fields:
        kind = getattr(backbone, "kind", "")
        raise ConfigError(
            f"the backbone {kind!r} gives its last layer only; layers are for speech encoders",
            where="--layer",
            fix="leave it out",
        )


def _is_other_layer(backbone: Backbone, layer: int | None) -> bool:
    """Whether the layer that is asked for is not what the backbone's states are."""
    if getattr(backbone, "weighted", "none") != "none":
        return True
    return layer is not None and layer != getattr(backbone, "layer", None)


def _with_layer(backbone: Backbone, layer: int) -> Backbone:
    """Return the config that gives one layer's states."""
    tree: dict[str, Any] = backbone.model_dump() | {"weighted": "none", "layer": layer}
    frozen = tree.get("freeze")
    still = frozen if isinstance(frozen, int) else 0
    if still and layer >= 0:
        # Fewer blocks are used, so fewer can be frozen; nothing learns here anyway.
        tree["freeze"] = min(still, layer) or "none"
    if tree.get("lora") is not None and 0 <= layer <= still:
        # No block up to here was adapted.
        tree["lora"] = None
    try:
        return type(backbone).model_validate(tree)
    except ValidationError as error:
        text = error.errors(include_url=False)[0]["msg"]
        raise ConfigError(text, where="--layer") from None


def _single_layer(config: Backbone, model: Classifier, layer: int | None) -> BackboneModule:
    """Build the run's encoder anew so that it gives one layer, and fill it with its weights.

    Without a number it is the last layer that the run's weighted sum reads.
    """
    if layer is None:
        layer = int(model.backbone.describe()["blocks"])
    fresh = without_weights(_with_layer(config, layer)).build(model.frontend.spec)
    known = model.backbone.state_dict()
    missing = sorted(set(fresh.state_dict()) - set(known))
    if missing:
        raise ConfigError(
            f"this run did not keep what layer {layer} needs, such as {missing[0]}",
            where="--layer",
            fix="take a lower layer, or embed with the checkpoint itself",
        )
    fresh.load_state_dict({name: known[name] for name in fresh.state_dict()})
    return fresh


def _pooling_of(kind: str) -> Pooling:
    try:
        return Pooling.member(kind)()
    except ConfigError:
        hint = nearest(kind, Pooling.kinds())
        raise ConfigError(
            f"there is no pooling {kind!r}{hint}", where="--pooling", fix="mean, sum or max"
        ) from None


def _plain_pooling(kind: str, backbone: BackboneModule) -> PoolingModule:
    pooling = _pooling_of(kind).build(backbone)
    if _has_weights(pooling):
        raise _untrained_pooling("--pooling")
    return pooling


def _has_weights(pooling: PoolingModule) -> bool:
    return any(True for _ in pooling.parameters())


def _untrained_pooling(where: str) -> ConfigError:
    text = "this pooling has weights, which nothing has trained"
    return ConfigError(text, where=where, fix="mean, sum or max")


class ByLength(Order):
    """Every clip once, clips of like length together, so that little is padded."""

    def batches(self, epoch: int) -> list[Rows]:
        """Return all rows, the shortest clips first."""
        del epoch
        order = np.argsort(self.dataset.lengths, kind="stable")
        return even_batches(self.dataset.rows[order], self.batch_size)


@torch.inference_mode()
def embed_clips(
    embedder: Embedder, clips: ClipDataset, batch_size: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """Return the embeddings of a dataset's clips, `(clips, dim)`, in the order of its rows."""
    rows, vectors = [], []
    for batch in Loader(ByLength(clips, batch_size)).epoch():
        batch = batch.to(device)
        with naming(batch, clips.names):
            found_here = embedder(batch.waveform, batch.lengths, batch.covariates)
        vectors.append(found_here.cpu().numpy())
        rows.append(batch.rows.cpu().numpy())
    place = {int(row): number for number, row in enumerate(clips.rows)}
    order = [place[int(row)] for row in np.concatenate(rows)]
    found = np.empty((len(clips), vectors[0].shape[1]), dtype=np.float32)
    found[order] = np.concatenate(vectors)
    return found
