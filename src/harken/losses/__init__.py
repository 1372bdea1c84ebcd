"""Losses: what training minimises."""

from harken.losses.cross_entropy import Bce, CrossEntropy
from harken.losses.loss import Loss, LossModule
from harken.losses.regression import Huber, Mse
from harken.target import Task

__all__ = ["Bce", "CrossEntropy", "Huber", "Loss", "LossModule", "Mse", "default_loss"]


def default_loss(task: Task) -> Loss:
    """Return the loss that a task takes when the recipe names none."""
    losses: dict[Task, Loss] = {"single": CrossEntropy(), "multi": Bce(), "regression": Mse()}
    return losses[task]
