"""Parts with one fault each, registered as plug-ins are: what `harken check` must find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from harken.augment import SpectrogramAugment, WaveformAugment
from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.frontends.frontend import FeatureSpec
from harken.optim import Optimizer

Wave = Any
WaveFault = Literal["nothing", "in_place", "nan", "silence", "stereo", "crash"]


class FaultyWave(WaveformAugment):
    """A change of waveforms with a fault."""

    kind: Literal["faulty_wave"] = "faulty_wave"
    fault: WaveFault = "nothing"

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        if self.fault == "crash":
            raise KeyError("sample")
        if self.fault == "in_place":
            waveform *= 0.5
            return waveform
        return {
            "nothing": waveform,
            "nan": waveform * np.nan,
            "silence": waveform * 0,
            "stereo": np.stack([waveform, waveform]),
        }[self.fault]


class FaultySpectrogram(SpectrogramAugment):
    """A change of spectrograms that forgets to change them."""

    kind: Literal["faulty_spectrogram"] = "faulty_spectrogram"

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        return features


class FaultyOptimizer(Optimizer):
    """An optimiser that is given the heads only."""

    kind: Literal["faulty_optimizer"] = "faulty_optimizer"

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.get_submodule("heads").parameters(), lr=0.1)


Fault = Literal["none", "deaf", "unused", "chance", "neighbours", "padding", "frozen", "nan"]


class FaultyBackbone(Backbone):
    """A small network with a fault."""

    kind: Literal["faulty_backbone"] = "faulty_backbone"
    fault: Fault = "none"

    def build(self, spec: FeatureSpec) -> BackboneModule:
        return FaultyModule(self.fault, spec.dim)


class FaultyModule(BackboneModule):
    def __init__(self, fault: Fault, bins: int) -> None:
        super().__init__()
        self.dim, self.fault = 8, fault
        self.layer = nn.Linear(bins, 8)
        self.second = nn.Linear(8, 8)
        self.requires_grad_(fault != "frozen")

    def upper(self, states: Tensor, lengths: Tensor) -> Hidden:
        x = states.transpose(1, 2)
        if self.fault == "deaf":
            # As attention over equal keys: the answer is the same whatever is asked.
            x = torch.zeros_like(x)
        x = self.layer(x).relu()
        x = x if self.fault == "unused" else self.second(x).relu()
        if self.fault == "chance":
            x = nn.functional.dropout(x, 0.5, training=True)
        if self.fault == "neighbours":
            x = x - x.mean((0, 1))
        if self.fault == "nan":
            x = x / 0
        mask = mask_from_lengths(lengths, x.shape[1])
        if self.fault == "padding":
            mask = torch.ones_like(mask)
        return Hidden(x, mask)
