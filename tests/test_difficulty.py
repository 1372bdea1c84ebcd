"""The slot of difficulties: Hangul by rule, any language by table, or a column of the clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from harken.covariates import Covariates
from harken.difficulty import (
    ColumnDifficulty,
    Difficulty,
    DifficultyModule,
    HangulDifficulty,
    TableDifficulty,
)
from harken.errors import DataError
from harken.manifest import Manifest

WORDS = ["코", "사과", "땅콩", "코"]


def scored(
    config: Difficulty, train: int | None = None, **columns: list[object]
) -> tuple[DifficultyModule, list[float]]:
    size = len(next(iter(columns.values())))
    ids = [f"c{i}" for i in range(size)]
    clips = Manifest(pl.DataFrame({"id": ids, "path": ids, **columns}, strict=False), "clips.csv")
    known = Covariates.learn([config.covariate("word")], clips, np.arange(train or size))
    module = config.build(known, "word")
    return module, module(torch.from_numpy(known.encode(clips))).tolist()


def test_hangul_is_scored_by_its_letters() -> None:
    module, scores = scored(HangulDifficulty(), word=WORDS)
    assert scores == [2, 3, 8, 2]
    assert not module.state_dict()
    assert scored(HangulDifficulty(rare=("코",)), word=WORDS)[1] == [3, 3, 8, 3]
    assert scored(HangulDifficulty(complex_vowels="ㅏ"), word=WORDS)[1] == [2, 3, 9, 2]


def test_a_table_scores_any_language(tmp_path: Path) -> None:
    words = {"cup": 2, "7": 4.5}
    cells = ["cup", 7, "cup"]
    assert scored(TableDifficulty(words=words), word=cells)[1] == [2, 4.5, 2]
    file = tmp_path / "words.csv"
    file.write_text("word,difficulty\ncup,2\n7,4.5\n")
    config = TableDifficulty(words=str(file))
    assert scored(config, word=cells)[1] == [2, 4.5, 2]
    resolved = config.resolved()
    file.unlink()
    assert scored(resolved, word=cells)[1] == [2, 4.5, 2]


def test_a_column_is_taken_as_it_stands() -> None:
    assert scored(ColumnDifficulty(column="hard"), hard=[3, 1.5])[1] == [3, 1.5]


def test_unseen_words_are_unknown() -> None:
    scores = scored(HangulDifficulty(), train=2, word=WORDS)[1]
    assert scores[:2] == [2, 3]
    assert np.isnan(scores[2])
    assert scores[3] == 2


def test_words_missing_from_the_table_are_named_or_have_the_default() -> None:
    config = TableDifficulty(words={"코": 1})
    with pytest.raises(DataError, match=r"no difficulty for the word '땅콩' \(and 1 more words\)"):
        scored(config, word=WORDS)
    assert scored(TableDifficulty(words={"코": 1}, default=5), word=WORDS)[1] == [1, 5, 5, 1]


def test_bad_input_is_one_line() -> None:
    with pytest.raises(DataError, match="'cup' has no Hangul syllable"):
        scored(HangulDifficulty(), word=["cup"])
    with pytest.raises(ValidationError, match="'x' is no vowel of Hangul"):
        HangulDifficulty(complex_vowels="x")
    with pytest.raises(DataError, match="must be a number"):
        scored(ColumnDifficulty(column="hard"), hard=["a", "b"])


def test_a_plug_in_joins_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Difficulty, "_kinds", dict(Difficulty._kinds))

    class Length(Difficulty):
        kind: str = "length-of-word"

        def scores(self, words: list[str]) -> list[float]:  # type: ignore[override]
            return [float(len(word)) for word in words]

    config = TypeAdapter(Difficulty).validate_python("length-of-word")
    assert scored(config, word=["cup", "apple"])[1] == [3, 5]
    assert TypeAdapter(Difficulty).validate_python("hangul") == HangulDifficulty()
