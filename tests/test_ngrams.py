from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from harken.errors import DataError
from harken.labels import Labels
from harken.ngrams import LENGTH, NGrams
from harken.probe import Rows, fit_probe

CLIPS = [np.array(ids) for ids in ([1, 2, 1, 2], [2, 1], [1, 1, 1, 3], [7, 7])]
TRAIN = np.array([0, 1, 2])


def test_runs_of_every_length_are_counted() -> None:
    assert sorted(NGrams().runs(np.array([4, 5, 5]))) == [(4,), (4, 5), (5,), (5,), (5, 5)]
    assert list(NGrams(largest=1).runs(np.array([4, 5]))) == [(4,), (5,)]
    assert list(NGrams(smallest=3, largest=3).runs(np.array([1, 2, 3, 4]))) == [
        (1, 2, 3),
        (2, 3, 4),
    ]
    assert list(NGrams(collapse=True).runs(np.array([5, 5, 5, 6]))) == [(5,), (6,), (5, 6)]
    assert list(NGrams(largest=3).runs(np.array([], dtype=int))) == []


def test_vectors_are_those_of_the_formula() -> None:
    found = NGrams(largest=1, min_clips=1).tf_idf(CLIPS, TRAIN).toarray()
    runs, counts = [1, 2, 3], np.array([[2, 2, 0], [1, 1, 0], [3, 0, 1], [0, 0, 0]])
    df = np.array([sum(run in clip for clip in CLIPS[:3]) for run in runs])
    with np.errstate(divide="ignore"):
        expected = np.where(counts > 0, 1 + np.log(counts), 0) * (1 + np.log(4 / (1 + df)))
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, LENGTH * expected / np.where(lengths > 0, lengths, 1))


def test_training_clips_alone_decide_which_runs_there_are() -> None:
    one = NGrams(min_clips=1).tf_idf(CLIPS, TRAIN)
    other = NGrams(min_clips=1).tf_idf([*CLIPS[:3], np.array([8, 9, 8, 9])], TRAIN)
    np.testing.assert_array_equal(one[:3].toarray(), other[:3].toarray())
    assert NGrams(min_clips=2).tf_idf(CLIPS, TRAIN).shape[1] < one.shape[1]
    assert NGrams(min_clips=1, max_runs=2).tf_idf(CLIPS, TRAIN).shape[1] == 2


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(DataError, match="no run of tokens"):
        NGrams(min_clips=4).tf_idf(CLIPS, TRAIN)
    with pytest.raises(ValidationError, match="smallest 3 is more than largest 2"):
        NGrams(smallest=3)


def test_a_probe_reads_sparse_vectors_as_it_reads_dense_ones() -> None:
    rng = np.random.default_rng(0)
    labels = Labels("single", ("a", "b"), ("label",))
    target = np.eye(2)[np.arange(60) % 2]
    clips = [rng.choice(8, 30, p=[0.3, 0.1, *[0.1] * 6][:: 1 if i % 2 else -1]) for i in range(60)]
    vectors = NGrams(largest=1).tf_idf(clips, np.arange(40))
    train, valid = (
        Rows(vectors[part], target[part], np.ones(len(target[part])))
        for part in (np.arange(40), np.arange(40, 60))
    )
    fitted = fit_probe("logistic", labels, train, valid)
    logits = fitted.logits(vectors[40:])
    assert (logits.argmax(1) == target[40:].argmax(1)).mean() > 0.8
    assert fitted.centre.shape == ()
