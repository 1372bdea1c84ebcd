"""Running a classifier over clips without learning: evaluation mode, fp32, no gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from harken.batch import Batch, Names, Output
from harken.errors import ConfigError, DataError
from harken.frontends import BadClipsError, FrontendModule
from harken.losses import LossModule
from harken.model import Classifier

Array = npt.NDArray[np.float32]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def pick_device(name: DeviceName) -> torch.device:
    """Return the asked device, or the fastest there is.

    Raises:
        ConfigError: this machine has no such device.
    """
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(n for n in ("cuda", "mps", "cpu") if has[n]))
    if not has[name]:
        raise ConfigError(
            f"this machine has no {name} device", where="train.device", fix="train.device=auto"
        )
    return torch.device(name)


class Memory(Protocol):
    """What was computed of clips already."""

    def classify(self, model: Classifier, batch: Batch, /) -> Output:
        """Return the logits of a batch's clips."""


@torch.inference_mode()
def infer(
    model: Classifier,
    batches: Iterable[Batch],
    device: torch.device,
    loss: LossModule | None = None,
    memory: Memory | None = None,
    names: Names | None = None,
) -> tuple[Array, Array]:
    """Run a classifier over batches in its evaluation mode, which is restored afterwards.

    Args:
        model: The classifier.
        batches: The clips; with a memory, their waveforms are not needed.
        device: Where the model is.
        loss: Gives each clip's loss.
        memory: What is known of the clips, so that the model starts from there.
        names: The clips' names by row, for errors.

    Returns:
        Logits `(clips, classes)` and losses `(clips,)`, in the order of the batches; losses are NaN
        where no loss is given or the clip has no target.

    Raises:
        DataError: the network cannot read a clip.
    """
    was_training = model.training
    model.eval()
    if loss is not None:
        loss.eval()
    logits, losses = [], []
    for batch in batches:
        batch = batch.to(device)
        with naming(batch, names):
            if memory is None:
                output = model(batch.waveform, batch.lengths, batch.covariates)
            else:
                output = memory.classify(model, batch)
        logits.append(output.logits.float().cpu().numpy())
        missing = batch.target.isnan().all(dim=1)
        value = torch.full_like(batch.weight, torch.nan)
        if loss is not None:
            value = torch.where(missing, value, loss(output, batch).float())
        losses.append(value.cpu().numpy())
    model.train(was_training)
    if loss is not None:
        loss.train(was_training)
    return np.concatenate(logits), np.concatenate(losses)


def refuse_non_finite(
    scores: npt.NDArray[np.floating[Any]], ids: Sequence[str], rows: npt.NDArray[np.int64]
) -> None:
    """Refuse scores that are no numbers, and name the clips.

    Args:
        scores: `(clips, classes)`.
        ids: Names by row.
        rows: Each clip's row.

    Raises:
        DataError: some are not finite.
    """
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if not len(bad):
        return
    names = ", ".join(ids[int(row)] for row in rows[bad[:5]])
    raise DataError(
        f"the scores of {len(bad)} of {len(rows)} clips are not finite ({names})",
        fix="look at these recordings; if all clips are concerned, lower optimizer.lr",
    )


@contextmanager
def naming(batch: Batch, names: Names | None) -> Iterator[None]:
    """Put names into what a part of the network says of a batch's clips.

    Args:
        batch: The clips.
        names: Their names by row; with None, errors stay as they are.
    """
    try:
        yield
    except BadClipsError as error:
        if names is None:
            raise
        raise error.named([names[row] for row in batch.rows.tolist()]) from error


def fit_frontend(
    frontend: FrontendModule, batches: Iterable[Batch], device: torch.device, names: Names
) -> None:
    """Let a front-end learn its statistics, if it has any, from training clips.

    Args:
        frontend: What learns.
        batches: The clips.
        device: Where the front-end is.
        names: The clips' names by row, for errors.

    Raises:
        DataError: nothing can be learned from these clips.
    """
    if not frontend.needs_statistics():
        return
    drawn: list[Batch] = []

    def moved() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in batches:
            drawn[:] = [batch]
            yield batch.waveform.to(device), batch.lengths.to(device)

    try:
        frontend.fit(moved())
    except BadClipsError as error:
        raise error.named([names[row] for row in drawn[0].rows.tolist()]) from error
