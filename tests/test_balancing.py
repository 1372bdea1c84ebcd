"""Balancing by group: N_g / N_g,c of the training rows, plain where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.errors import ConfigError, DataError
from harken.losses import Balancing, CrossEntropy, Focal
from harken.losses.balancing import balancing_weights
from loss_values import CHILDREN, MULTI, module_and_value, normal, one_hot, value

WORDS = ["bag", "bag", "bag", "bag", "cup", "cup", "cup"]
CLASSES = [0, 1, 1, 1, 0, 0, 1]
TARGET = one_hot(CLASSES, 2)
LOGITS = normal(7, 2, seed=1)


def loop(words: list[str], classes: list[int], plain: torch.Tensor) -> list[float]:
    """The seed's loop over items, with counts in place of its pasted table."""
    values = []
    for i, word in enumerate(words):
        same_word = [c for w, c in zip(words, classes, strict=True) if w == word]
        weight = len(same_word) / same_word.count(classes[i])
        values.append(weight * float(plain[i]))
    return values


@pytest.mark.parametrize("inside", [CrossEntropy(), Focal()])
def test_it_is_the_loop_over_items(inside: object) -> None:
    plain = value(inside, CHILDREN, LOGITS, TARGET)
    ours = value(Balancing(by="word", of=inside), CHILDREN, LOGITS, TARGET, word=WORDS)
    assert ours.tolist() == pytest.approx(loop(WORDS, CLASSES, plain))


@given(st.lists(st.lists(st.integers(1, 1000), min_size=3, max_size=3), min_size=1, max_size=9))
@settings(max_examples=50, deadline=None)
def test_reciprocals_sum_to_one(counts: list[list[int]]) -> None:
    weights = balancing_weights(np.array(counts, dtype=float))
    assert (1 / weights).sum(axis=1) == pytest.approx(1)


def test_uniform_data_is_cross_entropy_but_for_the_documented_factor() -> None:
    words, target = ["bag", "bag", "cup", "cup"], one_hot([0, 1, 1, 0], 2)
    plain = value(CrossEntropy(), CHILDREN, LOGITS[:4], target)
    ours = value(Balancing(by="word"), CHILDREN, LOGITS[:4], target, word=words)
    torch.testing.assert_close(ours, 2 * plain)
    even = Balancing(by="word", normalize=True)
    torch.testing.assert_close(value(even, CHILDREN, LOGITS[:4], target, word=words), plain)


def test_normalised_weights_have_mean_one() -> None:
    flat = torch.zeros(7, 2)
    ours = value(Balancing(by="word", normalize=True), CHILDREN, flat, TARGET, word=WORDS)
    assert float(ours.mean()) == pytest.approx(np.log(2))
    assert float(ours.std()) > 0.1


def test_unseen_and_rare_groups_weigh_one() -> None:
    words = [*WORDS, "zebra", None]
    target, logits = one_hot([*CLASSES, 1, 0], 2), torch.cat([LOGITS, LOGITS[:2]])
    ours = value(Balancing(by="word"), CHILDREN, logits, target, train=7, word=words)
    plain = value(CrossEntropy(), CHILDREN, logits, target)
    torch.testing.assert_close(ours[7:], plain[7:])
    assert not torch.isclose(ours[:7], plain[:7]).any()
    rare = Balancing(by="word", on_rare="plain")
    ours = value(rare, CHILDREN, logits, target, train=8, word=words)
    torch.testing.assert_close(ours[7:], plain[7:])
    assert not torch.isclose(ours[:7], plain[:7]).any()


def test_counts_skip_rows_without_a_target_and_they_give_nothing() -> None:
    target = torch.tensor(TARGET)
    target[3] = torch.nan
    ours = value(Balancing(by="word"), CHILDREN, LOGITS, target, word=WORDS)
    plain = value(CrossEntropy(), CHILDREN, LOGITS, TARGET)
    assert ours[3] == 0
    torch.testing.assert_close(ours[:3], torch.tensor([3.0, 1.5, 1.5]) * plain[:3])


def test_nothing_of_it_is_saved() -> None:
    module, _ = module_and_value(Balancing(by="word"), CHILDREN, LOGITS, TARGET, word=WORDS)
    assert not module.state_dict()


def test_bad_input_is_one_line() -> None:
    words = [*WORDS[:6], "owl"]
    classes = one_hot([0, 1, 1, 1, 0, 1, 1], 2)
    with pytest.raises(DataError, match="the word 'owl' has no training clip of td") as error:
        value(Balancing(by="word"), CHILDREN, LOGITS, classes, word=words)
    assert "on_rare=plain" in str(error.value)
    with pytest.raises(DataError, match="1 training rows have no word"):
        value(Balancing(by="word"), CHILDREN, LOGITS, TARGET, word=[*WORDS[:6], None])
    with pytest.raises(DataError, match="no column 'wrod', did you mean 'word'"):
        value(Balancing(by="wrod"), CHILDREN, LOGITS, TARGET, word=WORDS)
    with pytest.raises(ConfigError, match="balancing is a loss of single tasks"):
        value(Balancing(by="word"), MULTI, normal(2, 3), one_hot([0, 1], 3), word=["a", "b"])
