"""The slot `explain`: how much each moment of a clip speaks for a label."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harken.choice import Choice
from harken.errors import ConfigError
from harken.explain.subject import Fill, Subject
from harken.model import Classifier

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Relevance:
    """How much each part of a clip speaks for the label; negative parts speak against it.

    Attributes:
        values: `(bins, steps)`, or `(1, steps)` where the method knows nothing of frequency.
        notes: Further numbers of the method, by name.
    """

    values: Array
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def over_time(self) -> Array:
        """Sum over frequency, `(steps,)`."""
        return np.asarray(self.values.sum(axis=0))

    @property
    def has_bins(self) -> bool:
        """Whether it is known per frequency, too."""
        return len(self.values) > 1


class Explain(Choice):
    """A method, and the two checks that every map has to pass."""

    fill: Fill = "mean"
    """What deleted parts become: each bin's `mean` over the clip, or its `quiet`est value."""
    draws: int = Field(20, ge=20)
    """Random deletions that the deletion of the most relevant parts is compared with."""
    networks: int = Field(5, ge=1)
    """Networks with fresh random weights that the map is compared with."""
    seed: int = 0
    """Of the random deletions and random weights."""

    def fits(self, model: Classifier) -> bool:
        """Whether the method can look into such a network."""
        raise NotImplementedError

    def relevance(self, subject: Subject) -> Relevance:
        """Return the map of a clip."""
        raise NotImplementedError


def require_fit(method: Explain, model: Classifier) -> None:
    """Refuse a method that cannot look into a network.

    Raises:
        ConfigError: it cannot; names those that can.
    """
    if method.fits(model):
        return
    fitting = [name for name, kind in sorted(Explain.kinds().items()) if kind().fits(model)]
    kind = method.model_dump()["kind"]
    raise ConfigError(
        f"{kind} cannot look into this backbone ({type(model.backbone).__name__})",
        where="--method",
        fix=f"one of {', '.join(fitting)}",
    )
