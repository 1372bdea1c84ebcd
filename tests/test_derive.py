"""Derived columns: what clinicians rate, and what is learned of it."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from harken.derive import AnyOf, Derive, MaxOf, Recode, Threshold, apply_all
from harken.errors import DataError
from harken.manifest import Manifest
from harken.recipe import dump_recipe, validate


def clips(**columns: Any) -> Manifest:
    size = len(next(iter(columns.values())))
    names = [f"c{i}" for i in range(size)]
    frame = pl.DataFrame({"id": names, "path": names, "row": range(2, size + 2), **columns})
    return Manifest(frame, "clips.csv")


def column(step: Derive, name: str, **columns: Any) -> list[Any]:
    return step.apply(clips(**columns)).frame[name].to_list()


def test_kinds() -> None:
    assert set(Derive.kinds()) == {"any_of", "max_of", "recode", "threshold"}


def test_the_rule_of_distortions() -> None:
    """Any distorted consonant or vowel; an empty cell leaves a no in doubt."""
    cells = {"cs": [0, 1, 0, 2, None, None, None], "v": [0, 0, 3, 1, 0, 1, None]}
    step = AnyOf(name="distortions", columns=["cs", "v"])
    assert column(step, "distortions", **cells) == [0, 1, 1, 1, None, 1, None]
    trusting = AnyOf(name="distortions", columns=["cs", "v"], missing_if="all")
    assert column(trusting, "distortions", **cells) == [0, 1, 1, 1, 0, 1, None]
    strict = AnyOf(name="distortions", columns=["cs", "v"], above=1)
    assert column(strict, "distortions", **cells) == [0, 0, 1, 1, None, None, None]
    note = step.apply(clips(**cells)).notes[-1]
    assert note == "derived column 'distortions': 4 × 1, 1 × 0, 2 missing"


def test_text_and_nan_cells_are_read_as_numbers() -> None:
    step = AnyOf(name="x", columns=["a", "b"])
    cells = {"a": [" 0", "1.0", "nan", ""], "b": [0.0, float("nan"), 0.0, 2.0]}
    assert column(step, "x", **cells) == [0, 1, None, 1]
    assert column(AnyOf(name="x", columns="a"), "x", a=[True, False, None]) == [1, 0, None]
    with pytest.raises(
        DataError, match="column 'a' must hold numbers, and this is 'yes'"
    ) as caught:
        step.apply(clips(a=["0", "yes"], b=[0, 0]))
    assert caught.value.where == "clips.csv:3"


def test_max_of_and_threshold() -> None:
    cells = {"r1": [1.0, None, None, 2.5], "r2": [3.0, 2.0, None, 1.0]}
    assert column(MaxOf(name="m", columns=["r1", "r2"]), "m", **cells) == [3, 2, None, 2.5]
    strict = MaxOf(name="m", columns=["r1", "r2"], missing_if="any")
    assert column(strict, "m", **cells) == [3, None, None, 2.5]
    step = Threshold(name="t", column="r1", at_least=2.5)
    assert column(step, "t", **cells) == [0, None, None, 1]


def test_the_recode_of_scores() -> None:
    """-1 and 6 are no ratings, 1 is absent, 2 to 5 are present."""
    step = Recode(columns="score", map={1: 0, "2..5": 1}, missing=[-1, 6])
    assert column(step, "score", score=[-1, 1, 2, 3, 5, 6, None]) == [None, 0, 1, 1, 1, None, None]
    assert column(step, "score", score=[1.0, 2.5, 5.0]) == [0, 1, 1]
    assert column(step, "score", score=["1", " 4 ", "nan"]) == [0, 1, None]
    note = step.apply(clips(score=[-1, 1, 2, 3])).notes[-1]
    assert note == "recoded column 'score': 2 × 1, 1 × 0, 1 missing"


def test_values_that_are_named_nowhere() -> None:
    step = Recode(columns=["score"], map={1: 0, 2: 1}, missing=[6])
    with pytest.raises(DataError, match=r"'score' holds 9, which data\.derive does not") as caught:
        step.apply(clips(score=[1, 9, 9]))
    assert caught.value.where == "clips.csv:3"
    assert "in 2 rows" in str(caught.value)
    keep, drop = (step.model_copy(update={"others": word}) for word in ("keep", "missing"))
    assert column(keep, "score", score=[1, 9, 2, 6]) == [0, 9, 1, None]
    assert column(drop, "score", score=[1, 9, 2, 6]) == [0, None, 1, None]


def test_a_recoded_column_may_stand_beside_its_own() -> None:
    step = Recode(columns="speaker", into="accent", map={"theo": "USA", "lucas": "DEU"})
    found = step.apply(clips(speaker=["theo", "lucas"])).frame
    assert found["speaker"].to_list() == ["theo", "lucas"]
    assert found["accent"].to_list() == ["USA", "DEU"]
    with pytest.raises(DataError, match="'accent' is to be derived, and is there already"):
        step.apply(clips(speaker=["theo"], accent=["UK"]))
    assert Recode(columns="id", into="kind", map={1: 0}).into == ["kind"]


def test_words_recode_too_and_single_values_come_before_ranges() -> None:
    step = Recode(columns=["a", "b"], map={"mild": 1, "severe": None, "3": "x", "0..9": "y"})
    found = step.apply(clips(a=["mild", "severe", "3"], b=["3", "4", "3.0"]))
    assert found.frame["a"].to_list() == ["1", None, "x"]
    assert found.frame["b"].to_list() == ["x", "y", "x"]
    assert len(found.notes) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "recode", "columns": ["a"]}, "say in map or missing"),
        (
            {"kind": "recode", "columns": ["a", "b"], "into": ["c"], "map": {1: 0}},
            "into names 1 columns for 2",
        ),
        ({"kind": "recode", "columns": ["a"], "into": "id", "map": {1: 0}}, "harken itself needs"),
        ({"kind": "recode", "columns": ["a"], "map": {1: 0}, "missing": [1]}, "value 1 is in map"),
        ({"kind": "recode", "columns": ["id"], "map": {1: 0}}, "harken itself needs"),
        ({"kind": "recode", "columns": ["a"], "map": {"5..2": 0}}, r"range 5\.\.2 has no numbers"),
        ({"kind": "any_of", "columns": [], "name": "x"}, "at least 1"),
        ({"kind": "any_of", "columns": ["a"], "name": "path"}, "harken itself needs"),
        ({"kind": "anyof", "columns": ["a"]}, "did you mean 'any_of'"),
    ],
)
def test_derivations_that_make_no_sense(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Derive).validate_python(config)


def test_a_column_that_is_there_already() -> None:
    manifest = clips(a=[0, 1], x=[1, 1])
    with pytest.raises(DataError, match="'x' is to be derived, and is there already") as caught:
        AnyOf(name="x", columns=["a"]).apply(manifest)
    assert "replace: true" in str(caught.value)
    replaced = AnyOf(name="x", columns=["a"], replace=True).apply(manifest)
    assert replaced.frame["x"].to_list() == [0, 1]


def test_steps_see_what_earlier_ones_made() -> None:
    steps: list[Derive] = [
        Recode(columns=["cs", "v"], map={1: 0, "2..5": 1}, missing=[-1]),
        AnyOf(name="distortions", columns=["cs", "v"]),
    ]
    manifest = apply_all(steps, clips(cs=[1, 3, -1], v=[1, 1, 1]))
    assert manifest.frame["distortions"].to_list() == [0, 1, None]
    assert len(manifest.notes) == 3
    with pytest.raises(DataError, match="no column 'v'"):
        apply_all(steps, clips(cs=[1]))


def test_new_tables_need_not_have_what_labels_are_derived_from() -> None:
    steps: list[Derive] = [
        AnyOf(name="x", columns=["a", "b"]),
        Threshold(name="y", column="c", at_least=1),
    ]
    rated = apply_all(steps, clips(x=[1, 0]), strict=False)
    assert rated.frame["x"].to_list() == [1, 0]
    assert "y" not in rated
    with pytest.raises(DataError, match="no column 'a'"):
        apply_all(steps, clips(c=[1, 0]))
    with pytest.raises(DataError, match="no column 'b'"):
        apply_all(steps, clips(a=[1, 0]), strict=False)


def test_a_recipe_with_derivations_survives_saving() -> None:
    tree = {
        "data": {
            "source": {"kind": "table", "path": "x.csv"},
            "derive": [
                {"kind": "recode", "columns": ["a"], "map": {1: 0, "2..5": 1}, "missing": [-1]},
                {"kind": "any_of", "name": "x", "columns": ["a", "b"]},
            ],
        }
    }
    import yaml

    recipe = validate(tree)
    assert [step.model_dump()["kind"] for step in recipe.data.derive] == ["recode", "any_of"]
    assert validate(yaml.safe_load(dump_recipe(recipe))) == recipe


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.sampled_from([None, 0, 1, 2])] * 3), min_size=1))
def test_any_of_is_what_people_mean(rows: list[tuple[int | None, ...]]) -> None:
    cells = {
        name: pl.Series([row[i] for row in rows], dtype=pl.Int64) for i, name in enumerate("abc")
    }
    found = column(AnyOf(name="x", columns=list("abc")), "x", **cells)
    for row, value in zip(rows, found, strict=True):
        known = [cell for cell in row if cell is not None]
        expected = 1 if any(cell > 0 for cell in known) else 0 if len(known) == 3 else None
        assert value == expected
