"""Backbones: the networks between features and pooling. Importing this registers their kinds."""

from harken.backbones.ast import AstBackbone
from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.backbones.cnn import CnnBackbone
from harken.backbones.mlp import MlpBackbone
from harken.backbones.speech import SpeechBackbone
from harken.backbones.timm import TimmBackbone
from harken.frontends.frontend import FeatureSpec

__all__ = [
    "AstBackbone",
    "Backbone",
    "BackboneModule",
    "CnnBackbone",
    "FeatureSpec",
    "Hidden",
    "MlpBackbone",
    "SpeechBackbone",
    "TimmBackbone",
    "mask_from_lengths",
]
