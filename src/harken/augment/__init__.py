"""Augmentation: random changes of training clips."""

from harken.augment.augment import Augment, SpectrogramAugment, WaveformAugment
from harken.augment.codec import Codec
from harken.augment.distortion import Alias, BitCrush, Clipping, TanhDistortion
from harken.augment.filters import BandPass, BandStop, HighPass, LowPass
from harken.augment.level import Gain, GainTransition, PeakNormalize, PolarityInversion
from harken.augment.mix import Mix, Mixup, NoMix
from harken.augment.noises import Background, ColourNoise, GaussianNoise, Noise
from harken.augment.rooms import ImpulseResponse, Room
from harken.augment.spectrogram import (
    CoarseDropout,
    SpecMask,
    SpecNoise,
    SpecRoll,
    apply_spectrogram_augments,
)
from harken.augment.stretch import Pitch, Speed, Stretch
from harken.augment.warp import SpecShift, SpecStretch
from harken.augment.waveform import (
    Cutout,
    RepeatPart,
    Reverse,
    Roll,
    TimeShift,
    apply_waveform_augments,
)

__all__ = [
    "Alias",
    "Augment",
    "Background",
    "BandPass",
    "BandStop",
    "BitCrush",
    "Clipping",
    "CoarseDropout",
    "Codec",
    "ColourNoise",
    "Cutout",
    "Gain",
    "GainTransition",
    "GaussianNoise",
    "HighPass",
    "ImpulseResponse",
    "LowPass",
    "Mix",
    "Mixup",
    "NoMix",
    "Noise",
    "PeakNormalize",
    "Pitch",
    "PolarityInversion",
    "RepeatPart",
    "Reverse",
    "Roll",
    "Room",
    "SpecMask",
    "SpecNoise",
    "SpecRoll",
    "SpecShift",
    "SpecStretch",
    "SpectrogramAugment",
    "Speed",
    "Stretch",
    "TanhDistortion",
    "TimeShift",
    "WaveformAugment",
    "apply_spectrogram_augments",
    "apply_waveform_augments",
]
