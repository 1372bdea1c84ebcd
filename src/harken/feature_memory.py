"""What never changes about a clip is computed once.

A front-end does not learn, and neither does a frozen encoder. Where neither augmentation nor mixing
nor a random crop changes a clip before it reaches them, what they make of it is the same in every
epoch, and is kept in memory: features, the states of the frozen part, or pooled states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harken.augment import SpectrogramAugment, WaveformAugment
from harken.batch import Batch, Output
from harken.dataset import ClipDataset
from harken.inference import naming
from harken.loader import Loader, Order
from harken.model import Classifier, Stage
from harken.recipe import Recipe


@dataclass(frozen=True)
class FeatureMemory:
    """What a stage made of all clips of a split, on the model's device.

    Attributes:
        stage: The stage.
        features: float32 `(clips, channels, frames)`, or tokens int64 `(clips, frames)`; zero
            beyond each length.
        lengths: int64 `(clips,)` in frames.
        places: int64 `(all rows,)`, each manifest row's place in the two, -1 elsewhere.
        fixed: Whether batches keep all frames, as clips of a fixed length have.
    """

    stage: Stage
    features: Tensor
    lengths: Tensor
    places: Tensor
    fixed: bool

    @classmethod
    def fill(
        cls,
        recipe: Recipe,
        model: Classifier,
        clips: ClipDataset,
        device: torch.device,
        *,
        training: bool = True,
        used: int = 0,
    ) -> FeatureMemory | None:
        """Run all clips up to the last stage that nothing changes, in a repeatable order.

        Args:
            recipe: Says what changes clips, and how much memory there is.
            model: Its front-end is already fitted.
            clips: The clips of a split.
            device: Where the model is.
            training: Whether the recipe's augmentation and mixing apply to these clips.
            used: Bytes of the memory that are taken.

        Returns:
            The memory, or None where clips change or would not fit.
        """
        stage = last_stage(recipe, model) if training else model.still_stage
        if stage is None or any(p.requires_grad for p in model.frontend.parameters()):
            return None
        if stage == "features" and model.frontend.spec.kind == "waveform":
            return None  # Decoded audio is on disk already, and there is nothing else to spare.
        limit = recipe.train.memory_gigabytes * 1e9 - used
        same = replace(clips, augments=(), seed=None)
        parts: list[Tensor] = []
        lengths: list[Tensor] = []
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            for batch in Loader(Order(same, recipe.train.batch_size)).epoch():
                batch = batch.to(device)
                with naming(batch, clips.names):
                    start = model.features(batch.waveform, batch.lengths)
                    features, frames = model.advance(*start, batch.covariates, stage)
                longest = max(features.shape[-1], *(part.shape[-1] for part in parts), 0)
                if _bytes_per_frame(features) * len(clips) * longest > limit:
                    model.train(was_training)
                    return None
                parts.append(features.float() if features.is_floating_point() else features)
                lengths.append(frames)
        model.train(was_training)
        return cls._joined(stage, parts, lengths, clips, recipe.audio.clip_seconds is not None)

    @classmethod
    def _joined(
        cls,
        stage: Stage,
        parts: list[Tensor],
        lengths: list[Tensor],
        clips: ClipDataset,
        fixed: bool,
    ) -> FeatureMemory:
        longest = max(part.shape[-1] for part in parts)
        padded = [torch.nn.functional.pad(p, (0, longest - p.shape[-1])) for p in parts]
        device = parts[0].device
        places = torch.full((len(clips.target),), -1, dtype=torch.int64, device=device)
        places[torch.from_numpy(clips.rows).to(device)] = torch.arange(len(clips), device=device)
        # Tensors made under inference mode may not enter a graph; a clone may.
        known = torch.cat(padded).clone(), torch.cat(lengths).clone()
        return cls(stage, *known, places, fixed)

    @property
    def nbytes(self) -> int:
        """Bytes that are taken."""
        return self.features.nbytes

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of manifest rows, `(batch, …, frames)`, and lengths `(batch,)`."""
        places = self.places[rows]
        lengths = self.lengths[places]
        frames = self.features.shape[-1] if self.fixed else int(lengths.max())
        return self.features[..., :frames][places], lengths

    def classify(self, model: Classifier, batch: Batch) -> Output:
        """Return the logits of a batch's clips, from where the memory ends."""
        return model.classify(*self.batch(batch.rows), batch.covariates, self.stage)


def last_stage(recipe: Recipe, model: Classifier) -> Stage | None:
    """Return the last stage whose results for training clips stay; None where none does."""
    if not waveforms_stay(recipe):
        return None
    blends = recipe.mix is not None and recipe.mix.domain == "features"
    masks = any(isinstance(augment, SpectrogramAugment) for augment in recipe.augment)
    return "features" if blends or masks else model.still_stage


def waveforms_stay(recipe: Recipe) -> bool:
    """Whether a recipe leaves training waveforms as they are, epoch after epoch."""
    changes = any(isinstance(augment, WaveformAugment) for augment in recipe.augment)
    blends = recipe.mix is not None and recipe.mix.domain == "waveform"
    crops = recipe.audio.clip_seconds is not None and recipe.audio.crop == "random"
    return not (changes or blends or crops)


def _bytes_per_frame(features: Tensor) -> int:
    """Return what a frame of a clip takes: floats are kept as float32, tokens as they are."""
    size = 4 if features.is_floating_point() else features.element_size()
    return size * (features.shape[1] if features.ndim == 3 else 1)
