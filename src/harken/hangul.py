"""How hard a Korean word is to say, read off its letters.

A syllable block of Hangul is a number: 21 vowels and 28 finals (the first is none) count through
each of 19 onsets, so the letters follow by division and no dictionary is needed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
FINALS = (
    "",
    *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ",
)
FIRST, LAST = 0xAC00, 0xD7A3

DOUBLE = frozenset("ㄲㄸㅃㅆㅉ")
ASPIRATED = frozenset("ㅊㅋㅌㅍ")
LIQUID = frozenset("ㄹㄺㄻㄼㄽㄾㄿㅀ")
COMPLEX_VOWELS = "ㅑㅒㅕㅖㅛㅠㅘㅙㅝㅞ"
"""The ten diphthongs that begin with the glide y or w."""

EASIEST, HARDEST = 2, 11
"""The ends of the scale; what lies beyond counts as the end."""


@dataclass(frozen=True)
class Syllable:
    """The letters of one block: an onset (`ㅇ` is silent), a vowel, and a final or nothing."""

    onset: str
    vowel: str
    final: str


def syllables(word: str) -> list[Syllable]:
    """Return the syllables of a word; anything but Hangul blocks is skipped.

    Letters that are typed one by one (NFD) are put together first.
    """
    found = []
    for block in unicodedata.normalize("NFC", word):
        if FIRST <= ord(block) <= LAST:
            rest, final = divmod(ord(block) - FIRST, len(FINALS))
            onset, vowel = divmod(rest, len(VOWELS))
            found.append(Syllable(ONSETS[onset], VOWELS[vowel], FINALS[final]))
    return found


def difficulty(
    word: str, rare: Collection[str] = (), complex_vowels: Collection[str] = COMPLEX_VOWELS
) -> int:
    """Return how hard a word is to say, from 2 (easy) to 11; 0 where it has no Hangul syllable.

    It is the sum of the syllables, twice the final consonants, the double consonants, the aspirated
    consonants, the complex vowels, 1 if there is a liquid, and 1 for a rare word.

    Args:
        word: The word.
        rare: Words that children seldom hear.
        complex_vowels: The vowels that count as complex.
    """
    parts = syllables(word)
    if not parts:
        return 0
    consonants = [letter for part in parts for letter in (part.onset, part.final)]
    score = (
        len(parts)
        + 2 * sum(bool(part.final) for part in parts)
        + sum(letter in DOUBLE for letter in consonants)
        + sum(letter in ASPIRATED for letter in consonants)
        + sum(part.vowel in complex_vowels for part in parts)
        + any(letter in LIQUID for letter in consonants)
        + (word in rare)
    )
    return min(max(score, EASIEST), HARDEST)
