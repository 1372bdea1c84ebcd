"""Decisions, thresholds and temperature: exact optima, and honest refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import brier_score_loss

from harken.calibrate import (
    Calibrate,
    Calibration,
    fit_temperature,
    reliability,
    to_scores,
)
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.thresholds import decide

Array = npt.NDArray[Any]
THREE = Labels("single", ("a", "b", "c"), ("label",))
TWO = Labels("single", ("ill", "well"), ("label",), positive="ill")
MULTI = Labels("multi", ("a", "b", "c"), ("a", "b", "c"))
VALUE = Labels("regression", ("age",), ("age",))


def overconfident(labels: Labels, rows: int = 400, factor: float = 3.0) -> tuple[Array, Array]:
    """Targets drawn from the scores of logits, and those logits times a factor."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, labels.num_classes)) * 1.5
    score = to_scores(labels, logits)
    if labels.task == "multi":
        return (rng.random(score.shape) < score).astype(np.float32), logits * factor
    drawn = [rng.choice(labels.num_classes, p=row) for row in score]
    return np.eye(labels.num_classes, dtype=np.float32)[drawn], logits * factor


def test_tasks_without_thresholds_refuse_them() -> None:
    score = np.full((2, 3), 1 / 3)
    with pytest.raises(ConfigError, match="three or more classes has no thresholds"):
        decide(THREE, score, 0.4)
    with pytest.raises(ConfigError, match="2 thresholds for 3 decisions"):
        decide(MULTI, score, [0.4, 0.5])
    with pytest.raises(ConfigError, match="regression has no thresholds"):
        Calibrate(thresholds=0.5).fit(VALUE, np.zeros((2, 1)), np.zeros((2, 1)))
    with pytest.raises(ConfigError, match="three or more"):
        Calibrate(thresholds="f1").fit(THREE, np.eye(3), np.eye(3))


def test_a_two_class_threshold_is_that_of_the_positive_class() -> None:
    target = np.eye(2)[[0] * 20 + [1] * 20]
    ill = np.concatenate([np.linspace(0.2, 0.4, 20), np.linspace(0.01, 0.1, 20)])
    logits = np.log(np.stack([ill, 1 - ill], axis=1))
    found = Calibrate(thresholds="youden").fit(TWO, target, logits)
    assert found.thresholds == (pytest.approx(0.15),)
    assert not found.notes
    assert (decide(TWO, found.scores(TWO, logits), found.thresholds) == target).all()


@pytest.mark.parametrize("labels", [THREE, MULTI], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("missing", [False, True])
def test_the_temperature_is_the_likelihoods_optimum(labels: Labels, missing: bool) -> None:
    target, logits = overconfident(labels)
    if missing:
        target[:9] = np.nan
        if labels.task == "multi":
            target[20:60, 1] = np.nan
    rows = ~np.isnan(target).all(1)
    inverse = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], max_iter=200, tolerance_grad=1e-12)
    truth, values = torch.tensor(target[rows]).double(), torch.tensor(logits[rows])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        if labels.task == "single":
            loss = torch.nn.functional.cross_entropy(values * inverse, truth)
        else:
            known = ~truth.isnan()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                (values * inverse)[known], truth[known]
            )
        loss.backward()
        return loss

    optimizer.step(closure)
    found = fit_temperature(labels, target, logits)
    assert found == pytest.approx(1 / inverse.item(), rel=1e-4)
    assert 2.3 < found < 3.9


@pytest.mark.parametrize("labels", [THREE, MULTI], ids=["softmax", "sigmoid"])
def test_temperature_lowers_the_calibration_error_and_keeps_the_order(labels: Labels) -> None:
    target, logits = overconfident(labels)
    plain = Calibrate().fit(labels, target, logits)
    fitted = Calibrate(temperature=True).fit(labels, target, logits)
    assert plain == Calibration()
    before = reliability(labels, target, plain.scores(labels, logits))
    after = reliability(labels, target, fitted.scores(labels, logits))
    assert after["ece"] < before["ece"] / 2
    assert after["brier"] < before["brier"]
    assert (plain.scores(labels, logits).argmax(1) == fitted.scores(labels, logits).argmax(1)).all()


def test_separable_clips_do_not_ask_for_a_temperature_of_zero() -> None:
    assert fit_temperature(THREE, np.eye(3), 5 * np.eye(3)) == pytest.approx(0.05, rel=1e-6)


def test_brier_is_scikit_learns() -> None:
    for labels in (TWO, THREE):
        target, logits = overconfident(labels)
        score, truth = to_scores(labels, logits), target.argmax(1)
        theirs = score[:, 1] if labels is TWO else score
        expected = brier_score_loss(truth, theirs, labels=range(labels.num_classes))
        assert reliability(labels, target, score)["brier"] == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    score = np.array([[0.95, 0.05], [0.95, 0.05], [0.3, 0.7], [0.35, 0.65]])
    target = np.eye(2)[[0, 1, 1, 1]]
    found = reliability(TWO, target, score, num_bins=10)
    assert found["ece"] == pytest.approx((2 * 0.45 + 2 * 0.325) / 4)
    filled = [bin_ for bin_ in found["bins"] if bin_["count"]]
    assert [bin_["count"] for bin_ in filled] == [2, 2]
    assert filled[0]["confidence"] == pytest.approx(0.675)
    assert filled[0]["accuracy"] == 1.0
    assert found["bins"][0]["accuracy"] is None
    assert len(reliability(TWO, target, score)["bins"]) == 15
    with pytest.raises(ConfigError):
        reliability(VALUE, np.zeros((2, 1)), np.zeros((2, 1)))
    with pytest.raises(DataError, match="no clip has a target"):
        reliability(TWO, np.full((2, 2), np.nan), score[:2])


def test_scores_are_torchs_and_do_not_overflow() -> None:
    logits = np.array([[1e4, -1e4, 3.0], [0.5, 0.2, -0.4]], dtype=np.float32)
    exact = torch.tensor(logits).double()
    np.testing.assert_allclose(to_scores(THREE, logits, 2.0), (exact / 2).softmax(1))
    np.testing.assert_allclose(to_scores(MULTI, logits), exact.sigmoid())
    np.testing.assert_array_equal(to_scores(VALUE, logits), logits)


def test_a_calibration_is_readable_and_reads_back() -> None:
    for value in (Calibration(), Calibration(1.5, (0.25, 0.5), ("a note",))):
        assert Calibration.from_json(value.to_json()) == value


def test_fixed_thresholds_and_wrong_settings() -> None:
    found = Calibrate(thresholds=0.3).fit(MULTI, np.zeros((0, 3)), np.zeros((0, 3)))
    assert found.thresholds == (0.3, 0.3, 0.3)
    assert Calibrate(thresholds=0.3).fit(TWO, np.eye(2), np.eye(2)).thresholds == (0.3,)
    for wrong in ({"thresholds": "f2"}, {"thresholds": 1.5}, {"threshold": 0.5}):
        with pytest.raises(ValidationError):
            Calibrate(**wrong)
    with pytest.raises(DataError, match="no validation clips"):
        Calibrate(temperature=True).fit(THREE, np.full((2, 3), np.nan), np.zeros((2, 3)))
    with pytest.raises(ConfigError, match="regression has no temperature"):
        Calibrate(temperature=True).fit(VALUE, np.zeros((2, 1)), np.zeros((2, 1)))
