"""Difficulty-weighted loss: factors by table, by rule, or by class alone."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from harken.errors import ConfigError, DataError
from harken.losses import CrossEntropy, DifficultyWeighted, Focal
from loss_values import CHILDREN, module_and_value, normal, one_hot, value

CLASSES = [0, 1, 1, 0, 1, 0]
TARGET = one_hot(CLASSES, 2)
LOGITS = normal(6, 2, seed=1)
WORDS = ["코", "코", "땅콩", "땅콩", "아기", "아기"]
"""Difficulties 2, 2, 8, 8, 2, 2 (see test_hangul)."""
LEVELS = [2.0, 2.0, 8.0, 8.0, 2.0, 2.0]
PLAIN = value(CrossEntropy(), CHILDREN, LOGITS, TARGET)


def weighted(*factors: float) -> torch.Tensor:
    return torch.tensor(factors) * PLAIN


def test_the_seed_s_wired_form_depends_on_the_class_alone() -> None:
    ours = value(DifficultyWeighted(factors={"td": 1.4}), CHILDREN, LOGITS, TARGET)
    torch.testing.assert_close(ours, weighted(1.4, 1, 1, 1.4, 1, 1.4))


def test_a_table_by_word() -> None:
    loss = DifficultyWeighted(table={"코": {"td": 3.0, "ssd": 0.5}, "땅콩": {"ssd": 2.0}})
    ours = value(loss, CHILDREN, LOGITS, TARGET, word=WORDS)
    torch.testing.assert_close(ours, weighted(3, 0.5, 2, 1, 1, 1))
    more = loss.model_copy(update={"factors": {"td": 7.0}})
    ours = value(more, CHILDREN, LOGITS, TARGET, word=WORDS)
    torch.testing.assert_close(ours, weighted(3, 0.5, 2, 7, 1, 7))


def test_a_constant_table_is_scaled_cross_entropy() -> None:
    table = {word: {"td": 2.5, "ssd": 2.5} for word in WORDS}
    ours = value(DifficultyWeighted(table=table), CHILDREN, LOGITS, TARGET, word=WORDS)
    torch.testing.assert_close(ours, 2.5 * PLAIN)


def test_the_seed_s_unwired_draft_depends_on_the_word() -> None:
    draft = {"threshold": 3, "easy": {"ssd": 1.5, "td": 0.5}, "hard": {"ssd": 0.5, "td": 1.5}}
    ours = value(DifficultyWeighted(rule="hangul", **draft), CHILDREN, LOGITS, TARGET, word=WORDS)
    torch.testing.assert_close(ours, weighted(0.5, 1.5, 0.5, 1.5, 1.5, 0.5))
    by_column = DifficultyWeighted(rule={"kind": "column", "column": "level"}, **draft)
    torch.testing.assert_close(ours, value(by_column, CHILDREN, LOGITS, TARGET, level=LEVELS))
    words = {"코": 2, "땅콩": 8, "아기": 2}
    by_table = DifficultyWeighted(rule={"kind": "table", "words": words}, by="said", **draft)
    torch.testing.assert_close(ours, value(by_table, CHILDREN, LOGITS, TARGET, said=WORDS))


def test_the_threshold_itself_is_hard() -> None:
    loss = DifficultyWeighted(rule="hangul", threshold=2, hard={"td": 2, "ssd": 2})
    torch.testing.assert_close(value(loss, CHILDREN, LOGITS, TARGET, word=WORDS), 2 * PLAIN)


def test_unseen_words_weigh_one() -> None:
    words = [*WORDS[:4], "새", "새"]
    by_table = DifficultyWeighted(table={"새": {"td": 9.0}, "코": {"td": 3.0}})
    ours = value(by_table, CHILDREN, LOGITS, TARGET, train=4, word=words)
    torch.testing.assert_close(ours, weighted(3, 1, 1, 1, 1, 1))
    by_rule = DifficultyWeighted(rule="hangul", threshold=3, easy={"td": 2, "ssd": 2})
    ours = value(by_rule, CHILDREN, LOGITS, TARGET, train=4, word=words)
    torch.testing.assert_close(ours, weighted(2, 2, 1, 1, 1, 1))


def test_it_goes_around_any_loss_and_saves_nothing() -> None:
    loss = DifficultyWeighted(rule="hangul", threshold=3, easy={"td": 2, "ssd": 2}, of=Focal())
    module, ours = module_and_value(loss, CHILDREN, LOGITS, TARGET, word=WORDS)
    plain = value(Focal(), CHILDREN, LOGITS, TARGET)
    torch.testing.assert_close(ours, torch.tensor([2.0, 2, 1, 1, 2, 2]) * plain)
    assert not module.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say the factors"),
        ({"easy": {"td": 2}}, "go with a rule"),
        ({"rule": "hangul", "easy": {"td": 2}}, "a rule needs a threshold"),
        ({"rule": "hangul", "threshold": 2}, "a rule needs a threshold, and easy or hard"),
        ({"rule": "hangul", "threshold": 2, "easy": {"a": 1}, "factors": {"a": 1}}, "not from a"),
        ({"factors": {"td": -1}}, "greater than or equal to 0"),
    ],
)
def test_contradictory_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DifficultyWeighted(**options)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no label is called 'dt', did you mean 'td'"):
        value(DifficultyWeighted(factors={"dt": 1}), CHILDREN, LOGITS, TARGET)
    loss = DifficultyWeighted(rule="hangul", threshold=3, easy={"td": 2})
    with pytest.raises(DataError, match="'cup' has no Hangul syllable"):
        value(loss, CHILDREN, LOGITS, TARGET, word=["cup"] * 6)
