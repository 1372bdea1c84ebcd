"""The bootstrap: real resamples of groups, honest coverage, paired differences."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from harken.bootstrap import compare, draws, interval, resample, scorer_of, unit_index
from harken.labels import Labels
from harken.seeds import generator

Array = npt.NDArray[Any]
TWO = Labels("single", ("no", "yes"), ("label",), positive="yes")


def predictions(seed: int = 0, num_groups: int = 25) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), rng.integers(1, 8, num_groups))
    truth = rng.integers(2, size=num_groups)[groups]
    lean = rng.normal(size=num_groups)[groups]
    yes = 1 / (1 + np.exp(-(truth - 0.5 + lean + 0.3 * rng.normal(size=len(groups)))))
    return np.eye(2, dtype=np.float32)[truth], np.stack([1 - yes, yes], axis=1), groups


def test_resamples_are_those_of_a_plain_loop_over_groups() -> None:
    target, score, groups = predictions()
    scorer = scorer_of(TWO, target, score, None, unit_index(groups, len(groups)))
    values = resample([scorer], 40, seed=5)[0].overall
    rng = generator(5, "bootstrap")
    truth = target.argmax(1)
    for number in range(40):
        chosen = rng.integers(25, size=25)
        rows = np.concatenate([np.flatnonzero(groups == group) for group in chosen])
        auc = roc_auc_score(truth[rows], score[rows, 1])
        uar = balanced_accuracy_score(truth[rows], score[rows].argmax(1))
        assert values["roc_auc"][number] == pytest.approx(auc)
        assert values["balanced_accuracy"][number] == pytest.approx(uar)


def test_draws_do_not_depend_on_the_block() -> None:
    whole = np.concatenate(list(draws(17, 53, 3, 53)), axis=1)
    parts = np.concatenate(list(draws(17, 53, 3, 7)), axis=1)
    assert whole.shape == (17, 53)
    assert (whole == parts).all()
    assert (whole.sum(axis=0) == 17).all()
    assert (whole != np.concatenate(list(draws(17, 53, 4, 53)), axis=1)).any()


def test_an_interval_spans_the_middle_and_leaves_out_the_undefined() -> None:
    values = np.concatenate([np.arange(1001.0), [np.nan, np.nan]])
    spread = interval(values)
    assert spread.low == pytest.approx(25)
    assert spread.high == pytest.approx(975)
    assert spread.left_out == 2
    assert interval(np.full(3, np.nan)).low is None


def test_clips_without_a_group_stand_for_themselves() -> None:
    assert unit_index(None, 3).tolist() == [0, 1, 2]
    assert unit_index(["b", "a", None, "b", None], 5).tolist() == [0, 1, 2, 0, 3]
    assert unit_index(np.array([7, 7, 3]), 3).tolist() == [0, 0, 1]


def coverage_of_accuracy(grouped: bool, trials: int = 150) -> float:
    """Share of intervals that hold the true accuracy, 0.7, of clips that are alike in a speaker."""
    hits = 0
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        right = rng.beta(7, 3, size=40)[np.repeat(np.arange(40), 10)]
        correct = rng.random(400) < right
        target = np.eye(2, dtype=np.float32)[rng.integers(2, size=400)]
        score = np.where(correct[:, None], target, 1 - target)
        groups = np.repeat(np.arange(40), 10) if grouped else None
        scorer = scorer_of(TWO, target, score, None, unit_index(groups, 400))
        spread = interval(resample([scorer], 300, seed=trial)[0].overall["accuracy"])
        hits += spread.low <= 0.7 <= spread.high
    return hits / trials


def test_intervals_over_groups_cover_the_truth_and_those_over_clips_do_not() -> None:
    over_groups, over_clips = coverage_of_accuracy(True), coverage_of_accuracy(False)
    assert 0.89 <= over_groups <= 0.99
    assert over_clips < over_groups - 0.03


def test_a_comparison_is_paired() -> None:
    target, score, groups = predictions(num_groups=60)
    better = np.clip(score + 0.05 * (target - 0.5), 0, 1)
    found = compare(TWO, target, score, better, groups=groups, num_resamples=300)
    json.dumps(found, allow_nan=False)
    auc = found["metrics"]["roc_auc"]
    assert auc["difference"]["value"] == pytest.approx(auc["b"] - auc["a"])
    assert 0 < auc["difference"]["low"] <= auc["difference"]["value"] <= auc["difference"]["high"]
    scorers = [
        scorer_of(TWO, target, s, None, unit_index(groups, len(groups))) for s in (score, better)
    ]
    a, b = (interval(v.overall["roc_auc"]) for v in resample(scorers, 300, seed=0))
    unpaired = (a.high - a.low) + (b.high - b.low)
    assert auc["difference"]["high"] - auc["difference"]["low"] < unpaired / 4
    same = compare(TWO, target, score, score, groups=groups, num_resamples=50)
    assert same["metrics"]["accuracy"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (found["num_clips"], found["num_groups"]) == (len(target), 60)


def test_each_model_of_a_comparison_has_its_own_thresholds() -> None:
    target, score, groups = predictions()
    options = {"groups": groups, "num_resamples": 0}
    found = compare(TWO, target, score, score, thresholds_b=0.9, **options)["metrics"]
    assert found["sensitivity"]["b"] < found["sensitivity"]["a"]
    assert found["roc_auc"]["difference"] == {"value": 0.0, "low": None, "high": None}
    swapped = compare(TWO, target, score, score, thresholds_a=0.9, **options)["metrics"]
    assert swapped["sensitivity"]["a"] == found["sensitivity"]["b"]
