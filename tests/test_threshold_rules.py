"""Threshold rules: the published formula, fits by subgroup drawn to the whole, fixed ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.calibrate import Calibrate, Calibration, to_scores
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.manifest import Manifest
from harken.threshold_rules import FormulaThreshold, YoudenThreshold
from harken.thresholds import decide, fit_thresholds

Array = npt.NDArray[Any]
TWO = Labels("single", ("td", "ssd"), ("label",), positive="ssd")
MULTI = Labels("multi", ("a", "b"), ("a", "b"))


def clips(**columns: Any) -> Manifest:
    count = len(next(iter(columns.values())))
    ids = [f"c{i}" for i in range(count)]
    return Manifest(pl.DataFrame({"id": ids, "path": ids, **columns}), "clips.csv")


def drawn(rows: int, seed: int = 0, shift: float = 0.0) -> tuple[Array, Array]:
    """Targets and scores of two classes whose best threshold is near 1/2 + shift."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    score = np.clip(0.5 + shift + 0.15 * (2 * truth - 1) + 0.1 * rng.normal(size=rows), 0.01, 0.99)
    return np.eye(2)[truth], np.stack([1 - score, score], axis=1)


def test_the_formula_is_the_published_one() -> None:
    rule = FormulaThreshold(difficulty={"kind": "column", "column": "hard"})
    table = clips(age=[2, 2, 10, 10], hard=[2, 11, 2, 11])
    found = Calibrate(thresholds=rule).fit(TWO, np.eye(2), np.eye(2), table)
    limits = found.limits(TWO, table)
    assert np.allclose(limits, [[0.48], [0.53], [0.40], [0.45]], atol=1e-12)
    score = np.array([[0.53, 0.47], [0.47, 0.53], [0.6, 0.4], [0.6, 0.4]])
    assert decide(TWO, score, limits)[:, 1].tolist() == [False, True, True, False]


@given(
    age=st.floats(2, 10),
    hard=st.integers(2, 11),
    base=st.floats(0.2, 0.8),
    slope=st.floats(-0.2, 0.2),
    step=st.floats(-0.1, 0.1),
)
@settings(max_examples=40, deadline=None)
def test_every_coefficient_of_the_formula_counts(
    age: float, hard: int, base: float, slope: float, step: float
) -> None:
    words = {"kind": "table", "words": {"cup": hard}}
    rule = FormulaThreshold(base=base, per_decade=slope, per_difficulty=step, difficulty=words)
    found = rule.limits((base,), {}, clips(age=[age], word=["cup"]))
    expected = base + slope * float(np.float32(age)) / 10 + step * (hard - 2) / 9
    assert found[0, 0] == pytest.approx(expected, abs=1e-9)


def test_the_formula_reads_what_it_is_told_to() -> None:
    korean = FormulaThreshold(age=None, word="said", difficulty="hangul")
    assert korean.columns == ("said",)
    # 나무 has two syllables and nothing else; 자동차 three, a final and an aspirated consonant.
    limits = korean.limits((0.5,), {}, clips(said=["나무", "자동차"]))
    assert limits[:, 0] == pytest.approx([0.5, 0.5 + 0.05 * (6 - 2) / 9])
    years = FormulaThreshold(age="years")
    assert years.columns == ("years",)
    assert years.limits((0.5,), {}, clips(years=[5])) == pytest.approx(0.45)
    assert years.limits((0.5, 0.5), {}, clips(years=[5])).shape == (1, 2)
    with pytest.raises(ValidationError, match="fixed threshold"):
        FormulaThreshold(age=None)


def test_missing_ages_stop_or_take_the_base() -> None:
    table = clips(age=[4, None])
    with pytest.raises(DataError, match=r"clips.csv:2: the thresholds depend on age, which is mi"):
        FormulaThreshold().limits((0.5,), {}, table)
    soft = FormulaThreshold(on_missing="overall")
    assert soft.limits((0.5,), {}, table)[:, 0].tolist() == [0.46, 0.5]
    with pytest.raises(DataError, match="must be a number"):
        Calibrate(thresholds="formula").check(TWO, clips(age=["four"]))
    with pytest.raises(DataError, match="no column 'age'"):
        Calibrate(thresholds="formula").check(TWO, clips(years=[4]))
    words = {"kind": "table", "words": {"bee": 3}}
    with pytest.raises(DataError, match="no difficulty for the word 'cup'"):
        FormulaThreshold(age=None, difficulty=words).limits((0.5,), {}, clips(word=["cup"]))


