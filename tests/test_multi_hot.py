"""Sparse targets read like the dense ones that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harken.deal import count_strata
from harken.labels import Labels
from harken.losses.class_weights import balanced_pos_weights
from harken.multi_hot import MultiHot, is_empty, label_counts, some_rows
from harken.target import Target

NAN = float("nan")


def made(cells: list[set[int] | None], classes: int = 4) -> tuple[MultiHot, npt.NDArray[Any]]:
    pairs = [(row, label) for row, its in enumerate(cells) for label in sorted(its or ())]
    rows, labels = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    missing = np.array([its is None for its in cells], dtype=bool)
    dense = np.zeros((len(cells), classes), dtype=np.float32)
    dense[rows, labels] = 1
    dense[missing] = np.nan
    return MultiHot.of(rows, labels, missing, classes), dense


@given(st.lists(st.none() | st.sets(st.integers(0, 3)), min_size=1, max_size=12), st.data())
def test_rows_are_those_of_the_dense_table(
    cells: list[set[int] | None], data: st.DataObject
) -> None:
    sparse, dense = made(cells)
    assert sparse.shape == dense.shape
    rows = np.array(data.draw(st.lists(st.integers(0, len(cells) - 1), max_size=8)), dtype=np.int64)
    mask = rows.repeat(1) if not len(rows) else np.isin(np.arange(len(cells)), rows)
    for index in (rows, mask, slice(None), slice(1, 3)):
        np.testing.assert_array_equal(sparse[index], dense[index])
        np.testing.assert_array_equal(np.asarray(some_rows(sparse, index)), dense[index])
        np.testing.assert_array_equal(some_rows(dense, index), dense[index])
    assert sparse[rows].dtype == np.float32
    np.testing.assert_array_equal(np.asarray(sparse), dense)
    for ours, theirs in zip(label_counts(sparse), label_counts(dense), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert is_empty(sparse) == is_empty(dense)


def test_a_label_that_comes_twice_counts_once() -> None:
    frame = pl.DataFrame({"labels": [["b", "a", "b"], [], None, ["c"]]})
    labels = Labels.learn(Target(columns=["labels"]), frame)
    target = labels.targets(frame)
    assert isinstance(target, MultiHot)
    np.testing.assert_array_equal(target[:], [[1, 1, 0], [0] * 3, [NAN] * 3, [0, 0, 1]])
    assert labels.usable(frame).all()
    dropping = Labels.learn(Target(columns=["labels"], missing="drop"), frame)
    assert dropping.usable(frame).tolist() == [True, True, False, True]


def test_a_column_that_says_its_classes_keeps_them_and_their_order() -> None:
    names = ["z, z", "unused", "a"]
    cells = pl.Series("labels", [["a"], ["z, z", "a"]], dtype=pl.List(pl.Enum(names)))
    frame = pl.DataFrame({"labels": cells})
    labels = Labels.learn(Target(columns=["labels"]), frame)
    assert labels.names == tuple(names)
    assert labels.encode(frame).tolist() == [[0, 0, 1], [1, 0, 1]]
    some = Labels.from_json(labels.to_json())
    assert some.encode(pl.DataFrame({"labels": [["unused"]]})).tolist() == [[0, 1, 0]]


def test_strata_and_weights_do_without_the_dense_table(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse, dense = made([{0, 1}, {1}, {2}, {1, 3}, {0, 2}, None])
    labels = Labels("multi", tuple("abcd"), ("labels",))
    expected = count_strata(np.arange(6), np.nan_to_num(dense)).toarray()
    weights = balanced_pos_weights(labels, dense)
    monkeypatch.setattr(MultiHot, "__array__", None)
    monkeypatch.setattr(MultiHot, "__getitem__", None)
    assert (count_strata(np.arange(6), sparse.flags).toarray() == expected).all()
    assert balanced_pos_weights(labels, sparse) == weights
