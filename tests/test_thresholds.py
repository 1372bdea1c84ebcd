"""Decisions by thresholds, and thresholds that are the best there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.errors import ConfigError
from harken.labels import Labels
from harken.thresholds import decide, fit_thresholds

THREE = Labels("single", ("a", "b", "c"), ("label",))
TWO = Labels("single", ("ill", "well"), ("label",), positive="ill")
MULTI = Labels("multi", ("a", "b", "c"), ("a", "b", "c"))


def test_decisions_without_thresholds() -> None:
    score = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.5]])
    assert decide(THREE, score).tolist() == [[False, True, False], [True, False, False]]
    assert decide(MULTI, score).tolist() == [[False, True, False], [True, False, True]]
    assert decide(TWO, np.array([[0.5, 0.5], [0.4, 0.6]])).argmax(1).tolist() == [0, 1]


def test_thresholds_move_decisions() -> None:
    score = np.array([[0.3, 0.7], [0.2, 0.8]])
    assert decide(TWO, score, 0.3).tolist() == [[True, False], [False, True]]
    assert decide(TWO, score, [0.2])[:, 0].all()
    named_last = Labels("single", ("ill", "well"), ("label",))
    assert decide(named_last, score, 0.75).argmax(1).tolist() == [0, 1]
    marks = decide(MULTI, np.array([[0.2, 0.5, 0.3]]), [0.1, 0.6, 0.3])
    assert marks.tolist() == [[True, False, True]]
    single = np.array([[0.7, 0.3]], dtype=np.float32)
    assert decide(TWO, single, float(single[0, 0])).tolist() == [[True, False]]


@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=30),
    rule=st.sampled_from(["f1", "youden"]),
)
@settings(max_examples=150, deadline=None)
def test_a_fitted_threshold_is_the_best_there_is(rows: list[tuple[bool, int]], rule: Any) -> None:
    truth = np.array([row[0] for row in rows])
    score = np.array([row[1] for row in rows]) / 12
    one = Labels("multi", ("x",), ("x",))
    (threshold,), notes = fit_thresholds(one, truth[:, None].astype(float), score[:, None], rule)

    def value(limit: float) -> float:
        chosen = score >= limit
        if rule == "f1":
            return float(2 * (truth & chosen).sum() / (truth.sum() + chosen.sum()))
        return float(chosen[truth].mean() + (~chosen)[~truth].mean() - 1)

    if truth.all() or not truth.any():
        assert threshold == 0.5
        assert "one side is absent" in notes[0]
    else:
        limits = [*np.unique(score), 1.1]
        assert value(threshold) == pytest.approx(max(value(limit) for limit in limits))
    if min(truth.sum(), (~truth).sum()) < 10:
        assert len(notes) == 1


def test_thresholds_ignore_missing_targets_and_choose_near_one_half() -> None:
    target = np.array([[1.0], [1.0], [0.0], [0.0], [np.nan]])
    score = np.array([[0.9], [0.7], [0.2], [0.1], [0.65]])
    one = Labels("multi", ("x",), ("x",))
    (threshold,), _ = fit_thresholds(one, target, score, "f1")
    assert threshold == pytest.approx(0.45)
    ranked = np.repeat(target, 3, axis=0), np.repeat(score, 3, axis=0)
    assert fit_thresholds(one, *ranked, "youden")[0][0] == pytest.approx(0.45)


def test_every_clip_may_have_its_own_threshold() -> None:
    score = np.array([[0.3, 0.7], [0.3, 0.7]])
    assert decide(TWO, score, np.array([[0.2], [0.4]])).tolist() == [[True, False], [False, True]]
    marks = decide(MULTI, np.full((2, 3), 0.5), np.array([[0.4, 0.6, 0.5], [0.6, 0.4, 0.6]]))
    assert marks.tolist() == [[True, False, True], [False, True, False]]
    with pytest.raises(ConfigError, match="2 thresholds for 3 decisions"):
        decide(MULTI, np.full((2, 3), 0.5), np.full((2, 2), 0.5))
