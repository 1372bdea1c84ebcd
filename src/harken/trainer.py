"""The training loop, top to bottom.

Every random draw is a function of (seed, epoch, batch or clip), so the state of a run is its
weights, its optimiser, its moving average and a handful of numbers (`Progress`). Those are saved at
each epoch's end and every few minutes; whatever happens after a save happens again, bit for bit on
CPU, when the run is resumed from it.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from harken.augment import SpectrogramAugment, apply_spectrogram_augments
from harken.batch import Batch, Output
from harken.calibrate import to_scores
from harken.checkpoint import Progress, RunFolder
from harken.ema import Ema
from harken.errors import ConfigError, HarkenError
from harken.feature_memory import FeatureMemory
from harken.inference import infer, naming, pick_device, refuse_non_finite
from harken.labels import Labels
from harken.loader import Loader
from harken.losses import LossModule
from harken.metrics import default_monitor, higher_is_better, quick_metrics
from harken.model import Classifier, Stage
from harken.optim import scale_lr
from harken.recipe import Recipe
from harken.sam import Sam
from harken.seeds import generator, seed_torch
from harken.track import Silent, Tracker


class TrainingError(HarkenError):
    """Training cannot go on."""


class StoppedError(TrainingError):
    """Training was asked to stop, by Ctrl-C or a scheduler; everything is saved."""


class Trainer:
    """Trains one classifier.

    Args:
        recipe: What to do.
        model: The classifier, its front-end already fitted.
        loss: One value per clip.
        labels: Task and label names.
        train_loader: Training clips, augmented.
        valid_loader: Validation clips, or None.
        run: Where weights, states and metrics go.
        ids: Clip ids by manifest row, to name clips in errors.
        tracker: Who is told.
        memory: What never changes about the training clips.
        valid_memory: What never changes about the validation clips.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Classifier,
        loss: LossModule,
        labels: Labels,
        train_loader: Loader,
        valid_loader: Loader | None,
        run: RunFolder,
        ids: Sequence[str],
        tracker: Tracker | None = None,
        memory: FeatureMemory | None = None,
        valid_memory: FeatureMemory | None = None,
    ) -> None:
        self.recipe, self.labels, self.run, self.ids = recipe, labels, run, ids
        self.train_loader, self.valid_loader = train_loader, valid_loader
        self.tracker = tracker or Silent()
        self.memory, self.valid_memory = memory, valid_memory
        self.device = pick_device(recipe.train.device)
        self.model, self.loss = model.to(self.device), loss.to(self.device)
        self.optimizer = recipe.optimizer.build(self.model)
        self.sam = recipe.optimizer if isinstance(recipe.optimizer, Sam) else None
        self.ema = Ema(self.model, recipe.train.ema) if recipe.train.ema else None
        self.progress = Progress()
        self.augments = [a for a in recipe.augment if isinstance(a, SpectrogramAugment)]
        self.monitor, self.more_is_better = monitored(recipe, labels)
        if valid_loader is None and (recipe.train.keep == "best" or recipe.train.patience):
            raise ConfigError(
                "choosing the best epoch needs validation clips and this split has none",
                where="data.split.valid",
                fix="data.split.valid=0.15, or train.keep=last without train.patience",
            )

    # --- the loop ---

    def fit(self, *, resume: bool = False) -> None:
        """Train until the epochs are over or patience is lost.

        Raises:
            TrainingError: the loss is not finite.
            StoppedError: the process was asked to stop.
        """
        if resume and self.run.has_state:
            self._restore()
        batches = self.train_loader.num_batches()
        done = self.progress.epoch * batches + self.progress.batch
        name = self.run.path.name
        self.tracker.begin(name, self.recipe.train.epochs * batches, done)
        try:
            with _asked_to_stop() as stop:
                while not self.progress.done:
                    self._train_epoch(stop)
                    self._finish_epoch()
                if stop.is_set():
                    self._refuse_to_go_on()
        finally:
            self.tracker.end()

    def _train_epoch(self, stop: threading.Event) -> None:
        progress, size = self.progress, self.recipe.train.accumulate
        rows = self.train_loader.order.batches(progress.epoch)
        total_steps = self.recipe.train.epochs * -(-len(rows) // size)
        began, waited, saved = time.monotonic(), self.train_loader.wait_seconds, time.monotonic()
        self.model.train()
        self.loss.train()
        self.optimizer.zero_grad()
        passed: list[tuple[int, Batch]] = []
        for batch in self.train_loader.epoch(progress.epoch, start=progress.batch):
            first = progress.batch // size * size
            group = np.concatenate(rows[first : first + size])
            weight = float(self.train_loader.dataset.weight[group].sum())
            self._backward(batch, progress.batch, weight)
            if self.sam is not None:
                passed.append((progress.batch, batch))
            progress.batch += 1
            self.tracker.advance()
            if progress.batch % size and progress.batch < len(rows):
                continue
            if self.sam is not None:
                with self.sam.uphill(self.model, self.optimizer):
                    for number, again in passed:
                        self._backward(again, number, weight, again=True)
                passed.clear()
            self._step(total_steps)
            if (
                stop.is_set()
                or time.monotonic() - saved > 60 * self.recipe.train.checkpoint_minutes
            ):
                self._clock(began, waited)
                began, waited = time.monotonic(), self.train_loader.wait_seconds
                saved = began
                self._save()
            if stop.is_set():
                self._refuse_to_go_on()
        self._clock(began, waited)

    def _backward(
        self, batch: Batch, number: int, group_weight: float, *, again: bool = False
    ) -> None:
        """Add one batch's share of the gradient of the weighted mean loss over its group.

        Args:
            batch: The clips.
            number: The batch's place in the epoch, from which all draws follow.
            group_weight: The weight of all clips of the step.
            again: Whether this is a second pass, which is not to be counted.
        """
        seed_torch(self.recipe.seed, "step", self.progress.epoch, number)
        batch = batch.to(self.device)
        with naming(batch, self.ids):
            output, seen = self._look(batch, number)
        per_clip: Tensor = self.loss(output, seen)
        total = (per_clip * batch.weight).sum()
        if not torch.isfinite(total):
            self._refuse_non_finite(batch, per_clip)
        # Clips may all weigh 0, and then nothing is learned from them.
        (total / (group_weight or 1.0)).backward()  # type: ignore[no-untyped-call]
        if again:
            return
        self.loss.observe(output, seen)
        self.progress.loss_sum += float(total.detach())
        self.progress.loss_weight += float(batch.weight.sum())

    def compute_loss(self, batch: Batch) -> Tensor:
        """Return the training loss per clip `(batch,)`: mixed, augmented, under autocast."""
        per_clip: Tensor = self.loss(*self._look(batch, self.progress.batch))
        return per_clip

    def _look(self, batch: Batch, number: int) -> tuple[Output, Batch]:
        """Return what the model makes of a batch, and the batch with the targets to go with it."""
        epoch, seed, mix = self.progress.epoch, self.recipe.seed, self.recipe.mix
        rng = generator(seed, "mix", epoch, number)
        waveform, lengths, target = batch.waveform, batch.lengths, batch.target
        if mix is not None and mix.domain == "waveform":
            waveform, lengths, target = mix.apply(waveform, lengths, target, rng)
        if self.memory is None:
            stage: Stage = "features"
            features, lengths = self.model.features(waveform, lengths)
        else:
            stage = self.memory.stage
            features, lengths = self.memory.batch(batch.rows)
        if mix is not None and mix.domain == "features":
            features, lengths, target = mix.apply(features, lengths, target, rng)
        if self.augments:
            rngs = [generator(seed, "spectrogram", epoch, int(row)) for row in batch.rows]
            features = apply_spectrogram_augments(self.augments, features, lengths, rngs)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.recipe.train.precision == "bf16"
        ):
            output = self.model.classify(features, lengths, batch.covariates, stage)
        return output, replace(batch, target=target)

    def _step(self, total_steps: int) -> None:
        progress, train = self.progress, self.recipe.train
        if train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_norm)
        scale_lr(self.optimizer, self.recipe.schedule.lr_factor(progress.step, total_steps))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss.end_step()
        if self.ema is not None:
            self.ema.update(self.model, progress.step)
        progress.step += 1

    def _finish_epoch(self) -> None:
        progress, noted = self.progress, self.loss.end_epoch()
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": progress.loss_sum / max(progress.loss_weight, 1e-12),
            **noted,
            **self._validate(),
            "seconds": round(progress.seconds, 3),
            "data_seconds": round(progress.wait_seconds, 3),
        }
        progress.history.append(row)
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.loss_sum = progress.loss_weight = progress.seconds = progress.wait_seconds = 0.0
        improved = self._note_improvement(row)
        patience = self.recipe.train.patience
        progress.done = progress.epoch >= self.recipe.train.epochs or (
            patience is not None and progress.stale >= patience
        )
        # Weights come first: a kill between the two writes repeats the epoch and writes them again.
        if self._worth_keeping(improved):
            self.run.save_weights(self._kept())
        self.run.write_history(progress.history)
        self._save()
        self.tracker.epoch(row)

    def _worth_keeping(self, improved: bool) -> bool:
        if self.recipe.train.keep == "last":
            return self.progress.done
        # A metric that was never defined chooses no epoch, and then the last one has to do.
        return improved or (self.progress.done and self.progress.best is None)

    # --- validation ---

    def _validate(self) -> dict[str, float | None]:
        if self.valid_loader is None:
            return {}
        if self.ema is not None:
            with self.ema.applied(self.model):
                return self._measure(self.valid_loader)
        return self._measure(self.valid_loader)

    def _measure(self, loader: Loader) -> dict[str, float | None]:
        batches = loader.epoch()
        logits, losses = infer(
            self.model, batches, self.device, self.loss, self.valid_memory, self.ids
        )
        target = loader.dataset.target[loader.dataset.rows]
        refuse_non_finite(logits, self.ids, loader.dataset.rows)
        measured = quick_metrics(self.labels, target, to_scores(self.labels, logits))
        known = losses[np.isfinite(losses)]
        loss = float(known.mean()) if len(known) else None
        return {"valid_loss": loss, **{f"valid_{name}": v for name, v in measured.items()}}

    def _note_improvement(self, row: Mapping[str, object]) -> bool:
        """Compare the epoch with the best so far; an undefined value never improves."""
        progress = self.progress
        if self.valid_loader is None:
            return False
        value = row.get(f"valid_{self.monitor}")
        sign = 1.0 if self.more_is_better else -1.0
        better = isinstance(value, float) and (
            progress.best is None or sign * (value - progress.best) > self.recipe.train.min_delta
        )
        if better and isinstance(value, float):
            progress.best, progress.best_epoch, progress.stale = value, progress.epoch, 0
        else:
            progress.stale += 1
        return better

    # --- states ---

    def _kept(self) -> Mapping[str, Tensor]:
        return self.model.state_dict() if self.ema is None else self.ema.state_dict()

    def _save(self) -> None:
        average = None if self.ema is None else self.ema.state_dict()
        self.run.save_state(self.progress, self.model, self.optimizer, average, self.loss)

    def _restore(self) -> None:
        self.progress, average = self.run.load_state(self.model, self.optimizer, self.loss)
        if self.ema is not None:
            self.ema.load_state_dict(average)

    def _refuse_to_go_on(self) -> NoReturn:
        raise StoppedError(
            "stopped as asked; everything is saved",
            where=str(self.run.path),
            fix="continue with --resume",
        )

    def _clock(self, began: float, waited: float) -> None:
        self.progress.seconds += time.monotonic() - began
        self.progress.wait_seconds += self.train_loader.wait_seconds - waited

    def _refuse_non_finite(self, batch: Batch, per_clip: Tensor) -> None:
        bad = batch.rows[~torch.isfinite(per_clip)].tolist() or batch.rows.tolist()
        broken = self._without_features(batch)
        names = ", ".join(self.ids[row] for row in (broken or bad)[:5])
        if broken:
            raise TrainingError(
                f"the features of {len(broken)} clips are not finite ({names})",
                where=str(self.run.path),
                fix="look at these recordings, and leave them out or change frontend",
            )
        raise TrainingError(
            f"the loss is not finite in epoch {self.progress.epoch + 1} (clips {names})",
            where=str(self.run.path),
            fix="lower optimizer.lr, set train.clip_norm=1, or look at these clips",
        )

    @torch.inference_mode()
    def _without_features(self, batch: Batch) -> list[int]:
        """Return the rows of a batch whose features are no numbers, before anything is learned."""
        if self.memory is None:
            features, _ = self.model.features(batch.waveform, batch.lengths)
        else:
            features, _ = self.memory.batch(batch.rows)
        rows: list[int] = batch.rows[~torch.isfinite(features).flatten(1).all(dim=1)].tolist()
        return rows


def monitored(recipe: Recipe, labels: Labels) -> tuple[str, bool]:
    """Return the metric that chooses epochs and whether more of it is better."""
    name = recipe.train.monitor or default_monitor(labels.task)
    more_is_better = higher_is_better(name, labels)
    return name, more_is_better if recipe.train.mode is None else recipe.train.mode == "max"


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM (a scheduler's notice) into a flag that the loop reads."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        stop.set()
        # Asked a second time, the process ends at once.
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
