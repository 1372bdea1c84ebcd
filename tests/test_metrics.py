"""`metrics.json`: its form, its notes, and the direction of every metric."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import confusion_matrix

from harken.errors import ConfigError
from harken.labels import Labels
from harken.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    default_monitor,
    higher_is_better,
    quick_metrics,
    summarise,
)

Array = npt.NDArray[Any]
NAMES = ("bell", "dog", "rain", "wind")
SINGLE = Labels("single", NAMES, ("label",))
MULTI = Labels("multi", NAMES, NAMES)
VALUE = Labels("regression", ("age",), ("age",))


def sample(rows: int = 80, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=rows)
    score = rng.dirichlet(np.ones(4), rows) + 0.2 * np.eye(4)[truth]
    target = np.eye(4, dtype=np.float32)[truth]
    return target, score / score.sum(1, keepdims=True), rng.integers(12, size=rows)


def walk(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in walk(item)]
    return [leaf for item in value for leaf in walk(item)] if isinstance(value, list) else [value]


def test_the_summary_is_the_contracts_json() -> None:
    target, score, groups = sample()
    found = summarise(SINGLE, target, score, groups=groups, num_resamples=200)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {
        "num_clips",
        "num_groups",
        "metrics",
        "per_class",
        "confusion",
        "labels",
        "notes",
    }
    assert (found["num_clips"], found["num_groups"], found["notes"]) == (80, 12, [])
    assert found["labels"] == list(NAMES)
    wanted = set(METRICS["single"]) - {"sensitivity", "specificity"}
    assert set(found["metrics"]) == wanted
    for entry in found["metrics"].values():
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["low"] < entry["high"]
    truth = target.argmax(1)
    assert found["confusion"] == confusion_matrix(truth, score.argmax(1)).tolist()
    assert [row["support"] for row in found["per_class"]] == np.bincount(truth).tolist()
    assert list(found["per_class"][1]) == [
        "label",
        "support",
        "precision",
        "recall",
        "f1",
        "specificity",
        "roc_auc",
        "average_precision",
    ]
    assert all(row["recall"]["low"] < row["recall"]["high"] for row in found["per_class"])


def test_quick_metrics_are_the_summarys_values() -> None:
    target, score, groups = sample()
    options = {"groups": groups, "num_resamples": 20}
    for labels in (SINGLE, MULTI):
        slow = summarise(labels, target, score, **options)["metrics"]
        quick = quick_metrics(labels, target, score)
        assert quick == pytest.approx({name: entry["value"] for name, entry in slow.items()})
        assert set(quick) <= set(METRICS[labels.task])


def test_multi_label_tables_show_support_and_threshold() -> None:
    target, score, groups = sample()
    target[3, 0] = np.nan
    limits = [0.2, 0.3, 0.4, 0.5]
    found = summarise(MULTI, target, score, groups=groups, thresholds=limits, num_resamples=20)
    json.dumps(found, allow_nan=False)
    assert found["confusion"] is None
    assert [row["threshold"] for row in found["per_class"]] == limits
    assert [row["support"] for row in found["per_class"]] == np.nansum(target, axis=0).tolist()
    plain = summarise(MULTI, target, score, groups=groups, num_resamples=20)
    assert plain["per_class"][0]["threshold"] == 0.5
    assert plain["metrics"]["f1_macro"] != found["metrics"]["f1_macro"]
    assert plain["metrics"]["average_precision"] == found["metrics"]["average_precision"]


def test_decisions_that_were_made_already_stand() -> None:
    target, score, groups = sample()
    limits = [0.2, 0.3, 0.4, 0.5]
    options = {"groups": groups, "num_resamples": 20}
    found = summarise(MULTI, target, score, thresholds=limits, **options)
    given = summarise(MULTI, target, score, decision=score >= limits, **options)
    assert given["metrics"] == found["metrics"]
    assert [row["threshold"] for row in given["per_class"]] == [None] * 4


def test_regression_has_no_classes_to_confuse() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(40, 1))
    found = summarise(VALUE, target, target + rng.normal(size=(40, 1)), num_resamples=50)
    assert tuple(found["metrics"]) == METRICS["regression"]
    assert found["confusion"] is None
    assert found["per_class"][0]["label"] == "age"
    assert found["per_class"][0]["support"] == 40
    assert found["num_groups"] is None


def test_undefined_numbers_are_null_with_a_note() -> None:
    target, score, groups = sample()
    keep = target.argmax(1) != 2
    one_sided = summarise(SINGLE, target[keep], score[keep], groups=groups[keep], num_resamples=50)
    row = one_sided["per_class"][2]
    assert row["roc_auc"] == {"value": None, "low": None, "high": None}
    assert row["specificity"]["value"] is not None
    assert any("roc_auc is undefined for 'rain'" in note for note in one_sided["notes"])
    assert one_sided["metrics"]["roc_auc"]["value"] is not None
    binary = Labels("single", ("no", "yes"), ("label",), positive="yes")
    found = summarise(binary, np.eye(2)[[1, 1, 1]], np.full((3, 2), 0.5), num_resamples=10)
    assert found["metrics"]["roc_auc"]["value"] is None
    assert found["metrics"]["specificity"]["value"] is None
    assert 0 not in walk(found["metrics"]["specificity"])
    json.dumps(found, allow_nan=False)


def test_left_out_resamples_are_counted() -> None:
    target = np.eye(2)[[1] + [0] * 19]
    score = np.random.default_rng(0).dirichlet([1, 1], 20)
    binary = Labels("single", ("no", "yes"), ("label",))
    found = summarise(binary, target, score, groups=range(20), num_resamples=400)
    (note,) = [note for note in found["notes"] if note.startswith("resamples left out, of 400")]
    count = int(note.split("roc_auc (up to ")[1].split(")")[0])
    assert count == pytest.approx(400 * (1 - 1 / 20) ** 20, abs=45)


def test_notes_say_what_the_intervals_rest_on() -> None:
    target, score, _ = sample(20)
    one = summarise(SINGLE, target, score, groups=["a"] * 20, num_resamples=50)
    assert one["notes"][0] == "no intervals: a bootstrap needs at least two groups"
    assert one["metrics"]["accuracy"]["low"] is None
    few = summarise(SINGLE, target, score, groups=["a", "b"] * 10, num_resamples=50)
    assert "intervals are rough: they rest on 2 groups" in few["notes"]
    none = summarise(SINGLE, target, score, num_resamples=50)
    assert "resample clips" in none["notes"][0]
    off = summarise(SINGLE, target, score, num_resamples=0)
    assert off["metrics"]["accuracy"]["low"] is None
    assert not [note for note in off["notes"] if "interval" in note]
    target[:3] = np.nan
    left = summarise(SINGLE, target, score, num_resamples=0)
    assert left["num_clips"] == 17
    assert "3 clips without a target are left out" in left["notes"]


def test_the_seed_decides_the_resamples() -> None:
    target, score, groups = sample()
    options = {"groups": groups, "num_resamples": 100}
    one, same, other = (
        summarise(SINGLE, target, score, seed=seed, **options) for seed in (1, 1, 2)
    )
    assert one == same
    assert one["metrics"]["roc_auc"]["value"] == other["metrics"]["roc_auc"]["value"]
    assert one["metrics"]["roc_auc"]["low"] != other["metrics"]["roc_auc"]["low"]


def test_every_metric_has_a_direction() -> None:
    known = {name for names in METRICS.values() for name in names} | {"loss"}
    assert known >= LOWER_IS_BETTER
    assert {name for name in known if not higher_is_better(name)} == LOWER_IS_BETTER
    assert higher_is_better("balanced_accuracy", SINGLE)
    assert not higher_is_better("loss", MULTI)
    assert not higher_is_better("mae", VALUE)
    for labels in (SINGLE, MULTI, VALUE):
        assert default_monitor(labels.task) in METRICS[labels.task]


def test_a_better_model_moves_each_metric_in_its_direction() -> None:
    target, score, _ = sample(200)
    noise = np.random.default_rng(1).normal(size=(200, 1))
    value = np.linspace(-1, 1, 200)[:, None]
    cases = [
        (SINGLE, target, score, score + 0.5 * target),
        (MULTI, target, score, score + 0.5 * target),
        (VALUE, value, value + noise, value + noise / 2),
    ]
    for labels, truth, worse, better in cases:
        if labels.task == "single":
            better = better / better.sum(1, keepdims=True)
        a, b = quick_metrics(labels, truth, worse), quick_metrics(labels, truth, better)
        for name, first in a.items():
            second = b[name]
            assert first is not None
            assert second is not None
            assert (second > first) == higher_is_better(name), name


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'balanced_accuracy'"):
        higher_is_better("balanced_acuracy")
    with pytest.raises(ConfigError, match=r"no metric 'mae'.*one of loss, accuracy"):
        higher_is_better("mae", SINGLE)
    with pytest.raises(ConfigError, match="no metric 'sensitivity'"):
        higher_is_better("sensitivity", SINGLE)
