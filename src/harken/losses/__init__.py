"""Losses: what training minimises."""

from harken.losses.anchor import Anchor
from harken.losses.balancing import Balancing
from harken.losses.class_balanced import ClassBalanced
from harken.losses.cross_entropy import Bce, CrossEntropy
from harken.losses.focal import Focal
from harken.losses.hybrid import Hybrid
from harken.losses.inner import default_loss
from harken.losses.loss import Loss, LossModule
from harken.losses.regression import Huber, Mse
from harken.losses.severity import Severity
from harken.losses.smoothed import Smoothed
from harken.losses.supcon import SupCon
from harken.losses.word_difficulty import DifficultyWeighted

__all__ = [
    "Anchor",
    "Balancing",
    "Bce",
    "ClassBalanced",
    "CrossEntropy",
    "DifficultyWeighted",
    "Focal",
    "Huber",
    "Hybrid",
    "Loss",
    "LossModule",
    "Mse",
    "Severity",
    "Smoothed",
    "SupCon",
    "default_loss",
]
