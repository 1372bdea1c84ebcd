from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from harken.calibrate import Calibrate
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.manifest import Manifest
from harken.probe import GRIDS, Rows, fit_probe

SINGLE = Labels("single", ("a", "b", "c"), ("label",))
MULTI = Labels("multi", ("p", "q"), ("p", "q"))
VALUES = Labels("regression", ("age", "size"), ("age", "size"))
Array = npt.NDArray[np.float64]


def cloud(labels: Labels, count: int, seed: int, dim: int = 12) -> Rows:
    """Clips whose target is written into the first dimensions, on scales of its own."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim))
    if labels.task == "single":
        target = np.eye(labels.num_classes)[rng.integers(labels.num_classes, size=count)]
    elif labels.task == "multi":
        target = rng.integers(2, size=(count, labels.num_classes)).astype(float)
    else:
        target = rng.standard_normal((count, labels.num_classes))
    vectors[:, : labels.num_classes] += 3 * target
    vectors = vectors * np.linspace(0.01, 100, dim) + 7
    return Rows(vectors.astype(np.float32), target, np.ones(count))


def scores(kind: Any, labels: Labels, **options: Any) -> tuple[Array, Array]:
    fitted = fit_probe(kind, labels, cloud(labels, 200, 0), cloud(labels, 60, 1), **options)
    test = cloud(labels, 100, 2)
    return fitted.calibration.scores(labels, fitted.logits(test.vectors)), test.target


@pytest.mark.parametrize("kind", list(GRIDS))
@pytest.mark.parametrize("labels", [SINGLE, MULTI, VALUES], ids=lambda labels: labels.task)
def test_every_probe_learns_every_task(kind: Any, labels: Labels) -> None:
    if kind == "logistic" and labels.task == "regression":
        with pytest.raises(ConfigError, match="needs classes"):
            scores(kind, labels)
        return
    score, target = scores(kind, labels)
    if labels.task == "single":
        assert (score.argmax(1) == target.argmax(1)).mean() > 0.85
        np.testing.assert_allclose(score.sum(1), 1)
    elif labels.task == "multi":
        assert ((score >= 0.5) == (target >= 0.5)).mean() > 0.85
    else:
        assert np.corrcoef(score[:, 0], target[:, 0])[0, 1] > 0.75


def test_the_numbers_are_scikit_learn_s() -> None:
    train, valid, test = (cloud(SINGLE, n, s) for n, s in ((150, 0), (60, 1), (50, 2)))
    mean, std = (f(train.vectors, axis=0, dtype=np.float64) for f in (np.mean, np.std))
    x, y = (train.vectors - mean) / std, train.target.argmax(1)
    seen = (test.vectors - mean) / std
    logistic = fit_probe("logistic", SINGLE, train, valid)
    model = LogisticRegression(C=logistic.chosen, max_iter=5000, tol=1e-8).fit(x, y)
    found = logistic.calibration.scores(SINGLE, logistic.logits(test.vectors))
    np.testing.assert_allclose(found, model.predict_proba(seen), atol=2e-3)
    knn = fit_probe("knn", SINGLE, train, valid)
    votes = KNeighborsClassifier(int(knn.chosen)).fit(x, y).predict_proba(seen)
    np.testing.assert_allclose(
        knn.calibration.scores(SINGLE, knn.logits(test.vectors)), votes, atol=2e-3
    )
    ridge = fit_probe("ridge", SINGLE, train, valid)
    values = Ridge(alpha=ridge.chosen).fit(x, train.target).predict(seen)
    np.testing.assert_allclose(ridge.logits(test.vectors), values, atol=1e-6)


def test_two_classes_give_the_probability_of_the_second() -> None:
    labels = Labels("single", ("no", "yes"), ("label",))
    train, valid, test = (cloud(labels, n, s) for n, s in ((150, 0), (60, 1), (50, 2)))
    found = fit_probe("logistic", labels, train, valid)
    mean, std = (f(train.vectors, axis=0, dtype=np.float64) for f in (np.mean, np.std))
    model = LogisticRegression(C=found.chosen, max_iter=5000, tol=1e-8)
    model.fit((train.vectors - mean) / std, train.target.argmax(1))
    expected = model.predict_proba((test.vectors - mean) / std)
    score = found.calibration.scores(labels, found.logits(test.vectors))
    np.testing.assert_allclose(score, expected, atol=2e-3)


@pytest.mark.parametrize("kind", list(GRIDS))
def test_validation_rows_alone_choose_the_setting(kind: Any) -> None:
    """What wins is the best of those tried, and other validation rows give other numbers."""
    train, valid = cloud(SINGLE, 200, 0), cloud(SINGLE, 80, 1)
    found = fit_probe(kind, SINGLE, train, valid)
    values = [row["balanced_accuracy"] for row in found.tried]
    assert len(found.tried) == len([s for s in GRIDS[kind] if kind != "knn" or s <= 200])
    name = next(key for key in found.tried[0] if key != "balanced_accuracy")
    won = next(row for row in found.tried if row[name] == found.chosen)
    assert won["balanced_accuracy"] == max(v for v in values if v is not None)
    assert found.to_json()[name] == found.chosen
    shuffled = Rows(valid.vectors, valid.target[::-1], valid.weight)
    assert fit_probe(kind, SINGLE, train, shuffled).tried != found.tried


def test_another_metric_may_choose() -> None:
    train, valid = cloud(SINGLE, 100, 0), cloud(SINGLE, 40, 1)
    found = fit_probe("knn", SINGLE, train, valid, monitor="log_loss")
    losses = {row["k"]: row["log_loss"] for row in found.tried}
    assert losses[found.chosen] == min(v for v in losses.values() if v is not None)
    with pytest.raises(ConfigError, match="no metric"):
        fit_probe("knn", SINGLE, train, valid, monitor="log_los")


def test_standardising_uses_training_rows_only() -> None:
    train, valid = cloud(SINGLE, 100, 0), cloud(SINGLE, 40, 1)
    far = Rows(valid.vectors * 1000, valid.target, valid.weight)
    one, two = (fit_probe("ridge", SINGLE, train, each) for each in (valid, far))
    np.testing.assert_array_equal(one.centre, two.centre)
    np.testing.assert_allclose(one.centre, train.vectors.mean(axis=0, dtype=np.float64))
    constant = np.column_stack([train.vectors, np.full(100, 5.0)])
    assert fit_probe(
        "ridge",
        SINGLE,
        Rows(constant, train.target, train.weight),
        Rows(np.column_stack([valid.vectors, np.full(40, 5.0)]), valid.target, valid.weight),
    ).spread[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", list(GRIDS))
def test_missing_cells_leave_a_row_out_of_a_label_only(kind: Any) -> None:
    train, valid = cloud(MULTI, 200, 0), cloud(MULTI, 60, 1)
    holes = train.target.copy()
    holes[:150, 1] = np.nan
    partly = Rows(train.vectors, holes, train.weight)
    whole = fit_probe(kind, MULTI, train, valid)
    found = fit_probe(kind, MULTI, partly, valid)
    test = cloud(MULTI, 100, 2)
    assert np.isfinite(found.logits(test.vectors)).all()
    if kind == "ridge" and found.chosen == whole.chosen:
        np.testing.assert_allclose(
            found.logits(test.vectors)[:, 0], whole.logits(test.vectors)[:, 0], atol=1e-6
        )
    filled = np.where(np.isnan(holes), 0.0, holes)
    wrong = fit_probe(kind, MULTI, Rows(train.vectors, filled, train.weight), valid)
    assert not np.allclose(found.logits(test.vectors)[:, 1], wrong.logits(test.vectors)[:, 1])


@pytest.mark.parametrize("kind", list(GRIDS))
def test_a_label_of_one_class_gets_its_rate(kind: Any) -> None:
    train, valid = cloud(MULTI, 100, 0), cloud(MULTI, 40, 1)
    target = train.target.copy()
    target[:, 1] = 0.0
    found = fit_probe(kind, MULTI, Rows(train.vectors, target, train.weight), valid)
    score = found.calibration.scores(MULTI, found.logits(valid.vectors))
    assert (score[:, 1] < 0.5).all()


@pytest.mark.parametrize("kind", list(GRIDS))
def test_a_class_that_training_lacks_is_never_chosen(kind: Any) -> None:
    train, valid = cloud(SINGLE, 100, 0), cloud(SINGLE, 40, 1)
    rows = np.flatnonzero(train.target[:, 2] == 0)
    found = fit_probe(kind, SINGLE, train.take(rows), valid)
    assert (found.logits(valid.vectors).argmax(1) != 2).all()


@pytest.mark.parametrize("kind", list(GRIDS))
def test_weights_count(kind: Any) -> None:
    train, valid = cloud(SINGLE, 100, 0, dim=3), cloud(SINGLE, 40, 1, dim=3)
    heavy = Rows(train.vectors, train.target, np.where(train.target[:, 0] == 1, 50.0, 0.5))
    one, two = (fit_probe(kind, SINGLE, each, valid) for each in (train, heavy))
    vectors = cloud(SINGLE, 500, 5, dim=3).vectors - np.float32([0.015, 75, 150])
    shares = [(p.logits(vectors).argmax(1) == 0).mean() for p in (one, two)]
    assert shares[1] > shares[0]


def test_thresholds_and_temperature_come_from_validation_rows() -> None:
    train, valid = cloud(MULTI, 100, 0), cloud(MULTI, 40, 1)
    found = fit_probe("logistic", MULTI, train, valid, Calibrate(thresholds="f1"))
    assert found.calibration.thresholds is not None
    assert fit_probe("ridge", MULTI, train, valid).calibration.temperature != 1.0
    assert fit_probe("logistic", MULTI, train, valid).calibration.temperature == 1.0


def test_thresholds_by_a_column_of_the_clips() -> None:
    train, valid = cloud(MULTI, 100, 0), cloud(MULTI, 40, 1)
    valid.target[3] = np.nan
    names = [f"c{i}" for i in range(40)]
    words = ["cup", "bee"] * 20
    clips = Manifest(pl.DataFrame({"id": names, "path": names, "word": words}))
    rule = Calibrate(thresholds={"kind": "f1", "by": "word"})
    found = fit_probe("logistic", MULTI, train, valid, rule, clips=clips)
    assert set(found.calibration.subgroups) == {"bee", "cup"}
    limits = np.asarray(found.calibration.limits(MULTI, clips))
    assert limits[0].tolist() == list(found.calibration.subgroups["cup"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.full((40, 3), np.nan)}, "no validation clip has a label"),
        ({"vectors": np.full((40, 12), np.inf)}, "not finite"),
    ],
)
def test_rows_that_say_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    train, valid = cloud(SINGLE, 100, 0), cloud(SINGLE, 40, 1)
    parts = {"vectors": valid.vectors, "target": valid.target, "weight": valid.weight} | change
    with pytest.raises(DataError, match=message):
        fit_probe("ridge", SINGLE, train, Rows(**parts))


def test_an_unknown_probe_is_refused() -> None:
    train = cloud(SINGLE, 20, 0)
    with pytest.raises(ConfigError, match="no probe 'svm'"):
        fit_probe("svm", SINGLE, train, train)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(GRIDS))
def test_thousands_of_clips_take_seconds(kind: Any) -> None:
    train, valid = cloud(SINGLE, 2000, 0, dim=768), cloud(SINGLE, 300, 1, dim=768)
    began = time.perf_counter()
    fit_probe(kind, SINGLE, train, valid)
    assert time.perf_counter() - began < 20
