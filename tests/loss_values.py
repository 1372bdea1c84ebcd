"""Small tables, batches and logits on which losses are compared with plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import Covariates, TrainingTable
from harken.labels import Labels
from harken.losses import Loss, LossModule
from harken.manifest import Manifest

CHILDREN = Labels("single", ("td", "ssd"), ("label",))
THREE = Labels("single", ("a", "b", "c"), ("label",))
MULTI = Labels("multi", ("a", "b", "c"), ("a", "b", "c"))
VALUES = Labels("regression", ("age",), ("age",))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_hot(classes: Sequence[int], num_classes: int) -> np.ndarray[Any, Any]:
    return np.eye(num_classes, dtype=np.float32)[np.asarray(classes, dtype=int)]


def table_of(
    loss: Loss,
    target: Tensor | np.ndarray[Any, Any],
    train: int | None = None,
    **columns: Sequence[object],
) -> tuple[TrainingTable, Tensor]:
    """Return the table of the first `train` rows (all), and the covariates of every row."""
    target = np.asarray(target)
    size = len(target)
    ids = [f"c{i}" for i in range(size)]
    frame = pl.DataFrame({"id": ids, "path": ids, **columns}, strict=False)
    manifest, rows = Manifest(frame, "clips.csv"), np.arange(train or size)
    known = Covariates.learn(loss.covariates(), manifest, rows)
    values = known.encode(manifest)
    table = TrainingTable(target[rows], known, values[rows], rows)
    return table, torch.from_numpy(values)


def batch_of(target: Tensor | np.ndarray[Any, Any], covariates: Tensor | None = None) -> Batch:
    target = torch.as_tensor(target)
    rows = torch.arange(len(target))
    side = torch.zeros(len(target), 0) if covariates is None else covariates
    ones = torch.ones(len(target))
    return Batch(rows, torch.zeros(len(target), 4), torch.full_like(rows, 4), target, ones, side)


def output_of(logits: Tensor, embedding: Tensor | None = None) -> Output:
    return Output(logits, logits if embedding is None else embedding)


def module_and_value(
    loss: Loss,
    labels: Labels,
    logits: Tensor,
    target: Tensor | np.ndarray[Any, Any],
    train: int | None = None,
    **columns: Sequence[object],
) -> tuple[LossModule, Tensor]:
    table, covariates = table_of(loss, target, train, **columns)
    module = loss.build(labels, table)
    return module, module(output_of(logits), batch_of(target, covariates))


def value(
    loss: Loss,
    labels: Labels,
    logits: Tensor,
    target: Tensor | np.ndarray[Any, Any],
    train: int | None = None,
    **columns: Sequence[object],
) -> Tensor:
    return module_and_value(loss, labels, logits, target, train, **columns)[1]
