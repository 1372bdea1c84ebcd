"""Lwlrap and d′ against their definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm
from sklearn.metrics import label_ranking_average_precision_score, roc_auc_score

from harken.labels import Labels
from harken.metrics import METRICS, higher_is_better, quick_metrics, summarise
from harken.report.results import title
from harken.tagging import d_prime, ranked_precision

Array = npt.NDArray[np.float64]
LABELS = Labels("multi", tuple("abcde"), tuple("abcde"))


def sample(clips: int = 60, seed: int = 0, classes: int = 5) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    target = (rng.random((clips, classes)) < 0.4).astype(float)
    return target, np.round(rng.random((clips, classes)) * 0.7 + 0.3 * target, 2)


def lwlrap(target: Array, score: Array) -> float:
    known = ~np.isnan(target)
    return float(ranked_precision(target == 1, known, score).sum() / np.nansum(target))


@given(
    arrays(np.bool_, (7, 4)).filter(lambda a: a.any()),
    arrays(np.float64, (7, 4), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0])),
)
def test_lwlrap_is_scikit_learns_weighted_by_labels(
    actual: npt.NDArray[np.bool_], score: Array
) -> None:
    weight = actual.sum(axis=1).astype(float)
    expected = label_ranking_average_precision_score(actual, score, sample_weight=weight)
    assert lwlrap(actual.astype(float), score) == pytest.approx(expected)


def test_labels_that_are_not_known_are_not_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    target, score = sample()
    few, best = target.copy(), score.copy()
    few[:, 2], best[:, 2] = np.nan, 9.0
    columns = [0, 1, 3, 4]
    expected = lwlrap(target[:, columns], score[:, columns])
    assert lwlrap(few, best) == pytest.approx(expected)
    monkeypatch.setattr("harken.tagging._BLOCK", 15)
    assert lwlrap(few, best) == pytest.approx(expected)


def test_d_prime_is_that_of_the_mean_auc() -> None:
    target, score = sample()
    found = quick_metrics(LABELS, target, score)
    auc = roc_auc_score(target, score)
    assert found["d_prime"] == pytest.approx(np.sqrt(2) * norm.ppf(auc))
    # Two normal distributions one apart give a d′ of one.
    assert d_prime(np.array([norm.cdf(1 / np.sqrt(2))]))[0] == pytest.approx(1)
    assert d_prime(np.array([0.5]))[0] == 0
    assert np.isnan(d_prime(np.array([0.0, 1.0, np.nan]))).all()


def test_classes_without_positives_are_missing_values() -> None:
    target, score = sample()
    target[:, 4] = 0
    found = summarise(LABELS, target, score, num_resamples=100)
    rows = {row["label"]: row for row in found["per_class"]}
    assert rows["e"]["average_precision"] == {"value": None, "low": None, "high": None}
    assert rows["a"]["average_precision"]["low"] < rows["a"]["average_precision"]["high"]
    four = roc_auc_score(target[:, :4], score[:, :4])
    metrics = found["metrics"]
    assert metrics["d_prime"]["value"] == pytest.approx(np.sqrt(2) * norm.ppf(four))
    weight = target.sum(axis=1)
    expected = label_ranking_average_precision_score(target, score, sample_weight=weight)
    assert metrics["lwlrap"]["value"] == pytest.approx(expected)
    for name in ("lwlrap", "d_prime"):
        assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"]


def test_nothing_positive_and_perfect_ranking_are_told_from_zero() -> None:
    target, score = sample()
    nothing = quick_metrics(LABELS, target * 0, score)
    assert (nothing["lwlrap"], nothing["d_prime"]) == (None, None)
    perfect = quick_metrics(LABELS, target, target)
    assert perfect["lwlrap"] == 1
    assert perfect["d_prime"] is None


def test_both_are_metrics_to_choose_by() -> None:
    assert {"lwlrap", "d_prime"} <= set(METRICS["multi"])
    assert higher_is_better("lwlrap", LABELS)
    assert higher_is_better("d_prime", LABELS)
    assert (title("d_prime"), title("lwlrap")) == ("d′", "lwlrap")
