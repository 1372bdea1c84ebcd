from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from harken.report import figures
from harken.report.figures import Figure

NASTY = "<script>alert('$x$')</script>"


def parsed(figure: Figure) -> ElementTree.Element:
    root = ElementTree.fromstring(figure.svg)
    assert root.tag.endswith("svg")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == figure.alt
    assert "width" not in root.attrib
    return root


def history(epochs: int = 6, start: float = 1.0) -> list[dict[str, float]]:
    return [
        {"epoch": i, "train_loss": start / i, "valid_loss": start / i + 0.1, "valid_mae": 3.0}
        for i in range(1, epochs + 1)
    ]


def test_colours_are_variables_of_the_page_only() -> None:
    figure = figures.learning_curves({"a": history()}, "loss", "Loss", {"a": 4})
    assert figure is not None
    assert "var(--accent)" in figure.svg
    assert "var(--warm)" in figure.svg
    assert not re.search(r"#[0-9a-fA-F]{6}\b", figure.svg)
    assert "<style" not in figure.svg
    assert "<metadata" not in figure.svg


def test_learning_curves_tell_their_end_and_the_kept_epoch() -> None:
    figure = figures.learning_curves({"a": history()}, "loss", "Loss", {"a": 4})
    assert figure is not None
    parsed(figure)
    assert "training ends at 0.167" in figure.alt
    assert "epoch 4, which was kept" in figure.caption
    assert figure.key == (("warm", "training"), ("accent", "validation"))


def test_folds_are_faint_and_their_mean_ends_with_the_shortest() -> None:
    runs = {"1": history(4), "2": history(6), "3": history(8)}
    figure = figures.learning_curves(runs, "loss", "Loss", {})
    assert figure is not None
    assert "3 folds" in figure.caption
    paths = [p.attrib.get("d", "") for p in parsed(figure).iter() if p.tag.endswith("path")]
    curves = [d for d in paths if d.count("L") in (3, 5, 7)]
    assert sorted(d.count("L") for d in curves) == [3, 3, 3, 3, 5, 5, 7, 7]


def test_unknown_and_not_finite_values_are_left_out() -> None:
    rows = [{"epoch": 1, "valid_mae": float("nan")}, {"epoch": 2, "valid_mae": None}]
    assert figures.learning_curves({"a": rows}, "mae", "MAE", {}) is None
    assert figures.learning_curves({}, "loss", "Loss", {}) is None
    figure = figures.learning_curves({"a": [*rows, {"epoch": 3, "valid_mae": 2.0}]}, "mae", "M", {})
    assert figure is not None
    assert "validation ends at 2.000" in figure.alt


def test_ids_of_two_figures_never_meet() -> None:
    rng = np.random.default_rng(0)
    score, target = rng.random((40, 1)), rng.integers(0, 2, (40, 1)).astype(float)
    pair = figures.roc_and_precision_recall(score, target, ["x"], [0])
    assert pair is not None
    ids = [set(re.findall(r'\sid="([^"]+)"', figure.svg)) for figure in pair]
    assert ids[0]
    assert not ids[0] & ids[1]
    for figure, known in zip(pair, ids, strict=True):
        used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', figure.svg))
        assert {a or b for a, b in used} <= known


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_areas_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = (rng.random((60, 3)) < 0.4).astype(float)
    score = 0.5 * target + rng.random((60, 3))
    target[rng.random((60, 3)) < 0.1] = np.nan
    pair = figures.roc_and_precision_recall(score, target, ["a", "b", "c"], [0, 1, 2])
    assert pair is not None
    for column, name in enumerate("abc"):
        known = np.isfinite(target[:, column])
        area = roc_auc_score(target[known, column], score[known, column])
        mean = average_precision_score(target[known, column], score[known, column])
        assert f"{name} {area:.3f}" in pair[0].alt
        assert f"{name} {mean:.3f}" in pair[1].alt


def test_at_most_eight_labels_are_drawn_the_worst_ones_and_the_page_says_so() -> None:
    rng = np.random.default_rng(1)
    target = np.eye(12)[rng.integers(0, 12, 400)]
    score = target * np.linspace(0.1, 2, 12) + rng.random(target.shape)
    names = [f"label {i}" for i in range(12)]
    pair = figures.roc_and_precision_recall(score, target, names, range(12))
    assert pair is not None
    assert len(pair[0].key) == 8
    assert "8 of 12" in pair[0].caption
    assert "label 0 " in pair[0].alt
    assert "label 11 " not in pair[0].alt


def test_labels_of_one_kind_only_have_no_curve() -> None:
    assert figures.roc_and_precision_recall(np.ones((5, 1)), np.ones((5, 1)), ["a"], [0]) is None


def test_hostile_names_stay_text() -> None:
    rng = np.random.default_rng(0)
    score, target = rng.random((40, 1)), rng.integers(0, 2, (40, 1)).astype(float)
    pair = figures.roc_and_precision_recall(score, target, [NASTY], [0])
    assert pair is not None
    pictures = [*pair, *figures.scatter_and_residuals(rng.random(9), rng.random(9), NASTY)]
    pictures.append(figures.reliability(rng.random(40), target[:, 0], NASTY, NASTY))
    for figure in pictures:
        parsed(figure)
        assert "<script" not in figure.svg


def test_perfect_probabilities_have_no_calibration_error_and_sure_ones_do() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(20000)
    happened = (rng.random(20000) < probability).astype(float)
    good = figures.reliability(probability, happened, "x", "y")
    assert float(good.alt.split("error ")[1].split()[0]) < 0.02
    sure = figures.reliability(np.where(probability > 0.5, 0.99, 0.01), happened, "x", "y")
    assert float(sure.alt.split("error ")[1].split()[0]) == pytest.approx(0.24, abs=0.02)
    parsed(sure)


def test_reliability_of_few_clips_has_few_bins() -> None:
    parsed(figures.reliability(np.array([0.7]), np.array([1.0]), "x", "y"))
    few = figures.reliability(np.linspace(0, 1, 20), np.ones(20), "x", "y")
    assert "in 4 bins" in few.alt


def test_wilson_gives_the_published_interval() -> None:
    low, high = figures.wilson(np.array([0.0, 0.5]), np.array([10, 100]))
    assert low == pytest.approx([0.0, 0.4038], abs=1e-3)
    assert high == pytest.approx([0.2775, 0.5962], abs=1e-3)


def test_residuals_tell_the_bias_and_leave_unknown_targets_out() -> None:
    target = np.array([1.0, 2.0, 3.0, np.nan])
    first, second = figures.scatter_and_residuals(target, target + 0.5, "age")
    assert "3 clips" in first.alt
    assert "mean 0.5" in second.alt
    parsed(first)
    parsed(second)


def test_large_test_sets_stay_small_pictures() -> None:
    rng = np.random.default_rng(0)
    target = (rng.random((50000, 1)) < 0.5).astype(float)
    pair = figures.roc_and_precision_recall(target + rng.random((50000, 1)) * 3, target, ["a"], [0])
    assert pair is not None
    scatter, _ = figures.scatter_and_residuals(rng.random(50000), rng.random(50000), "v")
    assert max(len(figure.svg) for figure in (*pair, scatter)) < 400_000