@pytest.mark.parametrize("kind", ["f1", "youden"])
@pytest.mark.parametrize("shrinkage", [0.0, 7.0, 20.0])
def test_subgroups_are_drawn_to_the_whole(kind: Any, shrinkage: float) -> None:
    parts = [drawn(40, 1, -0.2), drawn(90, 2, 0.1), drawn(6, 3, 0.2)]
    target, score = (np.concatenate(each) for each in zip(*parts, strict=True))
    ages = np.repeat([2, 5, 9], [40, 90, 6])
    rule = {"kind": kind, "by": "age", "shrinkage": shrinkage}
    logits = np.log(score)
    found = Calibrate(thresholds=rule).fit(TWO, target, logits, clips(age=ages))
    exact = to_scores(TWO, logits)
    (whole,), _ = fit_thresholds(TWO, target, exact, kind)
    assert found.thresholds == (whole,)
    for age in (2, 5, 9):
        own = ages == age
        (alone,), _ = fit_thresholds(TWO, target[own], exact[own], kind)
        rarer = min(target[own].sum(axis=0))
        expected = (rarer * alone + shrinkage * whole) / (rarer + shrinkage)
        assert found.subgroups[str(age)] == (pytest.approx(expected),)
    limits = np.asarray(found.limits(TWO, clips(age=[9, 2, 3, 5])))
    order = [found.subgroups["9"], found.subgroups["2"], (whole,), found.subgroups["5"]]
    assert limits.tolist() == [list(values) for values in order]


def test_bins_part_ages_and_several_labels_have_several_thresholds() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, (60, 2)).astype(float)
    target[:30, 1] = np.nan
    logits = 2 * np.nan_to_num(target) - 1 + rng.normal(size=(60, 2))
    ages = np.repeat([3, 8], 30)
    rule = {"kind": "youden", "by": {"column": "age", "bins": [0, 4, 7, 99]}, "shrinkage": 5}
    found = Calibrate(thresholds=rule).fit(MULTI, target, logits, clips(age=ages))
    assert found.thresholds is not None
    assert set(found.subgroups) == {"0 to <4", "7 to 99"}
    assert found.subgroups["0 to <4"][1] == pytest.approx(found.thresholds[1])
    assert found.subgroups["0 to <4"][0] != pytest.approx(found.thresholds[0])
    assert "no threshold of their own, for want of one side: 4 to <7" in found.notes
    limits = np.asarray(found.limits(MULTI, clips(age=[1, 5, 120, 99])))
    expected = [found.subgroups["0 to <4"], *[found.thresholds] * 2, found.subgroups["7 to 99"]]
    assert limits.tolist() == [list(values) for values in expected]


def test_subgroups_help_where_they_differ() -> None:
    """Scores of young children lie lower; one threshold for all is wrong for both."""
    young, old = drawn(400, 1, -0.2), drawn(400, 2, 0.2)
    target, score = (np.concatenate(each) for each in zip(young, old, strict=True))
    table = clips(age=np.repeat([3, 9], 400))
    right = {}
    for by in (None, "age"):
        rule = Calibrate(thresholds={"kind": "youden", "by": by})
        found = rule.fit(TWO, target, np.log(score), table)
        decision = decide(TWO, score, found.limits(TWO, table))
        right[by] = float((decision == target.astype(bool))[:, 0].mean())
    assert right["age"] > right[None] + 0.05


