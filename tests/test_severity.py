"""Severity by speaker: 1 + a · score in training, the plain loss elsewhere, no collisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from harken.errors import DataError
from harken.losses import CrossEntropy, Focal, Mse, Severity
from loss_values import (
    CHILDREN,
    VALUES,
    batch_of,
    module_and_value,
    normal,
    one_hot,
    output_of,
    table_of,
    value,
)

CLASSES = [0, 1, 1, 0, 1]
TARGET = one_hot(CLASSES, 2)
LOGITS = normal(5, 2, seed=1)
SPEAKERS = ["s1", "s2", "s2", "s3", "s1"]
SCORES = {"s1": 0.0, "s2": 0.5, "s3": 3.08}


@pytest.mark.parametrize("inside", [CrossEntropy(), Focal()])
@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
def test_weights_are_one_plus_a_times_the_score(inside: object, factor: float) -> None:
    loss = Severity(scores=SCORES, factor=factor, of=inside)
    plain = value(inside, CHILDREN, LOGITS, TARGET)
    ours = value(loss, CHILDREN, LOGITS, TARGET, speaker=SPEAKERS)
    for i, speaker in enumerate(SPEAKERS):
        expected = (1 + factor * SCORES[speaker]) * float(plain[i])
        assert float(ours[i]) == pytest.approx(expected, rel=1e-5)


def test_evaluation_is_plain_and_needs_no_scores() -> None:
    loss = Severity(scores=SCORES)
    speakers = [*SPEAKERS[:4], "somebody new"]
    table, values = table_of(loss, TARGET, train=4, speaker=speakers)
    module = loss.build(CHILDREN, table).eval()
    plain = value(CrossEntropy(), CHILDREN, LOGITS, TARGET)
    torch.testing.assert_close(module(output_of(LOGITS), batch_of(TARGET, values)), plain)
    module.train()
    assert not torch.allclose(module(output_of(LOGITS), batch_of(TARGET, values)), plain)


def test_it_weighs_values_too() -> None:
    logits, target = normal(5, 1), normal(5, 1, seed=3)
    ours = value(Severity(scores=SCORES, of=Mse()), VALUES, logits, target, speaker=SPEAKERS)
    plain = value(Mse(), VALUES, logits, target)
    torch.testing.assert_close(ours[1:3], 2 * plain[1:3])
    torch.testing.assert_close(
        ours, value(Severity(scores=SCORES), VALUES, logits, target, speaker=SPEAKERS)
    )


def test_many_speakers_do_not_collide() -> None:
    """1,099 speakers shared 1,001 keys in the seed; here each has its own score."""
    names = [str(i + 1) for i in range(1099)]
    scores = {name: i / 1099 for i, name in enumerate(names)}
    target, logits = one_hot([0, 1] * 549 + [0], 2), torch.zeros(1099, 2)
    ours = value(Severity(scores=scores), CHILDREN, logits, target, speaker=list(range(1, 1100)))
    expected = torch.tensor([1 + 2 * scores[name] for name in names]) * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(ours, expected)


def test_scores_are_read_from_files_once(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SCORES))
    (tmp_path / "b.csv").write_text("child,cer\ns1,0\ns2,0.5\ns3,3.08\n")
    one = Severity(scores=str(tmp_path / "a.json"))
    two = Severity(scores=str(tmp_path / "b.csv"), by="child", column="cer")
    for loss in (one, two):
        columns = {loss.by: SPEAKERS}
        resolved = loss.resolved()
        assert resolved.scores == SCORES
        ours = value(loss, CHILDREN, LOGITS, TARGET, **columns)
        torch.testing.assert_close(ours, value(resolved, CHILDREN, LOGITS, TARGET, **columns))


def test_a_speaker_without_a_score_is_named_or_has_the_default() -> None:
    few = {"s1": 0.0}
    with pytest.raises(DataError, match=r"no score for the speaker 's2' \(and 1 more\)"):
        value(Severity(scores=few), CHILDREN, LOGITS, TARGET, speaker=SPEAKERS)
    ours = value(Severity(scores=few, default=1), CHILDREN, LOGITS, TARGET, speaker=SPEAKERS)
    weights = torch.tensor([1.0, 3, 3, 3, 1])
    torch.testing.assert_close(ours, weights * value(CrossEntropy(), CHILDREN, LOGITS, TARGET))


def test_bad_input_is_one_line() -> None:
    wrong = SCORES | {"s2": -2.0}
    with pytest.raises(DataError, match="score of the speaker 's2' makes its weight -3"):
        value(Severity(scores=wrong), CHILDREN, LOGITS, TARGET, speaker=SPEAKERS)
    with pytest.raises(ValidationError):
        Severity(scores=SCORES, factor=-1)
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        Severity(scores="nowhere.csv").resolved()


def test_nothing_of_it_is_saved() -> None:
    loss = Severity(scores=SCORES)
    module, _ = module_and_value(loss, CHILDREN, LOGITS, TARGET, speaker=SPEAKERS)
    assert not module.state_dict()
