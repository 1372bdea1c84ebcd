"""Relevance: which moments of a clip a trained network's decision rests on."""

from harken.explain.attention import AttentionMap, Rollout
from harken.explain.checks import Checks, check
from harken.explain.gradcam import GradCam
from harken.explain.integrated_gradients import IntegratedGradients
from harken.explain.method import Explain, Relevance, require_fit
from harken.explain.occlusion import Occlusion
from harken.explain.subject import Subject

__all__ = [
    "AttentionMap",
    "Checks",
    "Explain",
    "GradCam",
    "IntegratedGradients",
    "Occlusion",
    "Relevance",
    "Rollout",
    "Subject",
    "check",
    "require_fit",
]
