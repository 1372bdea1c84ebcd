from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from harken.covariates import Covariate, Covariates, Known, TrainingTable
from harken.errors import ConfigError, DataError
from harken.manifest import Manifest


def table(**columns: list[object]) -> Manifest:
    size = len(next(iter(columns.values())))
    ids = [f"c{i}" for i in range(size)]
    return Manifest(pl.DataFrame({"id": ids, "path": ids, **columns}, strict=False), "clips.csv")


def test_numbers_are_learned_from_training_rows_only() -> None:
    clips = table(age=[2, 4, 6, 100])
    known = Covariates.learn([Covariate(name="age")], clips, np.array([0, 1, 2]))
    (age,) = known.columns
    assert (age.encoding, age.mean) == ("number", 4.0)
    assert age.std == pytest.approx(np.std([2, 4, 6]))
    assert known.encode(clips)[:, 0].tolist() == [2, 4, 6, 100]


def test_categories_are_places_among_sorted_names() -> None:
    clips = table(word=["bee", "apple", "bee", "cup"])
    known = Covariates.learn([Covariate(name="word")], clips)
    assert known.columns[0].names == ("apple", "bee", "cup")
    assert known.encode(clips)[:, 0].tolist() == [1, 0, 1, 2]


def test_a_number_may_be_a_category_and_both_at_once() -> None:
    clips = table(age=[10, 2, 4])
    wanted = [Covariate(name="age"), Covariate(name="age", encoding="category")]
    known = Covariates.learn(wanted, clips)
    assert known.known("age", "category").names == ("2", "4", "10")
    assert known.place("age", "number") == 0
    assert known.place("age", "category") == 1
    assert known.encode(clips).tolist() == [[10, 2], [2, 0], [4, 1]]


def test_a_constant_number_has_deviation_one() -> None:
    assert Covariates.learn([Covariate(name="age")], table(age=[3, 3])).columns[0].std == 1.0


def test_unknown_and_missing_values_are_errors_that_name_the_row() -> None:
    clips = table(word=["a", "b", "zebra", None])
    known = Covariates.learn([Covariate(name="word")], clips, np.array([0, 1]))
    with pytest.raises(DataError, match="'zebra' was not in training") as error:
        known.encode(clips)
    assert error.value.where == "clips.csv:3"
    with pytest.raises(DataError, match="is missing"):
        known.encode(table(word=["a", ""]))


def test_or_take_a_default() -> None:
    clips = table(word=["a", "b", "zebra", None], age=[1.0, 3.0, None, 5.0])
    wanted = [
        Covariate(name="word", on_missing="default", default="b"),
        Covariate(name="age", on_missing="default", default=2),
    ]
    known = Covariates.learn(wanted, clips, np.array([0, 1]))
    assert known.encode(clips).tolist() == [[0, 1], [1, 3], [1, 2], [1, 5]]


def test_a_wish_in_passing_takes_over_the_default_given_elsewhere() -> None:
    clips = table(word=["a", "b", None])
    wanted = [
        Covariate(name="word", on_missing="default", default="b"),
        Covariate(name="word", encoding="category"),
    ]
    known = Covariates.learn(wanted, clips, np.array([0, 1]))
    assert len(known.columns) == 1
    assert known.encode(clips)[:, 0].tolist() == [0, 1, 1]
    assert Covariates.learn(wanted[::-1], clips, np.array([0, 1])) == known


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "age", "on_missing": "default"}, "needs a default"),
        ({"name": "age", "default": 3}, "is used with on_missing: default only"),
        ({"name": "age", "encodings": "number"}, "did you mean 'encoding'"),
    ],
)
def test_contradictory_settings_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Covariate.model_validate(config)


def test_a_bare_name_is_enough() -> None:
    assert Covariate.model_validate("age") == Covariate(name="age")


def test_bad_columns_are_named() -> None:
    clips = table(age=["two", "3"], word=[None, None])
    with pytest.raises(DataError, match="did you mean 'age'"):
        Covariates.learn([Covariate(name="agee")], clips)
    with pytest.raises(DataError, match="must be a number, and this is 'two'") as error:
        Covariates.learn([Covariate(name="age", encoding="number")], clips)
    assert error.value.where == "clips.csv:1"
    with pytest.raises(DataError, match="is empty"):
        Covariates.learn([Covariate(name="word")], clips)
    with pytest.raises(ConfigError, match="none of the training rows' values"):
        Covariates.learn([Covariate(name="age", on_missing="default", default="4")], clips)
    with pytest.raises(ConfigError, match="is a number, and its default is 'x'"):
        Covariates.learn([Covariate(name="n", on_missing="default", default="x")], table(n=[1, 2]))


def test_two_defaults_are_refused() -> None:
    wanted = [Covariate(name="n", on_missing="default", default=v) for v in (1, 2)]
    with pytest.raises(ConfigError, match="two defaults"):
        Covariates.learn(wanted, table(n=[1, 2]))


def test_they_travel_as_json() -> None:
    known = Covariates((Known("age", "number", mean=3.5, std=2.0), Known("w", "category", ("a",))))
    assert Covariates.from_json(json.loads(json.dumps(known.to_json()))) == known


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'word'"):
        Covariates((Known("word", "category", ("a",)),)).place("wrod")


def test_a_training_table_gives_codes() -> None:
    clips = table(word=["b", "a"], age=[1, 2])
    known = Covariates.learn([Covariate(name="age"), Covariate(name="word")], clips)
    training = TrainingTable(np.eye(2, dtype=np.float32), known, known.encode(clips))
    assert training.codes("word").tolist() == [1, 0]
