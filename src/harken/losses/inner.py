"""The loss inside another: most losses here weigh, bend or add to one that can be chosen."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import WithJsonSchema
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import Covariate, TrainingTable
from harken.labels import Labels
from harken.losses.cross_entropy import Bce, CrossEntropy
from harken.losses.loss import Loss, LossModule
from harken.losses.regression import Mse
from harken.target import Task

# The schema of the slot would hold itself, so it is cut here.
Inner = Annotated[Loss | None, WithJsonSchema({"description": "another loss, such as focal"})]


def default_loss(task: Task) -> Loss:
    """Return the loss that a task takes when the recipe names none."""
    losses: dict[Task, Loss] = {"single": CrossEntropy(), "multi": Bce(), "regression": Mse()}
    return losses[task]


class Around(Loss):
    """A loss made of another."""

    of: Inner = None
    """The loss that this one is made of; null takes the task's own: cross_entropy, bce or mse."""

    def inner(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss inside."""
        return (self.of or default_loss(labels.task)).build(labels, table)

    def covariates(self) -> tuple[Covariate, ...]:
        """Return the side information that this loss and the one inside read."""
        return self.own_covariates() + (self.of.covariates() if self.of is not None else ())

    def own_covariates(self) -> tuple[Covariate, ...]:
        """Return the side information that this loss itself reads."""
        return ()

    def resolved(self) -> Self:
        """Return the loss with what it refers to read in; see `Loss.resolved`."""
        return self.model_copy(update={"of": self.of and self.of.resolved()})


class AroundModule(LossModule):
    """Base of what an `Around` builds; what concerns training goes to the loss inside too."""

    def __init__(self, inner: LossModule) -> None:
        super().__init__()
        self.inner = inner

    def attach(self, width: int) -> None:
        """Learn the embedding's width; see `LossModule.attach`."""
        self.inner.attach(width)

    def observe(self, output: Output, batch: Batch) -> None:
        """Take note of a step; see `LossModule.observe`."""
        self.inner.observe(output, batch)

    def end_step(self) -> None:
        """Take note that a step is over; see `LossModule.end_step`."""
        self.inner.end_step()

    def end_epoch(self) -> dict[str, float]:
        """Take note that an epoch is over; see `LossModule.end_epoch`."""
        return self.inner.end_epoch()


class WeightedClips(AroundModule):
    """The loss inside, times a weight of each clip."""

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return each clip's loss; see `LossModule.forward`."""
        value: Tensor = self.inner(output, batch)
        return self.weigh(batch).to(value.dtype) * value

    def weigh(self, batch: Batch) -> Tensor:
        """Return float `(batch,)`: the weight of each clip."""
        raise NotImplementedError
