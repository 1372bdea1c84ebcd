"""The slot `difficulty`: how hard what a clip says is to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, field_validator
from torch import Tensor, nn

from harken import hangul
from harken.choice import Choice
from harken.covariates import Covariate, Covariates
from harken.errors import DataError
from harken.score_files import read_scores


class DifficultyModule(nn.Module):
    """Difficulties of clips, from their side information.

    Args:
        place: The column of the covariates.
        scores: A number per category, or None where the column itself is the number.
    """

    scores: Tensor | None

    def __init__(self, place: int, scores: Sequence[float] | None) -> None:
        super().__init__()
        values = None if scores is None else torch.tensor([*scores, torch.nan])
        self.register_buffer("scores", values, persistent=False)
        self.place = place

    def forward(self, covariates: Tensor) -> Tensor:
        """Return float32 `(batch,)` from covariates `(batch, columns)`; NaN for unknown words."""
        values = covariates[:, self.place]
        return values if self.scores is None else self.scores[values.long()]


class Difficulty(Choice):
    """How hard a word is to say; a plug-in defines `scores`."""

    def covariate(self, by: str) -> Covariate:
        """Return the side information that is read: the words, in the column `by`."""
        return Covariate(name=by, encoding="category", on_missing="unknown")

    def scores(self, words: Sequence[str]) -> list[float]:
        """Return how hard each word is.

        Raises:
            DataError: a word cannot be scored.
        """
        raise NotImplementedError

    def build(self, covariates: Covariates, by: str) -> DifficultyModule:
        """Build what reads the difficulty of clips off their side information.

        Raises:
            DataError: a training word cannot be scored.
        """
        place = covariates.place(by, "category")
        return DifficultyModule(place, self.scores(covariates.columns[place].names))

    def resolved(self) -> Self:
        """Return the config with the file that it refers to read in."""
        return self


class HangulDifficulty(Difficulty):
    """Korean words, scored from 2 to 11 by their letters.

    Syllables, twice the final consonants, double consonants, aspirated consonants, complex vowels,
    1 if there is a liquid, and 1 for a rare word.
    """

    kind: Literal["hangul"] = "hangul"
    rare: tuple[str, ...] = ()
    """Words that children seldom hear."""
    complex_vowels: str = hangul.COMPLEX_VOWELS
    """The vowels that count as complex, by default the diphthongs that begin with y or w."""

    @field_validator("complex_vowels")
    @classmethod
    def _are_vowels(cls, value: str) -> str:
        strange = [letter for letter in value if letter not in hangul.VOWELS]
        if strange:
            raise ValueError(f"{strange[0]!r} is no vowel of Hangul, one of {hangul.VOWELS}")
        return value

    def scores(self, words: Sequence[str]) -> list[float]:
        """Return how hard each word is; see `Difficulty.scores`."""
        found = [hangul.difficulty(word, self.rare, self.complex_vowels) for word in words]
        if 0 in found:
            raise DataError(
                f"{words[found.index(0)]!r} has no Hangul syllable",
                where="difficulty",
                fix="give the words' difficulties: {kind: table, words: words.csv}",
            )
        return [float(score) for score in found]


def _with_text_keys(value: Any) -> Any:
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else value


class TableDifficulty(Difficulty):
    """Words of any language, scored by a table."""

    kind: Literal["table"] = "table"
    words: Annotated[str | dict[str, float], BeforeValidator(_with_text_keys)]
    """Difficulty by word: a mapping, or a file of them (a JSON object, or a table with the columns
    `word` and `difficulty`)."""
    default: float | None = None
    """Difficulty of words that the table does not list; null: an error."""

    def resolved(self) -> Self:
        """Return the config with its file read in."""
        return self.model_copy(update={"words": self._by_word()})

    def _by_word(self) -> dict[str, float]:
        if isinstance(self.words, str):
            return read_scores(self.words, "word", "difficulty")
        return self.words

    def scores(self, words: Sequence[str]) -> list[float]:
        """Return how hard each word is; see `Difficulty.scores`."""
        by_word = self._by_word()
        missing = [word for word in words if word not in by_word]
        if missing and self.default is None:
            more = f" (and {len(missing) - 1} more words)" if len(missing) > 1 else ""
            raise DataError(
                f"no difficulty for the word {missing[0]!r}{more}",
                where="difficulty.words",
                fix="add it, or give a default",
            )
        return [by_word.get(word, self.default or 0.0) for word in words]


class ColumnDifficulty(Difficulty):
    """Difficulties that the table of clips holds already."""

    kind: Literal["column"] = "column"
    column: str = Field(min_length=1)
    """The table's column of numbers."""

    def covariate(self, by: str) -> Covariate:
        """Return the side information that is read: the column of numbers."""
        return Covariate(name=self.column, encoding="number")

    def build(self, covariates: Covariates, by: str) -> DifficultyModule:
        """Build what reads the column."""
        return DifficultyModule(covariates.place(self.column, "number"), None)
