"""Dealing: units stay whole, sizes are met, proportions are kept, classes stay in training."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.model_selection import StratifiedGroupKFold

from harken.deal import carve, count_strata, deal, number_units
from harken.manifest import Manifest


def clips(paths: list[str], groups: list[str] | None = None) -> Manifest:
    columns: dict[str, Any] = {"id": [str(i) for i in range(len(paths))], "path": paths}
    return Manifest(pl.DataFrame(columns | ({"group": groups} if groups else {})))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_units_are_recordings_and_groups() -> None:
    paths = ["a", "a", "b", "c", "d"]
    assert number_units(clips(paths), True).tolist() == [0, 0, 1, 2, 3]
    apart = clips(paths, ["x", "x", "x", "y", "z"])
    assert number_units(apart, True).tolist() == [0, 0, 0, 1, 2]
    assert number_units(apart, False).tolist() == [0, 0, 1, 2, 3]


def test_a_recording_of_two_groups_joins_them() -> None:
    units = number_units(clips(["a", "a", "b", "c"], ["x", "y", "y", "z"]), True)
    assert units[0] == units[1] == units[2] != units[3]


def test_counts_of_classes_flags_and_nothing() -> None:
    units = np.array([0, 0, 1])
    assert count_strata(units, np.array([1, 1, -1])).toarray().tolist() == [[0, 2, 2], [0, 0, 1]]
    flags = np.array([[1, 0], [1, 1], [0, 1]])
    assert count_strata(units, flags).toarray().tolist() == [[2, 1, 2], [0, 1, 1]]
    assert count_strata(units, None).toarray().tolist() == [[2], [1]]


def test_sparse_flags_of_single_clips_are_counted_as_dense_ones() -> None:
    flags = (np.random.default_rng(0).random((200, 7)) < 0.2).astype(np.float32)
    dense = count_strata(np.arange(200), flags)
    found = count_strata(np.arange(200), sparse.csr_array(flags))
    for one, other in ((found.indptr, dense.indptr), (found.indices, dense.indices)):
        assert np.array_equal(one, other)
    assert np.array_equal(found.data, dense.data)
    units = np.arange(200) // 2
    shared = count_strata(units, sparse.csr_array(flags)).toarray()
    assert np.array_equal(shared, count_strata(units, flags).toarray())


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=60), st.floats(0.05, 0.6), st.integers(0, 9)
)
def test_single_clips_are_carved_in_proportion(labels: list[int], share: float, seed: int) -> None:
    strata = np.array(labels)
    counts = count_strata(np.arange(len(labels)), strata)
    taken = carve(counts, share * len(labels), None, rng(seed))
    assert taken.sum() == min(max(round(share * len(labels)), 1), len(labels) - 1)
    total, inside = np.bincount(strata, minlength=4), np.bincount(strata[taken], minlength=4)
    exact = total * taken.sum() / len(labels)
    # A class may be held back only because its last clip stays.
    assert (np.abs(inside - exact) < 2.0).all()
    if taken.sum() <= len(labels) - (total > 0).sum():
        assert (inside[total > 0] < total[total > 0]).all()


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_units_are_carved_whole_and_near_the_size(data: Any) -> None:
    size = data.draw(st.integers(6, 80))
    units = np.unique(
        data.draw(st.lists(st.integers(0, size // 2), min_size=size, max_size=size)),
        return_inverse=True,
    )[1]
    if units.max() == 0:
        return
    share = data.draw(st.floats(0.1, 0.5))
    counts = count_strata(units, None)
    taken = carve(counts, share * size, None, rng(data.draw(st.integers(0, 5))))
    biggest = np.bincount(units).max()
    assert 0 < taken.sum() < len(taken)
    assert abs(taken[units].sum() - share * size) <= biggest


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(0, 5))
def test_a_number_of_units_is_exact(number: int, seed: int) -> None:
    units = np.repeat(np.arange(10), np.arange(1, 11))
    counts = count_strata(units, np.arange(len(units)) % 3)
    assert carve(counts, 0, number, rng(seed)).sum() == number


def test_the_last_unit_of_a_class_is_left() -> None:
    units = np.arange(12)
    strata = np.array([0] * 10 + [1, 2])
    for seed in range(20):
        taken = carve(count_strata(units, strata), 0, 5, rng(seed))
        assert not taken[10:].any()
        assert taken.sum() == 5


def test_equal_parts_hold_equal_shares() -> None:
    strata = np.repeat(np.arange(4), [50, 25, 10, 5])
    parts = deal(count_strata(np.arange(90), strata), 5, rng())
    table = np.array([np.bincount(strata[parts == p], minlength=4) for p in range(5)])
    assert (table == [10, 5, 2, 1]).all()


def test_groups_are_dealt_as_evenly_as_scikit_learn_does() -> None:
    draw = rng(1)
    sizes = draw.integers(1, 15, 60)
    units = np.repeat(np.arange(60), sizes)
    lean = np.repeat(draw.beta(0.5, 0.5, 60), sizes)
    strata = (draw.random(len(units)) < lean).astype(np.int64)

    def unevenness(parts: np.ndarray) -> float:
        table = np.array([np.bincount(strata[parts == p], minlength=2) for p in range(5)])
        return float((table / table.sum(axis=0)).std(axis=0).mean())

    ours = np.mean(
        [unevenness(deal(count_strata(units, strata), 5, rng(s))[units]) for s in range(5)]
    )
    theirs = []
    for seed in range(5):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(units, strata, units)
        parts = np.zeros(len(units), dtype=np.int64)
        for number, (_, test) in enumerate(folds):
            parts[test] = number
        theirs.append(unevenness(parts))
    assert ours <= 1.1 * np.mean(theirs)
    assert ours < 0.02


def test_many_labels_keep_their_shares() -> None:
    flags = (rng(2).random((400, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]).astype(np.float32)
    taken = carve(count_strata(np.arange(400), flags), 80, None, rng())
    assert taken.sum() == 80
    np.testing.assert_allclose(flags[taken].sum(axis=0), flags.sum(axis=0) * 0.2, atol=1.5)


def test_draws_depend_on_the_seed_only() -> None:
    counts = count_strata(np.arange(50) // 2, np.arange(50) % 3)
    first = [deal(counts, 4, rng(seed)).tolist() for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


@pytest.mark.parametrize("per_unit", [1, 10])
def test_large_tables_take_moments(per_unit: int) -> None:
    size = 200_000
    strata = rng().integers(0, 20, size)
    units = np.arange(size) // per_unit
    start = time.process_time()
    parts = deal(count_strata(units, strata), 5, rng())[units]
    assert time.process_time() - start < 5
    table = np.array([np.bincount(strata[parts == p], minlength=20) for p in range(5)])
    np.testing.assert_allclose(table / table.sum(axis=0), 0.2, atol=0.02)
