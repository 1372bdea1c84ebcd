from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burst_runs import BACKBONES, small, small_subject
from harken.explain.deletion import Deletion, delete


class Additive:
    """A clip whose evidence is the sum of its steps' own parts: the truth is known."""

    def __init__(self, parts: Any, seconds: float = 2.0) -> None:
        self.parts, self.steps, self.seconds = np.asarray(parts, float), len(parts), seconds

    def judge(self, gone: Any) -> Any:
        return (~gone[:, 0] * self.parts).sum(axis=1)


def parts_of(where: int, steps: int = 200) -> Any:
    parts = np.zeros(steps)
    parts[where : where + 20] = 1.0
    return parts


def test_the_true_map_beats_every_random_one() -> None:
    parts = parts_of(60)
    found = delete(Additive(parts), parts, 20, 0)  # type: ignore[arg-type]
    assert found.beaten == 1.0
    assert found.score > 0.3
    assert found.relevant[0] == 20
    assert found.relevant[1] == found.relevant[-1] == 0
    assert found.least[-2] == 20
    assert found.span == 20


def test_the_inverted_map_is_worse_than_chance() -> None:
    parts = parts_of(60)
    found = delete(Additive(parts), -parts, 20, 0)  # type: ignore[arg-type]
    assert found.beaten == 0.0
    assert found.score < -0.3


def test_random_maps_are_chance() -> None:
    parts = parts_of(60)
    rng = np.random.default_rng(0)
    clip: Any = Additive(parts)
    found = [delete(clip, rng.standard_normal(200), 20, seed) for seed in range(40)]
    assert abs(np.mean([f.score for f in found])) < 0.06
    assert np.mean([f.beaten >= 0.95 for f in found]) < 0.2


def test_a_deaf_network_scores_nothing() -> None:
    found = delete(Additive(np.zeros(100)), np.arange(100.0), 20, 0)  # type: ignore[arg-type]
    assert (found.score, found.beaten, found.effect) == (0, 0, 0)


def test_draws_follow_the_seed() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    over_time = np.arange(float(subject.steps))
    one, two, other = (delete(subject, over_time, 20, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.random, two.random)
    assert not np.array_equal(one.random, other.random)
    assert one.random.shape == (20, len(one.share))
    assert delete(subject, over_time, 30, 1).random.shape[0] == 30
    assert (one.share[0], one.share[-1]) == (0, 1)


@pytest.mark.parametrize(("steps", "seconds"), [(1, 0.01), (3, 0.03), (30, 0.3), (1000, 10.0)])
def test_clips_of_any_length(steps: int, seconds: float) -> None:
    parts = np.arange(float(steps))
    found = delete(Additive(parts, seconds), parts, 20, 0)  # type: ignore[arg-type]
    assert found.relevant[-1] == 0
    assert len(found.share) <= 11
    assert isinstance(found, Deletion)
    assert np.isfinite(found.score)
