from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harken.report import results
from harken.report.contents import Contents, read_contents
from harken.report.results import Estimate
from run_folders import write_kfold, write_multi, write_regression, write_single


@pytest.fixture
def single(tmp_path: Path) -> Contents:
    return read_contents(write_single(tmp_path / "run"))


def judged(contents: Contents) -> pl.DataFrame:
    frame = contents.judged()
    assert frame is not None
    return frame


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-1.5, "−1.500"),
        (1234.56, "1234.6"),
        (12345, "12 345"),
        (None, "–"),
        (math.nan, "–"),
        ("text", "text"),
        (True, "True"),
    ],
)
def test_numbers_are_written_for_people(value: object, text: str) -> None:
    assert results.number(value).replace("\u202f", " ").replace("\u2009", " ") == text


def test_estimates_read_both_forms() -> None:
    assert results.estimate({"value": 0.5, "low": 0.4, "high": 0.6}).interval == "0.400 – 0.600"
    assert results.estimate(0.5).interval == ""
    assert results.estimate({"value": None, "low": None, "high": None}).text == "–"
    assert not Estimate(1.5).on_scale
    assert not Estimate(0.5, -0.2, 0.6).on_scale
    assert Estimate(0.5, 0.2, 0.6).on_scale


def test_leading_metrics_come_first_with_what_guessing_reaches(single: Contents) -> None:
    table = results.metrics(single)
    assert [m.key for m in table[:4]] == ["balanced_accuracy", "accuracy", "roc_auc", "f1_macro"]
    assert table[0].chance == 0.5
    assert table[0].name == "Balanced accuracy (UAR)"
    assert math.isfinite(table[0].valid.value)


def test_empty_columns_of_the_class_table_are_left_out(single: Contents) -> None:
    columns, rows = results.classes(single)
    assert columns == ["Precision", "Recall", "F1"]
    assert [row[0] for row in rows] == ["clear", "rough"]
    assert sum(row[1] for row in rows) == 60


def test_confusion_shares_are_of_the_true_label(single: Contents) -> None:
    rows = results.confusion(single)
    for _, cells in rows:
        assert sum(share for _, share in cells) == pytest.approx(1.0)
    told = results.mixed_up(rows)
    frame = judged(single)
    wrong = frame.filter((pl.col("target") == "clear") & (pl.col("decision") == "rough"))
    assert f"clear taken for rough: {len(wrong)} of its clips" in " ".join(told)


def test_folds_have_mean_and_deviation(tmp_path: Path) -> None:
    contents = read_contents(write_kfold(tmp_path / "run"))
    columns, rows, summary = results.folds(contents)
    assert columns[0] == "Balanced accuracy (UAR)"
    assert len(rows) == 3
    assert summary[0].endswith("± 0.020")


def test_mistakes_are_the_costliest_wrong_decisions(single: Contents) -> None:
    frame = judged(single)
    found = results.mistakes(single, frame, 5)
    losses = [mistake.row["loss"] for mistake in found]
    assert losses == sorted(losses, reverse=True)
    assert all(m.wrong and m.row["target"] != m.row["decision"] for m in found)
    wrong = frame.filter(pl.col("target") != pl.col("decision"))
    assert losses[0] == pytest.approx(wrong["loss"].max())
    assert ("group", str(found[0].row["group"])) in found[0].facts
    assert "age" in dict(found[0].facts)
    assert found[0].scores[0][0] == found[0].row["decision"]


def test_without_mistakes_the_hardest_right_clips_are_shown(single: Contents) -> None:
    frame = judged(single).with_columns(decision=pl.col("target"))
    found = results.mistakes(single, frame, 4)
    assert len(found) == 4
    assert not any(mistake.wrong for mistake in found)
    assert found[0].row["loss"] == pytest.approx(frame["loss"].max())


def test_unknown_labels_make_no_mistake(tmp_path: Path) -> None:
    contents = read_contents(write_multi(tmp_path / "run"))
    frame = judged(contents)
    target, scores = contents.target(frame), contents.scores(frame)
    expected = (np.isfinite(target) & ((scores > 0.5) != (target == 1))).any(axis=1)
    assert np.array_equal(results.is_wrong(contents, frame), expected)


def test_groups_are_listed_the_hardest_first(single: Contents) -> None:
    columns, rows = results.groups(single, judged(single))
    assert columns[3] == "Right"
    shares = [int(row[3].rstrip("%")) for row in rows]
    assert shares == sorted(shares)
    assert len(rows) == 12
    assert results.groups(single, judged(single).drop("group")) == ([], [])


def test_regression_shows_errors(tmp_path: Path) -> None:
    contents = read_contents(write_regression(tmp_path / "run"))
    frame = judged(contents)
    columns, rows = results.groups(contents, frame)
    assert columns[3] == "Mean absolute error"
    assert float(rows[0][3]) >= float(rows[-1][3])
    worst = results.mistakes(contents, frame, 3)[0].row
    gap = np.abs(frame["score_age"].to_numpy() - frame["target_age"].to_numpy())
    assert abs(worst["score_age"] - worst["target_age"]) == pytest.approx(gap.max())
    assert results.mistakes(contents, frame, 3)[0].wrong is False


def test_facts_do_not_repeat_the_label_or_the_group(single: Contents) -> None:
    frame = judged(single).with_columns(
        voice=pl.col("target"), speaker=pl.col("group"), site=pl.lit("A"), table_loss=pl.lit(1)
    )
    names = [name for name, _ in results.mistakes(single, frame, 1)[0].facts]
    assert names == ["group", "age", "site"]


def test_parts_and_leaves(single: Contents) -> None:
    assert results.parts(single) == [("train", "240"), ("valid", "40"), ("test", "60")]
    leaves = dict(results.flat(single.environment))
    assert leaves["packages.torch"] == "2.15.0"
    assert "packages.timm" not in leaves
    assert leaves["command"].endswith("'my recipe.yaml' --out runs/a")
