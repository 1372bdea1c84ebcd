"""Subgroups of clips: words as they stand, numbers in bins, and one-line refusals."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.errors import DataError
from harken.subgroups import MANY, Subgroups, read_numbers

FRAME = pl.DataFrame(
    {"age": [2, 10, None, 4, 7], "word": ["cup", " ", "bee", "cup", "nan"], "row": range(2, 7)}
)


def test_values_are_subgroups_in_their_own_order() -> None:
    members = Subgroups.model_validate("age").members(FRAME, "clips.csv")
    assert members.names == ("2", "4", "7", "10")
    assert members.codes.tolist() == [0, 3, -1, 1, 2]
    assert members.missing.tolist() == [False, False, True, False, False]
    assert not members.outside.any()
    words = Subgroups(column="word").members(FRAME, "clips.csv")
    assert words.names == ("bee", "cup")
    assert words.missing.sum() == 2
    floats = FRAME.with_columns(pl.col("age").cast(pl.Float64))
    assert Subgroups(column="age").members(floats, "clips.csv").names == members.names


def test_bins_are_closed_below_and_the_last_one_above_too() -> None:
    by = Subgroups(column="age", bins=(2, 4, 7, 10))
    members = by.members(FRAME, "clips.csv")
    assert members.names == by.bands == ("2 to <4", "4 to <7", "7 to 10")
    assert members.codes.tolist() == [0, 2, -1, 1, 2]
    narrow = Subgroups(column="age", bins=(3, 8)).members(FRAME, "clips.csv")
    assert narrow.outside.tolist() == [True, True, False, False, False]


@given(
    ages=st.lists(st.floats(0, 20, width=32), min_size=1, max_size=20),
    edges=st.lists(st.floats(0, 20, width=32), min_size=2, max_size=5, unique=True).map(sorted),
)
def test_bins_are_those_of_a_plain_loop(ages: list[float], edges: list[float]) -> None:
    by = Subgroups(column="age", bins=tuple(edges))
    codes = by.members(pl.DataFrame({"age": ages}), "t").codes
    for age, code in zip(ages, codes, strict=True):
        inside = [
            i
            for i, (low, high) in enumerate(itertools.pairwise(edges))
            if low <= age < high or (age == high == edges[-1])
        ]
        assert code == (inside[0] if inside else -1)


def test_names_that_others_learned_leave_strangers_out() -> None:
    by = Subgroups(column="word")
    members = by.members(FRAME, "clips.csv", ("cup",))
    assert members.codes.tolist() == [0, -1, -1, 0, -1]
    assert members.outside.tolist() == [False, False, True, False, False]
    assert by.members(FRAME, "clips.csv", ()).codes.tolist() == [-1] * 5


def test_mistakes_are_told_in_one_line() -> None:
    with pytest.raises(DataError, match="no column 'aeg', did you mean 'age'"):
        Subgroups(column="aeg").check(FRAME, "clips.csv")
    with pytest.raises(DataError, match=r"clips.csv:2: .*'word' must be a number.*'cup'"):
        Subgroups(column="word", bins=(0, 1)).check(FRAME, "clips.csv")
    with pytest.raises(DataError, match=r"clips.csv:3: age 10 lies outside the bins .* → widen"):
        Subgroups(column="age", bins=(0, 8)).check(FRAME, "clips.csv")
    Subgroups(column="age", bins=(0, 10)).check(FRAME, "clips.csv")
    with pytest.raises(DataError, match=r"clips.csv:4: age is missing → fill it in"):
        Subgroups(column="age").check(FRAME, "clips.csv", fill="fill it in")
    many = pl.DataFrame({"age": np.linspace(0, 9, MANY + 1)})
    with pytest.raises(DataError, match=r"1001 subgroups.* → \{column: age, bins:"):
        Subgroups(column="age").check(many, "clips.csv")
    for bins in ([3], [3, 3], [4, 2]):
        with pytest.raises(ValidationError, match="rising edges"):
            Subgroups(column="age", bins=tuple(bins))


def test_numbers_are_read_with_gaps() -> None:
    found = read_numbers(pl.DataFrame({"age": ["2", "", "4.5"]}), "age", "t")
    assert found[[0, 2]].tolist() == [2, 4.5]
    assert np.isnan(found[1])
