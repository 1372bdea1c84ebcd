"""Every metric against scikit-learn, as it is and under integer weights (repeated rows)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn import metrics as sk

from harken.bootstrap import scorer_of
from harken.errors import DataError
from harken.labels import Labels

Array = npt.NDArray[Any]
MEANS = ("macro", "micro", "weighted")


def named(task: Any, count: int, positive: str | None = None) -> Labels:
    names = tuple(f"c{i}" for i in range(count))
    return Labels(task, names, names if task != "single" else ("label",), positive=positive)


def single(count: int, rows: int = 120, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(count, size=rows)
    logits = rng.normal(size=(rows, count)).round(1)
    logits[np.arange(rows), truth] += 1
    score = np.exp(logits)
    return truth, np.eye(count, dtype=np.float32)[truth], score / score.sum(1, keepdims=True)


def multi(count: int = 4, rows: int = 120, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    target = (rng.random((rows, count)) < np.linspace(0.1, 0.6, count)).astype(np.float32)
    return target, np.clip(target * 0.3 + rng.random((rows, count)) * 0.8, 0, 1).round(2)


def measured(labels: Labels, target: Array, score: Array, times: Array | None = None) -> Any:
    scorer = scorer_of(labels, target, score, None, np.arange(len(target)))
    return scorer.point() if times is None else scorer(times[:, None].astype(float))


def averaged(truth: Array, chosen: Array, count: int) -> dict[str, float]:
    functions = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    options = {"labels": range(count), "zero_division": np.nan}
    return {
        f"{name}_{mean}": function(truth, chosen, average=mean, **options)
        for name, function in functions.items()
        for mean in MEANS
    }


def per_class(truth: Array, chosen: Array, score: Array) -> dict[str, list[float]]:
    """Tables from 0/1 columns."""
    table = sk.multilabel_confusion_matrix(truth, chosen)
    options = {"average": None, "zero_division": np.nan}
    columns = range(truth.shape[1])
    return {
        "precision": list(sk.precision_score(truth, chosen, **options)),
        "recall": list(sk.recall_score(truth, chosen, **options)),
        "f1": list(sk.f1_score(truth, chosen, **options)),
        "specificity": [t[0, 0] / t[0].sum() for t in table],
        "roc_auc": [sk.roc_auc_score(truth[:, c], score[:, c]) for c in columns],
        "average_precision": [
            sk.average_precision_score(truth[:, c], score[:, c]) for c in columns
        ],
    }


def expected_single(truth: Array, score: Array) -> dict[str, float]:
    count = score.shape[1]
    chosen = score.argmax(1)
    one_hot = np.eye(count)[truth]
    expected = {
        "accuracy": sk.accuracy_score(truth, chosen),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, chosen),
        **averaged(truth, chosen, count),
        "log_loss": sk.log_loss(truth, score, labels=range(count)),
    }
    if count > 3:
        expected["top_3_accuracy"] = sk.top_k_accuracy_score(truth, score, k=3)
    if count == 2:
        expected["sensitivity"] = sk.recall_score(truth, chosen)
        expected["specificity"] = sk.recall_score(truth, chosen, pos_label=0)
        expected["roc_auc"] = sk.roc_auc_score(truth, score[:, 1])
        expected["average_precision"] = sk.average_precision_score(truth, score[:, 1])
    else:
        expected["roc_auc"] = sk.roc_auc_score(truth, score, multi_class="ovr")
        expected["average_precision"] = sk.average_precision_score(one_hot, score)
    return expected


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("repeated", [False, True])
def test_single_label_metrics_are_scikit_learns(count: int, repeated: bool) -> None:
    truth, target, score = single(count)
    times = np.random.default_rng(1).integers(0, 4, len(truth)) if repeated else None
    values = measured(named("single", count), target, score, times)
    if times is not None:
        truth, score = np.repeat(truth, times), np.repeat(score, times, axis=0)
    ours = {name: float(value[0]) for name, value in values.overall.items()}
    assert ours == pytest.approx(expected_single(truth, score))
    one_hot, chosen = np.eye(count)[truth], np.eye(count)[score.argmax(1)]
    for name, column in per_class(one_hot, chosen, score).items():
        assert values.per_class[name][:, 0] == pytest.approx(np.array(column)), name


@pytest.mark.parametrize("repeated", [False, True])
def test_multi_label_metrics_are_scikit_learns(repeated: bool) -> None:
    target, score = multi()
    times = np.random.default_rng(1).integers(0, 4, len(target)) if repeated else None
    values = measured(named("multi", 4), target, score, times)
    if times is not None:
        target, score = np.repeat(target, times, axis=0), np.repeat(score, times, axis=0)
    chosen = score >= 0.5
    expected = {
        "average_precision": sk.average_precision_score(target, score),
        "roc_auc": sk.roc_auc_score(target, score),
        "d_prime": 2**0.5 * stats.norm.ppf(sk.roc_auc_score(target, score)),
        "lwlrap": sk.label_ranking_average_precision_score(
            target, score, sample_weight=target.sum(axis=1)
        ),
        **averaged(target, chosen, 4),
        "hamming_loss": sk.hamming_loss(target, chosen),
        "subset_accuracy": sk.accuracy_score(target, chosen),
    }
    assert {name: float(v[0]) for name, v in values.overall.items()} == pytest.approx(expected)
    for name, column in per_class(target, chosen, score).items():
        assert values.per_class[name][:, 0] == pytest.approx(np.array(column)), name


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_regression_metrics_are_scikit_learns(repeated: bool, offset: float) -> None:
    rng = np.random.default_rng(3)
    target = rng.integers(0, 30, (90, 2)).astype(float) + offset
    score = target + rng.normal(size=(90, 2)) * [3, 9]
    times = rng.integers(0, 4, 90) if repeated else None
    values = measured(named("regression", 2), target, score, times)
    if times is not None:
        target, score = np.repeat(target, times, axis=0), np.repeat(score, times, axis=0)
    expected = {
        "mae": sk.mean_absolute_error(target, score),
        "rmse": sk.root_mean_squared_error(target, score),
        "r2": sk.r2_score(target, score),
        "pearson": np.mean([stats.pearsonr(target[:, c], score[:, c])[0] for c in (0, 1)]),
        "spearman": np.mean([stats.spearmanr(target[:, c], score[:, c])[0] for c in (0, 1)]),
    }
    assert {name: float(v[0]) for name, v in values.overall.items()} == pytest.approx(expected)
    each = sk.r2_score(target, score, multioutput="raw_values")
    assert values.per_class["r2"][:, 0] == pytest.approx(each)


def test_classes_never_seen_or_never_predicted_are_undefined_not_zero() -> None:
    truth, target, score = single(4, rows=30)
    score[:, 2] = 0.0
    keep = truth != 3
    truth, target, score = truth[keep], target[keep], score[keep]
    values = measured(named("single", 4), target, score)
    defined = {name: (~np.isnan(table[:, 0])).tolist() for name, table in values.per_class.items()}
    assert defined["precision"] == [True, True, False, True]
    assert defined["recall"] == defined["roc_auc"] == [True, True, True, False]
    assert defined["f1"] == defined["specificity"] == [True] * 4
    chosen = score.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = averaged(truth, chosen, 4)
        balanced = sk.balanced_accuracy_score(truth, chosen)
    for name, value in expected.items():
        assert values.overall[name][0] == pytest.approx(value), name
    assert values.overall["balanced_accuracy"][0] == pytest.approx(balanced)
    aucs = [sk.roc_auc_score(truth == c, score[:, c]) for c in range(3)]
    assert values.overall["roc_auc"][0] == pytest.approx(np.mean(aucs))


def test_the_positive_class_is_the_named_one() -> None:
    truth, target, score = single(2)
    chosen = score.argmax(1)
    values = measured(named("single", 2, positive="c0"), target, score).overall
    assert values["sensitivity"][0] == pytest.approx(sk.recall_score(truth, chosen, pos_label=0))
    assert values["specificity"][0] == pytest.approx(sk.recall_score(truth, chosen, pos_label=1))
    assert values["average_precision"][0] == pytest.approx(
        sk.average_precision_score(truth == 0, score[:, 0])
    )


def test_missing_labels_are_ignored_label_by_label() -> None:
    target, score = multi()
    missing = np.random.default_rng(2).random(target.shape) < 0.3
    missing[7] = True
    masked = np.where(missing, np.nan, target)
    values = measured(named("multi", 4), masked, score)
    chosen = score >= 0.5
    for c in range(4):
        known = ~missing[:, c]
        truth = target[known, c]
        assert values.per_class["f1"][c, 0] == pytest.approx(sk.f1_score(truth, chosen[known, c]))
        assert values.per_class["roc_auc"][c, 0] == pytest.approx(
            sk.roc_auc_score(truth, score[known, c])
        )
    wrong = (chosen != target) & ~missing
    assert values.overall["hamming_loss"][0] == pytest.approx(wrong.sum() / (~missing).sum())
    rows = ~missing.all(axis=1)
    assert values.overall["subset_accuracy"][0] == pytest.approx((~wrong.any(1))[rows].mean())


def test_rows_without_any_target_are_left_out() -> None:
    _, target, score = single(3)
    unknown = np.vstack([np.full((3, 3), np.nan), np.zeros((2, 3))])
    more = np.vstack([target, unknown]), np.vstack([score, score[:5]])
    one, two = measured(named("single", 3), target, score), measured(named("single", 3), *more)
    assert {n: v[0] for n, v in one.overall.items()} == {n: v[0] for n, v in two.overall.items()}


def test_a_column_that_is_never_known_is_undefined() -> None:
    target = np.array([[1.0, np.nan], [2.0, np.nan], [4.0, np.nan]])
    values = measured(named("regression", 2), target, np.nan_to_num(target) + 1)
    assert values.per_class["mae"][0, 0] == 1.0
    assert all(np.isnan(table[1, 0]) for table in values.per_class.values())
    assert values.overall["mae"][0] == 1.0
    constant = measured(named("regression", 1), np.full((3, 1), 0.1), np.arange(3.0)[:, None])
    assert np.isnan(constant.overall["r2"][0])
    assert np.isnan(constant.overall["spearman"][0])


def test_what_cannot_be_measured_is_refused() -> None:
    _, target, score = single(3)
    with pytest.raises(DataError, match="no clip has a target"):
        measured(named("single", 3), np.full_like(target, np.nan), score)
    score[4, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        measured(named("single", 3), target, score)
