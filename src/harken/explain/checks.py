"""Two checks of every map, so that a meaningless one says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harken.explain.deletion import Deletion, delete
from harken.explain.method import Explain, Relevance
from harken.explain.subject import Subject
from harken.model import Classifier

Array = npt.NDArray[np.float64]

MIN_BEATEN = 0.95
"""Share of the random deletions that the relevant one must beat."""
MAX_CORRELATION = 0.7
"""Mean rank correlation with the maps of random networks from which on a map is theirs, too."""
MIN_STRENGTH = 3.0
"""How many times as much as in networks with random weights the deletion must take."""


@dataclass(frozen=True)
class Checks:
    """What the checks found.

    Attributes:
        deletion: The deletion curves.
        correlations: Spearman's rank correlation of the map with that of each random network.
        effects: What deletion by their own maps takes from the random networks.
        spans: Range of the evidence in their curves.
        flat: Whether the map is the same everywhere.
    """

    deletion: Deletion
    correlations: list[float]
    effects: list[float]
    spans: list[float]
    flat: bool

    @property
    def correlation(self) -> float:
        """Mean over the random networks."""
        return float(np.mean(self.correlations))

    @property
    def strength(self) -> float:
        """Effect of the deletion, as a multiple of the random networks' (root mean square).

        A tenth of their range of evidence counts as their least effect, which may be next to
        nothing by accident.
        """
        floor = max(0.1 * float(np.mean(self.spans)), 1e-6)
        return self.deletion.effect / max(floor, float(np.sqrt(np.mean(np.square(self.effects)))))

    @property
    def complaints(self) -> list[str]:
        """What speaks against the map, in plain words; empty if nothing does."""
        found = []
        deletes = not self.flat and self.deletion.beaten >= MIN_BEATEN
        if self.flat:
            found.append("The map is the same everywhere: it tells no moment from another.")
        elif not deletes:
            found.append(
                "Deleting the most relevant parts is not better than deleting parts at random "
                f"(it beats {self.deletion.beaten:.0%} of the random deletions): the network does "
                "not lose its evidence there."
            )
        if self.correlation > MAX_CORRELATION:
            found.append(
                "Networks with random weights give nearly the same map (rank correlation "
                f"{self.correlation:.2f}): it does not depend on what was learnt."
            )
        if deletes and self.strength < MIN_STRENGTH:
            found.append(
                f"The deletion takes {self.strength:.1f} times as much as networks with random "
                f"weights lose by their own maps; below {MIN_STRENGTH:g} times, what is seen may "
                "be there without any learning."
            )
        return found

    @property
    def meaningful(self) -> bool:
        """Whether nothing speaks against the map."""
        return not self.complaints

    @property
    def verdict(self) -> str:
        """One line."""
        if self.meaningful:
            return (
                f"meaningful: deletion score {self.deletion.score:+.2f}, rank correlation with "
                f"random networks {self.correlation:.2f}"
            )
        return "meaningless: " + " ".join(self.complaints)

    def to_json(self) -> dict[str, Any]:
        """Return all numbers."""
        deletion = self.deletion
        return {
            "meaningful": self.meaningful,
            "complaints": self.complaints,
            "deletion": {
                "score": deletion.score,
                "effect": deletion.effect,
                "beaten": deletion.beaten,
                "share_deleted": deletion.share.tolist(),
                "relevant_first": deletion.relevant.tolist(),
                "random": deletion.random.mean(axis=0).tolist(),
                "least_relevant_first": deletion.least.tolist(),
            },
            "random_weights": {
                "rank_correlation": self.correlation,
                "rank_correlations": self.correlations,
                "effects": self.effects,
                "strength": self.strength,
            },
        }


def check(
    method: Explain, subject: Subject, map_: Relevance, fresh: Callable[[int], Classifier]
) -> Checks:
    """Check a map by deletion and by networks that learnt nothing.

    The second is the model randomisation test of Adebayo et al. (2018), with all weights drawn
    anew. It also asks whether such networks lose as much by their maps: a map can be true of a
    network that knows nothing.

    Args:
        method: How the map was made.
        subject: The clip before the trained network.
        map_: The map.
        fresh: Makes the network of a number, with the same front-end and random weights.
    """
    over_time = map_.over_time
    found = delete(subject, over_time, method.draws, method.seed)
    correlations, others = [], []
    for number in range(method.networks):
        other = subject.before(fresh(number))
        theirs = method.relevance(other).over_time
        correlations.append(rank_correlation(over_time, theirs))
        others.append(delete(other, theirs, max(5, method.draws // 4), method.seed))
    flat = bool(np.ptp(over_time) <= 1e-9 * max(1e-9, float(np.abs(over_time).max())))
    effects, spans = [o.effect for o in others], [o.span for o in others]
    return Checks(found, correlations, effects, spans, flat)


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation; 0 where one of them is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