def test_empty_cells_and_unseen_words() -> None:
    target, score = drawn(40)
    table = clips(word=["cup"] * 20 + ["bee"] * 20)
    strict = Calibrate(thresholds={"kind": "f1", "by": "word"})
    found = strict.fit(TWO, target, np.log(score), table)
    holes = clips(word=["cup", None, "zoo"])
    with pytest.raises(DataError, match=r"clips.csv:2: the thresholds depend on word"):
        found.limits(TWO, holes)
    with pytest.raises(DataError, match=r"clips.csv:2: word is missing .*overall|is missing →"):
        strict.check(TWO, holes)
    with pytest.raises(DataError, match="no column 'word'"):
        found.limits(TWO, clips(said=["cup"]))
    with pytest.raises(DataError, match="nothing is known of the clips"):
        found.limits(TWO, None)
    soft = Calibrate(thresholds={"kind": "f1", "by": "word", "on_missing": "overall"})
    soft.check(TWO, holes)
    found = soft.fit(TWO, target, np.log(score), table)
    assert found.thresholds is not None
    limits = np.asarray(found.limits(TWO, holes))[:, 0].tolist()
    assert limits == [found.subgroups["cup"][0], *found.thresholds, *found.thresholds]
    with pytest.raises(ConfigError, match="need the table of clips"):
        strict.fit(TWO, target, np.log(score))


def test_a_subgroup_of_one_class_has_no_threshold_of_its_own() -> None:
    target, score = drawn(40)
    table = clips(word=np.where(target[:, 1] > 0.5, "cup", "bee"))
    found = Calibrate(thresholds={"kind": "youden", "by": "word"}).fit(
        TWO, target, np.log(score), table
    )
    assert found.subgroups == {}
    assert np.unique(np.asarray(found.limits(TWO, table))).tolist() == list(found.thresholds or ())


def test_fixed_thresholds_by_label() -> None:
    zeros = np.zeros((0, 2))
    found = Calibrate(thresholds={"kind": "fixed", "value": {"b": 0.2}})
    assert found.fit(MULTI, zeros, zeros).thresholds == (0.5, 0.2)
    pair = Calibrate(thresholds={"kind": "fixed", "value": {"ssd": 0.3}})
    assert pair.fit(TWO, zeros, zeros).thresholds == (0.3,)
    with pytest.raises(ConfigError, match=r"no threshold is asked of 'td'.*of ssd"):
        Calibrate(thresholds={"kind": "fixed", "value": {"td": 0.3}}).check(TWO, clips(a=[1]))
    with pytest.raises(ValidationError, match="between 0 and 1"):
        Calibrate(thresholds={"kind": "fixed", "value": {"a": 1.5}})


def test_short_forms() -> None:
    assert Calibrate(thresholds=0.3).thresholds.model_dump() == {"kind": "fixed", "value": 0.3}
    assert Calibrate(thresholds="balanced_accuracy").thresholds == YoudenThreshold()
    by = Calibrate(thresholds={"kind": "balanced_accuracy", "by": "age"}).thresholds
    assert by.columns == ("age",)
    with pytest.raises(ValidationError, match=r"unknown kind 'yuoden'.*did you mean 'youden'"):
        Calibrate(thresholds="yuoden")
    schema = json.dumps(Calibrate.model_json_schema())
    assert '"number"' in schema


@pytest.mark.parametrize(
    "rule",
    [
        "none",
        0.25,
        "youden",
        {"kind": "f1", "by": {"column": "age", "bins": [0, 4, 99]}, "shrinkage": 3},
        {"kind": "youden", "by": "word", "on_missing": "overall"},
        {"kind": "formula", "difficulty": {"kind": "table", "words": {"cup": 3, "bee": 4}}},
    ],
)
def test_a_calibration_reads_back_and_decides_alike(rule: Any) -> None:
    target, score = drawn(60)
    table = clips(age=np.arange(60) % 9 + 1, word=["cup", "bee"] * 30)
    found = Calibrate(thresholds=rule, temperature=True).fit(TWO, target, np.log(score), table)
    again = Calibration.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert np.array_equal(
        decide(TWO, score, again.limits(TWO, table)), decide(TWO, score, found.limits(TWO, table))
    )


def test_tasks_without_thresholds_are_refused_before_training() -> None:
    three = Labels("single", ("a", "b", "c"), ("label",))
    with pytest.raises(ConfigError, match="three or more"):
        Calibrate(thresholds="formula").check(three, clips(age=[3]))
    value = Labels("regression", ("age",), ("age",))
    with pytest.raises(ConfigError, match="no temperature"):
        Calibrate(temperature=True).check(value, clips(age=[3]))
    Calibrate().check(three, clips(age=[3]))
