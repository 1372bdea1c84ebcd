"""One decision for each speaker, from the mean of the clips' scores."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.labels import Labels
from harken.votes import count_votes

TWO = Labels("single", ("td", "ssd"), ("label",), positive="ssd")
MULTI = Labels("multi", ("a", "b"), ("a", "b"))
VALUE = Labels("regression", ("age",), ("age",))


def test_the_mean_decides_and_not_the_majority_of_decisions() -> None:
    ill = np.array([0.45, 0.45, 0.95, 0.6, 0.1])
    score = np.stack([1 - ill, ill], axis=1)
    target = np.eye(2)[[1, 1, 1, 0, 0]]
    votes = count_votes(TWO, target, score, ["x", "x", "x", "y", "y"])
    assert votes.voters == ["x", "y"]
    assert votes.num_clips.tolist() == [3, 2]
    assert votes.score[:, 1] == pytest.approx([0.6166666, 0.35])
    assert votes.decision is not None
    assert votes.decision.argmax(1).tolist() == [1, 0]
    assert votes.target.argmax(1).tolist() == [1, 0]
    assert votes.notes == []
    table = votes.table()
    assert table.columns == ["voter", "clips", "target", "decision", "score_td", "score_ssd"]
    assert table["decision"].to_list() == ["ssd", "td"]


def test_the_mean_of_the_thresholds_is_the_bar() -> None:
    score = np.array([[0.5, 0.5], [0.5, 0.5]])
    target = np.eye(2)[[1, 1]]
    for limits, expected in ((0.45, 1), (np.array([[0.3], [0.8]]), 0), ([0.5], 1)):
        votes = count_votes(TWO, target, score, ["x", "x"], limits)
        assert votes.decision is not None
        assert votes.decision.argmax(1).tolist() == [expected]


def test_targets_that_differ_are_told() -> None:
    target = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [np.nan, np.nan], [0, 1]])
    score = np.full((7, 2), 0.5)
    voters = ["mixed", "mixed", "mixed", "tied", "tied", "unknown", None]
    votes = count_votes(TWO, target, score, voters)
    assert votes.notes == [
        "1 clips without a speaker are left out",
        "2 of 3 speakers have clips of several classes; theirs is the majority's",
        "1 of 3 speakers have as many clips of one class as of another",
    ]
    assert votes.target[0].tolist() == [0, 1]
    assert np.isnan(votes.target[1:]).all()
    assert votes.table()["target"].to_list() == ["ssd", None, None]


def test_several_labels_and_values() -> None:
    target = np.array([[1, np.nan], [1, 0], [0, 1], [1, 0]])
    score = np.array([[0.9, 0.1], [0.3, 0.3], [0.6, 0.8], [0.7, 0.9]])
    votes = count_votes(MULTI, target, score, ["x", "x", "y", "y"])
    assert votes.target[0].tolist() == [1, 0]
    assert np.isnan(votes.target[1]).all()
    assert votes.decision is not None
    assert votes.decision.tolist() == [[True, False], [True, True]]
    assert "target_a" in votes.table().columns
    ages = count_votes(
        VALUE, np.array([[4.0], [6.0], [8.0]]), np.array([[5.0], [6.0], [9.0]]), ["x", "x", "y"]
    )
    assert ages.target[:, 0].tolist() == [5, 8]
    assert ages.score[:, 0].tolist() == [5.5, 9]
    assert ages.decision is None
    assert ages.notes == ["1 of 2 speakers have clips of several values; theirs is the mean"]


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_it_is_a_plain_group_mean(seed: int, rows: int, num_speakers: int) -> None:
    rng = np.random.default_rng(seed)
    speaker = rng.integers(0, num_speakers, rows)
    sick = rng.integers(0, 2, num_speakers)
    ill = rng.random(rows)
    score = np.stack([1 - ill, ill], axis=1)
    votes = count_votes(TWO, np.eye(2)[sick[speaker]], score, [f"s{s}" for s in speaker])
    frame = pl.DataFrame({"s": speaker, "ill": ill}).group_by("s", maintain_order=True).mean()
    assert votes.voters == [f"s{s}" for s in frame["s"]]
    assert votes.score[:, 1] == pytest.approx(frame["ill"].to_numpy())
    assert votes.target.argmax(1).tolist() == sick[frame["s"].to_numpy()].tolist()
    assert int(votes.num_clips.sum()) == rows
    assert votes.notes == []
