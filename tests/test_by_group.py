"""Metrics of subgroups against plain loops over scikit-learn, and gaps that say why."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    hamming_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    recall_score,
    roc_auc_score,
)

from harken.bootstrap import draws
from harken.by_group import By, by_group, flat_rows
from harken.labels import Labels
from harken.subgroups import Members

Array = npt.NDArray[Any]
TWO = Labels("single", ("td", "ssd"), ("label",), positive="ssd")
THREE = Labels("single", ("a", "b", "c"), ("label",))
MULTI = Labels("multi", ("a", "b"), ("a", "b"))
VALUE = Labels("regression", ("age",), ("age",))


def members(codes: Array, missing: Array | None = None) -> Members:
    names = tuple(f"g{i}" for i in range(int(codes.max(initial=0)) + 1))
    gone = np.zeros(len(codes), dtype=bool) if missing is None else missing
    return Members(names, codes.astype(np.int64), gone)


def single(labels: Labels, rows: int, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels.num_classes, rows)
    score = rng.dirichlet(np.ones(labels.num_classes), rows)
    score[np.arange(rows), truth] += 0.3
    score /= score.sum(axis=1, keepdims=True)
    chosen = np.eye(labels.num_classes, dtype=bool)[score.argmax(axis=1)]
    return np.eye(labels.num_classes)[truth], score, chosen


def values(row: dict[str, Any]) -> dict[str, float | None]:
    return {name: entry["value"] for name, entry in row["metrics"].items()}


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
def test_classes_are_those_of_a_plain_loop(labels: Labels) -> None:
    target, score, chosen = single(labels, 400)
    codes = np.random.default_rng(1).integers(0, 7, 400)
    found = by_group(labels, target, score, chosen, members(codes), num_resamples=0)
    truth, said = target.argmax(1), chosen.argmax(1)
    for code, row in enumerate(found["groups"]):
        own = codes == code
        assert row["num_clips"] == own.sum()
        assert row["num_groups"] is None
        expected = {
            "balanced_accuracy": recall_score(truth[own], said[own], average="macro"),
            "accuracy": accuracy_score(truth[own], said[own]),
        }
        if labels is TWO:
            expected["sensitivity"] = recall_score(truth[own], said[own], pos_label=1)
            expected["specificity"] = recall_score(truth[own], said[own], pos_label=0)
            expected["roc_auc"] = roc_auc_score(truth[own], score[own, 1])
        assert values(row) == pytest.approx(expected)
        for label, counts in row["classes"].items():
            place = labels.names.index(label)
            assert counts["clips"] == (truth[own] == place).sum()
            assert counts["right"] == ((truth == place) & (said == place))[own].sum()


def test_several_labels_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, (300, 2)).astype(float)
    score = np.clip(0.3 * target + rng.random((300, 2)) * 0.7, 0, 1)
    chosen, codes = score >= 0.5, rng.integers(0, 4, 300)
    found = by_group(MULTI, target, score, chosen, members(codes), num_resamples=0)
    for code, row in enumerate(found["groups"]):
        own = codes == code
        t, d, s = target[own].astype(int), chosen[own].astype(int), score[own]
        assert values(row) == pytest.approx(
            {
                "f1_macro": f1_score(t, d, average="macro"),
                "f1_micro": f1_score(t, d, average="micro"),
                "hamming_loss": hamming_loss(t, d),
                "roc_auc": roc_auc_score(t, s, average="macro"),
                "average_precision": average_precision_score(t, s, average="macro"),
            }
        )


def test_missing_labels_take_no_part() -> None:
    target = np.array([[1, np.nan], [0, 1], [1, 0], [0, 0], [np.nan, np.nan]] * 3, dtype=float)
    score = np.tile([[0.9, 0.9], [0.8, 0.8], [0.7, 0.2], [0.1, 0.1], [1, 1]], (3, 1))
    found = by_group(MULTI, target, score, score >= 0.5, members(np.zeros(15)), num_resamples=0)
    row = found["groups"][0]
    assert row["num_clips"] == 12
    assert values(row)["hamming_loss"] == pytest.approx(1 / 7)
    assert row["classes"] == {"a": {"clips": 6, "right": 6}, "b": {"clips": 3, "right": 3}}


def test_regression_is_that_of_a_plain_loop_over_the_whole_subgroup() -> None:
    rng = np.random.default_rng(0)
    target = rng.uniform(2, 10, (200, 1))
    score = target + rng.normal(size=(200, 1))
    codes = rng.integers(0, 5, 200)
    target[codes == 4] = 6.0
    found = by_group(VALUE, target, score, None, members(codes), num_resamples=50)
    for code, row in enumerate(found["groups"]):
        t, s = target[codes == code, 0], score[codes == code, 0]
        assert values(row)["mae"] == pytest.approx(mean_absolute_error(t, s))
        assert values(row)["rmse"] == pytest.approx(mean_squared_error(t, s) ** 0.5)
        expected = None if code == 4 else pytest.approx(r2_score(t, s))
        assert values(row)["r2"] == expected
        assert row["classes"] == {}
    constant = found["groups"][4]["metrics"]["r2"]
    assert constant == {"value": None, "low": None, "high": None}
    gap = found["gap"]
    errors = {row["group"]: values(row)["mae"] for row in found["groups"]}
    assert errors[gap["worst"]] == max(errors.values())
    assert errors[gap["best"]] == min(errors.values())


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_intervals_are_those_of_a_plain_bootstrap(
    seed: int, rows: int, num_groups: int, grouped: bool
) -> None:
    target, score, chosen = single(TWO, rows, seed)
    rng = np.random.default_rng(seed)
    codes, speakers = rng.integers(0, num_groups, rows), rng.integers(0, 8, rows)
    groups = [str(s) for s in speakers] if grouped else None
    found = by_group(
        TWO, target, score, chosen, members(codes), groups=groups, min_clips=1, num_resamples=40
    )
    order = {s: i for i, s in enumerate(dict.fromkeys(groups))} if groups else None
    unit = np.array([order[g] for g in groups]) if groups and order else np.arange(rows)
    unit = np.unique(unit, return_inverse=True)[1]
    count = unit.max() + 1
    weights = np.concatenate(list(draws(count, 40, 0, 40)), axis=1) if count > 1 else None
    for row in found["groups"]:
        own = codes == int(row["group"][1:])
        low, high = row["metrics"]["sensitivity"]["low"], row["metrics"]["sensitivity"]["high"]
        if weights is None or len(np.unique(unit[own])) < 2:
            assert low is None
            continue
        ill = own & (target[:, 1] > 0.5)
        drawn = weights[unit[ill]]
        with np.errstate(invalid="ignore"):
            plain = drawn[chosen[ill, 1]].sum(axis=0) / drawn.sum(axis=0)
        known = plain[~np.isnan(plain)]
        expected = np.percentile(known, [2.5, 97.5]) if len(known) and ill.any() else [None] * 2
        assert [low, high] == [e if e is None else pytest.approx(e) for e in expected]


def test_too_few_clips_or_one_class_are_missing_and_never_zero() -> None:
    target, score, chosen = single(TWO, 40)
    codes = np.zeros(40)
    codes[:3] = 1
    codes[3:13] = 2
    target[3:13] = [1, 0]
    missing = np.zeros(40, dtype=bool)
    missing[-2:] = True
    codes[-2:] = -1
    codes[-3] = -1
    found = by_group(TWO, target, score, chosen, members(codes, missing), num_resamples=20)
    whole, few, one = found["groups"]
    assert whole["note"] == ""
    assert few["note"] == "fewer than 5 clips: not measured"
    assert set(values(few).values()) == {None}
    assert few["num_clips"] == 3
    assert one["note"] == "only td: no balanced accuracy"
    assert values(one)["balanced_accuracy"] is None
    assert values(one)["sensitivity"] is None
    assert values(one)["specificity"] is not None
    assert one["metrics"]["balanced_accuracy"]["low"] is None
    assert found["gap"] is None
    assert found["notes"][:2] == [
        "2 clips have no value and are left out",
        "1 clips lie outside the bins and are left out",
    ]
    less = by_group(TWO, target, score, chosen, members(codes), min_clips=2, num_resamples=0)
    assert values(less["groups"][1])["accuracy"] is not None
    absent = by_group(THREE, *single(THREE, 3), members(np.zeros(3)), min_clips=1)
    assert absent["groups"][0]["note"].startswith(("no clip of", "only", ""))


def test_the_gap_is_between_the_best_and_the_worst_under_the_same_draws() -> None:
    target, score, chosen = single(TWO, 600)
    codes = np.arange(600) % 3
    truth = target.astype(bool)
    chosen = np.where((codes == 1)[:, None], truth, chosen)
    flipped = (codes == 2) & (np.arange(600) % 2 == 0)
    chosen = np.where(flipped[:, None], ~truth, chosen)
    speakers = [str(i // 6) for i in range(600)]
    found = by_group(TWO, target, score, chosen, members(codes), groups=speakers)
    gap = found["gap"]
    assert (gap["metric"], gap["best"], gap["worst"]) == ("balanced_accuracy", "g1", "g2")
    best, worst = (values(found["groups"][i])["balanced_accuracy"] for i in (1, 2))
    assert best is not None
    assert worst is not None
    assert gap["value"] == pytest.approx(best - worst)
    assert 0 < gap["low"] < gap["value"] < gap["high"]
    assert found["groups"][0]["num_groups"] == 100


def test_few_speakers_are_told() -> None:
    target, score, chosen = single(TWO, 40)
    speakers = [str(i % 4) for i in range(40)]
    found = by_group(
        TWO, target, score, chosen, members(np.arange(40) % 2), groups=speakers, num_resamples=20
    )
    assert found["notes"] == ["intervals rest on fewer than 10 groups in g0, g1"]
    none = by_group(TWO, target, score, chosen, members(np.full(40, -1)), num_resamples=20)
    assert none["groups"] == []
    assert none["gap"] is None


def test_rows_for_a_table() -> None:
    target, score, chosen = single(TWO, 40)
    found = by_group(TWO, target, score, chosen, members(np.arange(40) % 2), num_resamples=20)
    rows = flat_rows({"word": found})
    assert [row["group"] for row in rows] == ["g0", "g1"]
    assert rows[0]["clips_td"] + rows[0]["clips_ssd"] == rows[0]["clips"] == 20
    assert rows[0]["sensitivity_low"] <= rows[0]["sensitivity"] <= rows[0]["sensitivity_high"]
    assert By.model_validate("word").min_clips == 5
