"""Front-ends: what the network sees of a waveform."""

from harken.frontends.frontend import (
    BadClipsError,
    FeatureSpec,
    Frontend,
    FrontendModule,
    NotFiniteError,
)
from harken.frontends.kaldi_fbank import KaldiFbank
from harken.frontends.log_mel import LogMel
from harken.frontends.normalize import (
    ClipNormalize,
    DatasetNormalize,
    MinMaxNormalize,
    NoNormalize,
    Normalize,
    NormalizeModule,
)
from harken.frontends.stacked_fbank import StackedFbank
from harken.frontends.tokens import Tokens
from harken.frontends.waveform import Waveform

__all__ = [
    "BadClipsError",
    "ClipNormalize",
    "DatasetNormalize",
    "FeatureSpec",
    "Frontend",
    "FrontendModule",
    "KaldiFbank",
    "LogMel",
    "MinMaxNormalize",
    "NoNormalize",
    "Normalize",
    "NormalizeModule",
    "NotFiniteError",
    "StackedFbank",
    "Tokens",
    "Waveform",
]
