"""Augmentation: random changes of training clips."""

from harken.augment.augment import Augment, SpectrogramAugment, WaveformAugment
from harken.augment.mix import Mix, Mixup, NoMix
from harken.augment.spectrogram import SpecMask, SpecRoll, apply_spectrogram_augments
from harken.augment.waveform import Gain, Noise, Roll, TimeShift, apply_waveform_augments

__all__ = [
    "Augment",
    "Gain",
    "Mix",
    "Mixup",
    "NoMix",
    "Noise",
    "Roll",
    "SpecMask",
    "SpecRoll",
    "SpectrogramAugment",
    "TimeShift",
    "WaveformAugment",
    "apply_spectrogram_augments",
    "apply_waveform_augments",
]
