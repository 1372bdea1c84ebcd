"""What flows between the loader, the model and the losses."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor


class Names(Protocol):
    """What errors call clips: a list, or a column of a table."""

    def __getitem__(self, row: int, /) -> str:
        """Return the name of the clip of a manifest row."""


@dataclass(frozen=True)
class Batch:
    """Clips on their way into a model.

    Attributes:
        rows: int64 `(batch,)`, the clips' row numbers in the manifest.
        waveform: float32 `(batch, samples)`, zero beyond each clip's length.
        lengths: int64 `(batch,)`, true samples of each clip.
        target: float32 `(batch, classes)`: one-hot or soft for single-label tasks, 0/1 with NaN for
            missing in multi-label tasks, values with NaN for missing in regression.
        weight: float32 `(batch,)`, each clip's weight in the loss.
        covariates: float32 `(batch, columns)`, side information (see `harken.covariates`).
    """

    rows: Tensor
    waveform: Tensor
    lengths: Tensor
    target: Tensor
    weight: Tensor
    covariates: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Output:
    """What a classifier returns.

    Attributes:
        logits: float32 `(batch, classes)`.
        embedding: float32 `(batch, dim)`, the pooled hidden states that the heads read.
    """

    logits: Tensor
    embedding: Tensor
