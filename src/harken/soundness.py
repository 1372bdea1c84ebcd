"""Whether what a recipe builds does what it says, tried on real clips.

Silent mistakes are found by what they fail to change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harken.audit import Finding, Status
from harken.augment import Augment, SpectrogramAugment, WaveformAugment
from harken.batch import Batch
from harken.dataset import ClipDataset, Rows
from harken.errors import HarkenError
from harken.inference import infer
from harken.model import Classifier
from harken.recipe import Recipe
from harken.seeds import generator, seed_torch
from harken.trainer import Trainer

STEPS = 6
"""Optimiser steps within which every weight must have had a gradient; some start behind zeros."""
SMALL = 1e-5
"""Changes below this share of the largest logit are rounding."""
TOLERANCE = 1e-4

Wave = npt.NDArray[np.float32]


# --- front-end and augmentation ---


def audit_frontend(model: Classifier, batch: Batch) -> Finding:
    """Look at the features of some clips."""
    with torch.inference_mode():
        features, lengths = model.features(batch.waveform, batch.lengths)
    if not features.is_floating_point():
        return Finding("frontend", "ok", f"tokens up to {int(features.max())}")
    bad = ~torch.isfinite(features)
    if bad.any():
        text = f"{100 * bad.float().mean():.1f} % of the features are not numbers"
        return Finding("frontend", "problem", text, "look at frontend.normalize and its constants")
    own = [f[..., : int(n)] for f, n in zip(features, lengths, strict=True)]
    spread = max(float(each.std()) for each in own if each.numel() > 1)
    if spread < 1e-6 * (1 + float(features.abs().max())):
        text = "the features are the same everywhere"
        return Finding("frontend", "problem", text, "look at frontend.normalize and at the clips")
    text = f"features between {float(features.min()):.2f} and {float(features.max()):.2f}"
    if max(float(features.abs().max()), spread) > 1e3:
        return Finding("frontend", "warning", f"{text}: networks want some units", "normalise them")
    return Finding("frontend", "ok", f"{text}, all finite")


def audit_augments(
    recipe: Recipe, model: Classifier, clips: ClipDataset, rows: Rows
) -> list[Finding]:
    """Apply every augmentation to real clips, always, and see what it changes."""
    waves = [clips.cache.read(int(row)) for row in rows]
    found = []
    for number, augment in enumerate(recipe.augment):
        name = f"augment.{number} ({augment.kind})"  # type: ignore[attr-defined]
        if augment.p == 0:
            found.append(_augment(name, "warning", "never happens: p is 0", "leave it out"))
            continue
        try:
            found.append(_tried(name, augment, recipe, model, clips, rows, waves))
        except HarkenError as error:
            found.append(_augment(name, "problem", str(error)))
        except Exception as error:  # a plug-in may raise anything
            text = f"fails: {type(error).__name__}: {error}".split("\n")[0]
            found.append(_augment(name, "problem", text, "mend the plug-in"))
    return found


def _augment(name: str, status: Status, text: str, fix: str | None = None) -> Finding:
    return Finding("augmentation", status, f"{name} {text}", fix)


def _tried(
    name: str,
    augment: Augment,
    recipe: Recipe,
    model: Classifier,
    clips: ClipDataset,
    rows: Rows,
    waves: Sequence[Wave],
) -> Finding:
    always = augment.model_copy(update={"p": 1.0})
    always.check(recipe.audio.sample_rate)
    if isinstance(always, WaveformAugment):
        rate = recipe.audio.sample_rate
        before = [wave.copy() for wave in waves]
        after = [
            np.asarray(always.apply(wave, rate, generator(recipe.seed, "check", name, i)))
            for i, wave in enumerate(waves)
        ]
        if any(not np.array_equal(b, w) for b, w in zip(before, waves, strict=True)):
            return _augment(name, "problem", "changes its input in place", "copy it first")
    elif isinstance(always, SpectrogramAugment):
        before, after = _spectrograms(recipe, model, clips, rows, always, name)
    else:
        return _augment(name, "ok", "is of a kind that is not tried")
    return _compared(name, before, after)


def _spectrograms(
    recipe: Recipe,
    model: Classifier,
    clips: ClipDataset,
    rows: Rows,
    augment: SpectrogramAugment,
    name: str,
) -> tuple[list[Wave], list[Wave]]:
    batch = clips.batch(rows, 0).to(next(model.parameters()).device)
    with torch.inference_mode():
        features, lengths = model.features(batch.waveform, batch.lengths)
        rngs = [generator(recipe.seed, "check", name, i) for i in range(len(rows))]
        changed = augment.apply(features.clone(), lengths, rngs)
    return list(features.cpu().numpy()), list(changed.cpu().numpy())


def _compared(name: str, before: Sequence[Wave], after: Sequence[Wave]) -> Finding:
    if any(a.ndim != b.ndim or not a.size for a, b in zip(after, before, strict=True)):
        return _augment(name, "problem", "returns another shape", "return one row of samples")
    if not all(np.isfinite(a).all() for a in after):
        share = np.mean([not np.isfinite(a).all() for a in after])
        text = f"makes {100 * share:.0f} % of the clips hold values that are no numbers"
        return _augment(name, "problem", text, "lower its settings, or mend the plug-in")
    pairs = list(zip(before, after, strict=True))
    changed = sum(a.shape != b.shape or not np.array_equal(a, b) for b, a in pairs)
    if not changed:
        return _augment(name, "problem", "changes nothing, even with p=1", "it does not work here")
    silenced = sum(bool(np.ptp(b) > 0 and np.ptp(a) == 0) for b, a in pairs)
    if silenced > len(pairs) / 2:
        text = f"leaves nothing of {silenced} of {len(pairs)} clips"
        return _augment(name, "problem", text, "lower its settings")
    return _augment(name, "ok", f"changes {changed} of {len(pairs)} clips when applied")


# --- learning ---


def audit_gradients(trainer: Trainer, batches: Sequence[Batch]) -> list[Finding]:
    """Take a few steps of training, and see which weights never get a gradient."""
    model = trainer.model
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not learning:
        text = "every weight is frozen"
        return [Finding("gradients", "problem", text, "leave something to learn")]
    moved = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    if still := [name for name, p in learning.items() if id(p) not in moved]:
        text = f"the optimiser moves none of {', '.join(still[:4])}"
        return [Finding("gradients", "problem", text, "mend the optimiser's groups")]
    # Any optimiser will do to leave zeros behind; the recipe's may need more than one pass a step.
    optimizer = torch.optim.AdamW(learning.values(), lr=1e-3)
    dead = set(learning)
    model.train()
    for step in range(STEPS):
        seed_torch(trainer.recipe.seed, "check", step)
        batch = batches[step % len(batches)].to(trainer.device)
        weight = float(batch.weight.sum()) or 1.0
        total = (trainer.compute_loss(batch) * batch.weight).sum() / weight
        if not torch.isfinite(total):
            text = "the loss is not finite on the first clips"
            return [Finding("gradients", "problem", text, "look at the targets and the front-end")]
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        dead -= {n for n in dead if (g := learning[n].grad) is not None and bool(g.any())}
        optimizer.step()
        if not dead:
            break
    return _on_dead(model, dead, learning)


def _on_dead(model: Classifier, dead: set[str], learning: Mapping[str, Tensor]) -> list[Finding]:
    counts = (model.num_parameters(), model.num_parameters(trainable=False))
    if not dead:
        text = f"{counts[0]:,} of {counts[1]:,} weights learn, and all get gradients"
        return [Finding("gradients", "ok", text)]
    named = sorted(dead)
    shown = ", ".join(named[:4]) + (" …" if len(named) > 4 else "")
    size = sum(learning[name].numel() for name in named)
    text = f"{size:,} of {counts[0]:,} weights got no gradient in {STEPS} steps: {shown}"
    grave = any(learning[name].ndim > 1 for name in named)
    fix = "they never learn: nothing of the loss depends on them"
    return [Finding("gradients", "problem" if grave else "warning", text, fix)]


# --- outputs ---


def audit_outputs(model: Classifier, batch: Batch, seed: int) -> list[Finding]:
    """See that logits depend on the sound, not on the rest of the batch, and not on chance."""
    logits = _logits(model, batch)
    if not np.isfinite(logits).all():
        text = f"{100 * np.mean(~np.isfinite(logits)):.0f} % of the logits are not numbers"
        return [Finding("outputs", "problem", text, "lower optimizer.lr; look at the front-end")]
    scale = max(float(np.abs(logits).max()), 1e-3)
    return [
        _depends(model, batch, logits, scale, seed),
        _invariant(model, batch, logits, scale),
        _repeats(model, batch, logits),
    ]


def _logits(model: Classifier, batch: Batch) -> npt.NDArray[np.float32]:
    return infer(model, [batch], next(model.parameters()).device)[0]


def _depends(
    model: Classifier, batch: Batch, logits: npt.NDArray[np.float32], scale: float, seed: int
) -> Finding:
    other = replace(batch, waveform=batch.waveform.roll(1, 0), lengths=batch.lengths.roll(1, 0))
    moved = np.abs(_logits(model, other) - logits).max(axis=0)
    deaf = [n for n, m in zip(model.labels.names, moved, strict=True) if m < SMALL * scale]
    if deaf and len(batch) > 1:
        text = f"the scores of {', '.join(deaf)} stay the same when the clip is another one"
        fix = "the audio is ignored: look at backbone, pooling and heads"
        return Finding("input", "problem", text, fix)
    variants = {
        "silence": torch.zeros_like(batch.waveform),
        "its own samples in random order": _shuffled(batch, seed),
    }
    same = [
        what
        for what, wave in variants.items()
        if np.abs(_logits(model, replace(batch, waveform=wave)) - logits).max() < SMALL * scale
    ]
    if same:
        text = f"a clip and {' or '.join(same)} get the same scores"
        return Finding("input", "warning", text, "look at the front-end")
    return Finding("input", "ok", "scores change with the clip, with silence and with order")


def _shuffled(batch: Batch, seed: int) -> Tensor:
    wave = batch.waveform.clone()
    rng = generator(seed, "check", "shuffle")
    for row, length in zip(wave, batch.lengths.tolist(), strict=True):
        order = torch.from_numpy(rng.permutation(length)).to(wave.device)
        row[:length] = row[:length][order]
    return wave


def _invariant(
    model: Classifier, batch: Batch, logits: npt.NDArray[np.float32], scale: float
) -> Finding:
    alone = np.concatenate([_logits(model, _one(batch, i)) for i in range(min(len(batch), 6))])
    apart = float(np.abs(alone - logits[: len(alone)]).max()) / scale
    if apart > TOLERANCE:
        text = f"a clip's scores depend on its batch (logits differ by {100 * apart:.2g} %)"
        fix = "padding or other clips leak in: masks are not applied"
        return Finding("batch", "problem", text, fix)
    return Finding("batch", "ok", "a clip has the same scores alone and in a batch")


def _one(batch: Batch, row: int) -> Batch:
    """Return one clip of a batch without the padding that the batch gave it."""
    length = int(batch.lengths[row])
    parts = {name: value[row : row + 1] for name, value in vars(batch).items()}
    return Batch(**parts | {"waveform": parts["waveform"][:, :length]})


def _repeats(model: Classifier, batch: Batch, logits: npt.NDArray[np.float32]) -> Finding:
    apart = float(np.abs(_logits(model, batch) - logits).max())
    if apart > 1e-6 * max(float(np.abs(logits).max()), 1.0):
        text = f"two passes over the same clips differ by {apart:.1e}"
        fix = "something draws random numbers in evaluation, such as dropout that is always on"
        return Finding("repeatable", "problem", text, fix)
    return Finding("repeatable", "ok", "evaluation gives the same scores twice")
