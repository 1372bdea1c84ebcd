"""Backbones: the networks between features and pooling. Importing this registers their kinds."""

from harken.backbones.ast import AstBackbone
from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.backbones.bag import BagBackbone
from harken.backbones.bert import BertBackbone
from harken.backbones.cnn import CnnBackbone
from harken.backbones.lstm import LstmBackbone
from harken.backbones.mlp import MlpBackbone
from harken.backbones.speech import SpeechBackbone
from harken.backbones.timm import TimmBackbone
from harken.frontends.frontend import FeatureSpec

__all__ = [
    "AstBackbone",
    "Backbone",
    "BackboneModule",
    "BagBackbone",
    "BertBackbone",
    "CnnBackbone",
    "FeatureSpec",
    "Hidden",
    "LstmBackbone",
    "MlpBackbone",
    "SpeechBackbone",
    "TimmBackbone",
    "mask_from_lengths",
]
