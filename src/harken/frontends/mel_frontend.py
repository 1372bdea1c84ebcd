"""What `log_mel` and `kaldi_fbank` build: mel energies, a logarithm, a normalisation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from harken.frontends.framing import frame_mask
from harken.frontends.frontend import FeatureSpec, FrontendModule
from harken.frontends.normalize import NormalizeModule
from harken.frontends.sharing import cut, share_out
from harken.frontends.spectrum import MelEnergy, is_plain


@dataclass(frozen=True)
class Logarithm:
    """How energies become levels.

    Attributes:
        unit: `ln`, `log10`, or `db` = 10 log10 of a power, 20 log10 of a magnitude.
        power: 2 or 1; only `db` asks.
        floor: Smallest energy, so that silence is not minus infinity.
        floor_mode: `clamp` raises energies to the floor, `add` adds it to all.
        dynamic_range: Levels this far below a clip's loudest are raised; None keeps all.
    """

    unit: Literal["ln", "log10", "db"]
    power: Literal[1, 2]
    floor: float
    floor_mode: Literal["clamp", "add"]
    dynamic_range: float | None = None

    def __call__(self, energies: Tensor, lengths: Tensor, *, in_place: bool = False) -> Tensor:
        """Return levels `(batch, bins, frames)`, zero beyond each length.

        With `in_place` they take the place of the energies.
        """
        out = energies if in_place else None
        if self.floor_mode == "add":
            levels = torch.add(energies, self.floor, out=out)
        else:
            levels = torch.clamp(energies, min=self.floor, out=out)
        levels = (torch.log if self.unit == "ln" else torch.log10)(levels, out=out)
        if self.unit == "db":
            levels = torch.mul(levels, 20.0 if self.power == 1 else 10.0, out=out)
        outside = ~frame_mask(lengths, energies.shape[2])
        if self.dynamic_range is not None:
            loudest = levels.masked_fill(outside, -torch.inf).amax((1, 2), keepdim=True)
            levels = torch.maximum(levels, loudest - self.dynamic_range, out=out)
        return (
            levels.masked_fill(outside, 0.0) if out is None else levels.masked_fill_(outside, 0.0)
        )


class MelFrontend(FrontendModule):
    """Waveforms to normalised mel levels."""

    def __init__(
        self,
        energy: MelEnergy,
        logarithm: Logarithm,
        normalize: NormalizeModule,
        sample_rate: int,
        max_samples: int | None,
    ) -> None:
        super().__init__()
        self.energy, self.logarithm, self.normalize = energy, logarithm, normalize
        framing = energy.framing
        self.spec = FeatureSpec(
            kind="spectrogram",
            dim=len(energy.filters),
            rate=sample_rate / framing.hop_length,
            max_frames=None if max_samples is None else framing.num_frames(max_samples),
        )

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turn waveforms `(batch, samples)` into features `(batch, bins, frames)`."""
        features, counts = self.levels(waveform, lengths)
        return self.normalize(features, counts), counts

    def levels(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features before normalisation, and their lengths."""
        framing, samples = self.energy.framing, waveform.shape[1]
        counts = framing.frame_lengths(lengths)
        if is_plain(waveform):
            with _full_precision(waveform.device.type):
                return self.logarithm(self.energy(waveform, lengths), counts), counts
        levels = waveform.new_empty(len(waveform), self.spec.dim, framing.num_frames(samples))

        def work(clips: slice) -> None:
            with _full_precision("cpu"):
                energies = self.energy(waveform[clips], lengths[clips], out=levels[clips])
                self.logarithm(energies, counts[clips], in_place=True)

        share_out(work, cut(len(waveform), self.energy.clips_per_block(samples)))
        return levels, counts

    def needs_statistics(self) -> bool:
        """Whether the normalisation still has to learn its mean and deviation."""
        return self.normalize.needs_statistics()

    def fit(self, batches: object) -> None:
        """Learn the normalisation from `(waveform, lengths)` of training clips only.

        Raises:
            DataError: there are no clips, or their features are constant or not finite.
        """
        clips = cast("Iterable[tuple[Tensor, Tensor]]", batches)
        device = self.energy.window.device
        with torch.no_grad():
            self.normalize.learn(self.levels(w.to(device), n.to(device)) for w, n in clips)


def _full_precision(device: str) -> contextlib.AbstractContextManager[object]:
    """Keep autocast away: filters in bfloat16 shift quiet bins by up to two nepers."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
