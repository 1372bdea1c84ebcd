"""Labels: names in order, targets that say what the table says, and no silent loss."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.errors import ConfigError, DataError
from harken.labels import Labels, Target
from harken.manifest import Manifest

NAN = float("nan")


def table(**columns: Any) -> Manifest:
    size = len(next(iter(columns.values())))
    names = [f"c{i}" for i in range(size)]
    frame = pl.DataFrame({"id": names, "path": names, "row": range(2, size + 2), **columns})
    return Manifest(frame, origin="clips.csv")


def target(*columns: str, **options: Any) -> Target:
    return Target.model_validate({"columns": list(columns), **options})


def test_a_name_or_a_list_is_a_target() -> None:
    assert Target.model_validate("label") == target("label")
    assert Target.model_validate(["a", "b"]) == target("a", "b")
    assert Target.model_validate({"columns": "label", "task": "multi"}).columns == ["label"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"columns": []}, "at least one column"),
        ({"columns": ["a", "a"]}, "columns names one twice"),
        ({"columns": ["a"], "labels": ["x", "x"]}, "labels names one twice"),
        ({"columns": ["a"], "labels": ["x"]}, "two or more"),
        ({"columns": ["a", "b"], "labels": ["a", "b"]}, "labels are the columns"),
        ({"columns": ["a", "b"], "separator": ";"}, "a separator goes with one column"),
        ({"columns": ["a"], "separator": ";", "task": "single"}, "a separator goes with task"),
        ({"columns": ["a"], "task": "regression", "labels": ["x", "y"]}, "no labels"),
        ({"columns": ["a"], "task": "single", "missing": "mask"}, "does not go with"),
        ({"columns": ["a"], "separater": ";"}, "did you mean 'separator'"),
    ],
)
def test_targets_that_contradict_themselves(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Target.model_validate(config)


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["dog", "cat", "dog"], ("cat", "dog")),
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9", "2"], ("2", "9", "10")),
        ([1.0, 0.0, 1.0], ("0", "1")),
        ([True, False, True], ("false", "true")),
        (["b2", "b10", "a"], ("a", "b10", "b2")),
        ([" dog", "dog ", "cat"], ("cat", "dog")),
    ],
)
def test_names_are_sorted(cells: list[Any], names: tuple[str, ...]) -> None:
    clips = table(label=cells)
    labels = Labels.learn(target("label"), clips)
    assert labels.names == names
    assert labels.task == "single"
    encoded = labels.encode(clips)
    assert encoded.dtype == np.float32
    assert (encoded.sum(axis=1) == 1).all()


def test_single_label_one_hot_and_order_given() -> None:
    clips = table(label=["b", "a", "c"])
    labels = Labels.learn(target("label", labels=["c", "b", "a", "d"]), clips)
    assert labels.names == ("c", "b", "a", "d")
    assert labels.encode(clips).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    assert labels.groups == (("c", "b", "a", "d"),)
    assert labels.positive is None


def test_numbers_may_be_label_names_in_a_recipe() -> None:
    labels = Labels.learn(target("label", labels=[1, 0], positive=1), table(label=[0, 1]))
    assert (labels.names, labels.positive) == (("1", "0"), "1")


def test_positive_class() -> None:
    clips = table(label=["sick", "healthy"])
    assert Labels.learn(target("label"), clips).positive == "sick"
    assert Labels.learn(target("label", positive="healthy"), clips).positive == "healthy"
    with pytest.raises(ConfigError, match="did you mean 'healthy'"):
        Labels.learn(target("label", positive="health"), clips)


def test_labels_that_the_recipe_does_not_name() -> None:
    clips = table(label=["dog", "cat", "cot"])
    with pytest.raises(DataError, match="'cot' is not one of cat, dog, did you mean") as caught:
        Labels.learn(target("label", labels=["cat", "dog"]), clips)
    assert caught.value.where == "clips.csv:4"


@pytest.mark.parametrize(
    ("cells", "message"), [(["a", "a"], "only the class 'a'"), ([None, ""], "no")]
)
def test_fewer_than_two_classes(cells: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Labels.learn(target("label"), table(label=cells))


def test_unknown_column() -> None:
    with pytest.raises(DataError, match="did you mean 'label'"):
        Labels.learn(target("lable"), table(label=["a", "b"]))


@pytest.mark.parametrize("empty", [None, "", "nan", " "])
def test_a_missing_label_stops_or_is_dropped_in_words(empty: str | None) -> None:
    clips = table(label=["a", empty, "b"])
    with pytest.raises(DataError, match="no label in column 'label'") as caught:
        Labels.learn(target("label"), clips)
    assert caught.value.where == "clips.csv:3"
    assert "missing: drop" in (caught.value.fix or "")
    labels = Labels.learn(target("label", missing="drop"), clips)
    assert labels.names == ("a", "b")
    assert labels.usable(clips).tolist() == [True, False, True]
    assert labels.strata(clips).tolist() == [0, -1, 1]


def test_multi_label_columns_with_missing_cells() -> None:
    clips = table(slow=[0, 1, None], loud=["1", "false", "nan"], breathy=[True, False, None])
    labels = Labels.learn(target("slow", "loud", "breathy"), clips)
    assert (labels.task, labels.names) == ("multi", ("slow", "loud", "breathy"))
    np.testing.assert_array_equal(labels.encode(clips), [[0, 1, 1], [1, 0, 0], [NAN] * 3])
    assert labels.usable(clips).all()
    assert labels.strata(clips).tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
    dropping = Labels.learn(target("slow", "loud", missing="drop"), clips)
    assert dropping.usable(clips).tolist() == [True, True, False]
    with pytest.raises(DataError, match="no label in the target columns"):
        Labels.learn(target("slow", "loud", missing="error"), clips)


@pytest.mark.parametrize("cells", [[0, 2], ["0", "yes"], [0.0, 0.5]])
def test_multi_label_cells_must_be_0_or_1(cells: list[Any]) -> None:
    with pytest.raises(DataError, match="column 'b' must hold 0 or 1") as caught:
        Labels.learn(target("a", "b"), table(a=[0, 1], b=cells))
    assert caught.value.where == "clips.csv:3"


def test_one_flag_column() -> None:
    clips = table(slow=[0, 1])
    labels = Labels.learn(target("slow", task="multi"), clips)
    assert labels.names == ("slow",)
    assert labels.encode(clips).tolist() == [[0], [1]]
    with pytest.raises(ConfigError, match="separator"):
        Labels.learn(target("slow", task="multi", labels=["0", "1"]), clips)


def test_labels_parted_by_a_separator() -> None:
    clips = table(tags=["speech; music", "music", None, "speech;speech;"])
    labels = Labels.learn(target("tags", separator=";"), clips)
    assert (labels.task, labels.names) == ("multi", ("music", "speech"))
    np.testing.assert_array_equal(labels.encode(clips), [[1, 1], [1, 0], [NAN, NAN], [0, 1]])
    with pytest.raises(DataError, match="'music' is not one of") as caught:
        Labels.learn(target("tags", separator=";", labels=["speech", "noise"]), clips)
    assert caught.value.where == "clips.csv:2"


def test_labels_that_predictions_could_not_tell_apart() -> None:
    """`a|b` is what the two labels a and b are called together."""
    with pytest.raises(DataError, match=r"the label 'a\|b' holds a \|"):
        Labels.learn(target("tags", separator=";"), table(tags=["a;b", "a|b"]))
    with pytest.raises(DataError, match=r"'a\|b'"):
        Labels.learn(target("a|b", "c"), table(**{"a|b": [0, 1], "c": [1, 0]}))
    assert Labels.learn(target("tags"), table(tags=["a", "a|b"])).names == ("a", "a|b")


def test_labels_in_lists() -> None:
    clips = table(tags=[["b", "a"], [], None, ["a"]])
    labels = Labels.learn(target("tags"), clips)
    assert labels.task == "multi"
    np.testing.assert_array_equal(labels.encode(clips), [[1, 1], [0, 0], [NAN, NAN], [1, 0]])


def test_regression() -> None:
    clips = table(age=[3, None, 5], score=["1.5", "nan", "2"])
    labels = Labels.learn(target("age", "score", task="regression"), clips)
    assert labels.names == ("age", "score")
    np.testing.assert_array_equal(labels.encode(clips), [[3, 1.5], [NAN, NAN], [5, 2]])
    for bad in ("old", "inf"):
        with pytest.raises(DataError, match="must hold numbers") as caught:
            Labels.learn(target("age", task="regression"), table(age=["1", bad]))
        assert caught.value.where == "clips.csv:3"


def test_regression_strata_are_fifths() -> None:
    clips = table(age=np.arange(100.0))
    strata = Labels.learn(target("age", task="regression"), clips).strata(clips)
    assert strata.shape == (100, 5)
    assert strata.sum(axis=0).tolist() == [20] * 5


def test_soft_single_labels() -> None:
    clips = table(a=[0.3, 1.0, None], b=[0.7, 0.0, 0.5])
    labels = Labels.learn(target("a", "b", task="single", missing="drop"), clips)
    encoded = labels.encode(clips)
    np.testing.assert_allclose(encoded, [[0.3, 0.7], [1, 0], [NAN, NAN]], rtol=1e-6)
    assert labels.strata(clips).tolist() == [1, 0, -1]
    with pytest.raises(DataError, match="add up to 1") as caught:
        Labels.learn(target("a", "b", task="single"), table(a=[0.5, 1.0], b=[0.5, 0.5]))
    assert caught.value.where == "clips.csv:3"


def test_groups_order_the_names() -> None:
    clips = table(a=[0, 1], b=[1, 0], c=[1, 1])
    labels = Labels.learn(target("a", "b", "c", groups=[["c"], ["a", "b"]]), clips)
    assert labels.names == ("c", "a", "b")
    assert labels.groups == (("c",), ("a", "b"))
    assert labels.encode(clips).tolist() == [[1, 0, 1], [1, 1, 0]]
    for groups in ([["a"]], [["a", "b", "c", "c"]], [["a", "b", "c", "d"]]):
        with pytest.raises(ConfigError, match="groups must hold each of the 3 labels once"):
            Labels.learn(target("a", "b", "c", groups=groups), clips)


def test_json_round_trip() -> None:
    clips = table(label=["a", "b"])
    labels = Labels.learn(target("label", groups=[["b"], ["a"]], missing="drop"), clips)
    text = json.dumps(labels.to_json())
    assert Labels.from_json(json.loads(text)) == labels
    assert json.loads(text)["names"] == ["b", "a"]


def test_text_of_targets_and_decisions() -> None:
    single = Labels("single", ("a", "b"), ("label",))
    assert single.to_text(np.array([[0, 1], [0.9, 0.1], [NAN, NAN]])).to_list() == ["b", "a", None]
    multi = Labels("multi", ("x", "y"), ("x", "y"))
    values = np.array([[1, 1], [0, 0], [NAN, 1], [NAN, NAN]])
    assert multi.to_text(values).to_list() == ["x|y", "", "y", None]
    assert multi.to_text(np.array([[True, False]])).to_list() == ["x"]
    age = Labels("regression", ("age",), ("age",))
    assert age.to_text(np.array([[1.5], [NAN]])).to_list() == [1.5, None]
    two = Labels("regression", ("age", "iq"), ("age", "iq"))
    assert two.to_text(np.array([[1.5, 2.0], [NAN, NAN]])).to_list() == ["1.5|2.0", None]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["x", "y", "10", "9", "한"]), min_size=2, max_size=20))
def test_single_labels_survive_encoding(cells: list[str]) -> None:
    clips = table(label=cells)
    if len(set(cells)) < 2:
        with pytest.raises(DataError, match="only the class"):
            Labels.learn(target("label"), clips)
        return
    labels = Labels.learn(target("label"), clips)
    assert labels.to_text(labels.encode(clips)).to_list() == cells
    assert [labels.names[code] for code in labels.strata(clips)] == cells
