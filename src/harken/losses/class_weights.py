"""Weights of classes: given by a person, or counted from training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BeforeValidator, NonNegativeFloat
from pydantic_core import PydanticCustomError
from torch import Tensor

from harken.choice import nearest
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.losses.loss import LossModule
from harken.multi_hot import TargetTable, label_counts

Targets = npt.NDArray[np.float32]


def _readable_weights(value: Any) -> Any:
    """Answer a misspelt word once, and let YAML's numeric label names be names."""
    if isinstance(value, str) and value not in ("none", "balanced"):
        hint = nearest(value, ("none", "balanced"))
        text = f"none, balanced, a list by class order or a mapping by label name{hint}"
        raise PydanticCustomError("weights", "must be {text}", {"text": text})
    if isinstance(value, Mapping):
        return {str(name): weight for name, weight in value.items()}
    return value


Weights = Annotated[
    Literal["none", "balanced"] | list[NonNegativeFloat] | dict[str, NonNegativeFloat],
    BeforeValidator(_readable_weights),
]
"""`none`, `balanced`, one number per class in column order, or numbers by label name."""


def balanced_class_weights(labels: Labels, target: Targets) -> list[float]:
    """Return N / (classes · N_c) by class; soft targets count by their share.

    Raises:
        DataError: a class has no training row.
    """
    counts = class_counts(labels, target, "loss.class_weights")
    return list(counts.sum() / (labels.num_classes * counts))


def class_counts(labels: Labels, target: Targets, where: str) -> npt.NDArray[np.float64]:
    """Return the training rows by class; soft targets count by their share.

    Raises:
        DataError: a class has no training row.
    """
    observed = target[~np.isnan(target).any(axis=1)].astype(np.float64)
    counts: npt.NDArray[np.float64] = observed.sum(axis=0)
    _refuse_empty(labels, counts, "training row", where)
    return counts


def balanced_pos_weights(labels: Labels, target: TargetTable) -> list[float]:
    """Return negatives / positives by label, counted over observed targets.

    Raises:
        DataError: a label is nowhere positive, or nowhere negative, in the training rows.
    """
    positives, negatives = label_counts(target)
    _refuse_empty(labels, positives, "positive training row", "loss.pos_weight")
    _refuse_empty(labels, negatives, "negative training row", "loss.pos_weight")
    return list(negatives / positives)


def given_weights(
    labels: Labels, weights: list[float] | dict[str, float], where: str
) -> list[float]:
    """Return weights by class from a list in column order or a mapping by label name.

    Raises:
        ConfigError: the list has another length, a name is unknown, or all weights are 0.
    """
    if isinstance(weights, dict):
        for name in weights:
            if name not in labels.names:
                hint = nearest(name, labels.names)
                raise ConfigError(f"no label is called {name!r}{hint}", where=where)
        weights = [weights.get(name, 1.0) for name in labels.names]
    if len(weights) != labels.num_classes:
        raise ConfigError(
            f"{len(weights)} weights for {labels.num_classes} labels",
            where=where,
            fix=f"give one per label: {', '.join(labels.names)}",
        )
    if not np.isfinite(weights).all() or not any(weights):
        raise ConfigError("weights must be finite and not all 0", where=where)
    return weights


def _refuse_empty(labels: Labels, counts: npt.NDArray[np.float64], what: str, where: str) -> None:
    empty = [name for name, count in zip(labels.names, counts, strict=True) if count == 0]
    if empty:
        names = ", ".join(map(repr, empty))
        raise DataError(
            f"balanced weights: no {what} of {names}",
            where=where,
            fix="drop the label, split otherwise, or give the weights yourself",
        )


class Weighted(LossModule):
    """A loss with one weight per column, kept out of the model's saved state."""

    weights: Tensor | None

    def __init__(self, weights: list[float] | None, smoothing: float) -> None:
        super().__init__()
        values = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", values, persistent=False)
        self.smoothing = smoothing
