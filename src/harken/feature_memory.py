"""Features that never change are computed once.

A front-end does not learn. Where neither augmentation nor mixing nor a random crop changes a
training clip's waveform, its features are the same in every epoch, and are kept in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harken.augment import WaveformAugment
from harken.dataset import ClipDataset
from harken.loader import Loader, Order
from harken.model import Classifier
from harken.recipe import Recipe


@dataclass(frozen=True)
class FeatureMemory:
    """The features of all training clips, on the model's device.

    Attributes:
        features: float32 `(clips, bins, frames)`, zero beyond each length.
        lengths: int64 `(clips,)` in frames.
        places: int64 `(all rows,)`, each manifest row's place in the two, -1 elsewhere.
        fixed: Whether batches keep all frames, as clips of a fixed length have.
    """

    features: Tensor
    lengths: Tensor
    places: Tensor
    fixed: bool

    @classmethod
    def fill(
        cls, recipe: Recipe, model: Classifier, clips: ClipDataset, device: torch.device
    ) -> FeatureMemory | None:
        """Compute the features of training clips, in an order that any resumed run repeats.

        Args:
            recipe: Says what changes waveforms, and how much memory there is.
            model: Its front-end is already fitted.
            clips: The training clips.
            device: Where the model is.

        Returns:
            The memory, or None where features change or would not fit.
        """
        if not waveforms_stay(recipe) or any(p.requires_grad for p in model.frontend.parameters()):
            return None
        limit = recipe.train.memory_gigabytes * 1e9
        same = replace(clips, augments=(), seed=None)
        parts: list[Tensor] = []
        lengths: list[Tensor] = []
        with torch.inference_mode():
            for batch in Loader(Order(same, recipe.train.batch_size)).epoch():
                batch = batch.to(device)
                features, frames = model.features(batch.waveform, batch.lengths)
                longest = max(features.shape[2], *(part.shape[2] for part in parts), 0)
                if 4 * len(clips) * features.shape[1] * longest > limit:
                    return None
                parts.append(features)
                lengths.append(frames)
        return cls._joined(parts, lengths, clips, recipe.audio.clip_seconds is not None)

    @classmethod
    def _joined(
        cls, parts: list[Tensor], lengths: list[Tensor], clips: ClipDataset, fixed: bool
    ) -> FeatureMemory:
        longest = max(part.shape[2] for part in parts)
        padded = [torch.nn.functional.pad(p, (0, longest - p.shape[2])) for p in parts]
        device = parts[0].device
        places = torch.full((len(clips.target),), -1, dtype=torch.int64, device=device)
        places[torch.from_numpy(clips.rows).to(device)] = torch.arange(len(clips), device=device)
        # Tensors made under inference mode may not enter a graph; a clone may.
        return cls(torch.cat(padded).clone(), torch.cat(lengths).clone(), places, fixed)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(batch, bins, frames)` and lengths `(batch,)` of manifest rows."""
        places = self.places[rows]
        lengths = self.lengths[places]
        frames = self.features.shape[2] if self.fixed else int(lengths.max())
        return self.features[places, :, :frames], lengths


def waveforms_stay(recipe: Recipe) -> bool:
    """Whether a recipe leaves training waveforms as they are, epoch after epoch."""
    changes = any(isinstance(augment, WaveformAugment) for augment in recipe.augment)
    blends = recipe.mix is not None and recipe.mix.domain == "waveform"
    crops = recipe.audio.clip_seconds is not None and recipe.audio.crop == "random"
    return not (changes or blends or crops)
