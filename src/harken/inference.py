"""Running a classifier over clips without learning: evaluation mode, fp32, no gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from harken.batch import Batch, Output
from harken.errors import ConfigError
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
) -> tuple[Array, Array]:
    """Run a classifier over batches in its evaluation mode, which is restored afterwards.

    Args:
        model: The classifier.
        batches: The clips; with a memory, their waveforms are not needed.
        device: Where the model is.
        loss: Gives each clip's loss.
        memory: What is known of the clips, so that the model starts from there.

    Returns:
        Logits `(clips, classes)` and losses `(clips,)`, in the order of the batches; losses are NaN
        where no loss is given or the clip has no target.
    """
    was_training = model.training
    model.eval()
    if loss is not None:
        loss.eval()
    logits, losses = [], []
    for batch in batches:
        batch = batch.to(device)
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


def fit_frontend(model: Classifier, batches: Iterable[Batch], device: torch.device) -> None:
    """Let the front-end learn its statistics, if it has any, from training clips."""
    if model.frontend.needs_statistics():
        on_device = (batch.to(device) for batch in batches)
        model.frontend.fit((batch.waveform, batch.lengths) for batch in on_device)
