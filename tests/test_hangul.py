"""Korean letters by arithmetic, and difficulties counted by hand."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harken.hangul import FINALS, FIRST, LAST, ONSETS, VOWELS, Syllable, difficulty, syllables

BY_HAND = {
    "코": 2,  # 1 syllable + aspirated ㅋ
    "이": 2,  # 1 syllable, raised to the easy end
    "아기": 2,  # 2 syllables
    "우산": 4,  # 2 syllables + a final ㄴ (2)
    "나무": 2,  # 2 syllables
    "가방": 4,  # 2 + final (2)
    "토끼": 4,  # 2 + aspirated ㅌ + double ㄲ
    "사과": 3,  # 2 + vowel ㅘ
    "딸기": 6,  # 2 + final (2) + double ㄸ + liquid ㄹ
    "땅콩": 8,  # 2 + two finals (4) + double ㄸ + aspirated ㅋ
    "꽃": 5,  # 1 + final (2) + double ㄲ + aspirated final ㅊ
    "로봇": 5,  # 2 + final (2) + liquid, once
    "빨래": 6,  # 2 + final (2) + double ㅃ + liquid, once though there are two
    "색종이": 7,  # 3 + two finals (4)
    "냉장고": 7,  # 3 + two finals (4), ㅐ is simple
    "병원": 8,  # 2 + two finals (4) + ㅕ + ㅝ
    "화장실": 9,  # 3 + two finals (4) + ㅘ + liquid
    "짹짹": 8,  # 2 + two finals (4) + two ㅉ
    "닭": 4,  # 1 + one final, though it has two letters (2) + liquid in ㄺ
    "찢었다": 9,  # 3 + finals ㅈ and ㅆ (4) + double ㅉ and ㅆ (2)
    "컴퓨터": 9,  # 3 + final (2) + ㅋ ㅍ ㅌ + ㅠ
    "텔레비전": 10,  # 4 + finals ㄹ and ㄴ (4) + aspirated ㅌ + liquid
    "플라스틱컵꽃병": 11,  # 7 + five finals already is beyond the hard end
}
"""Counted letter by letter."""


@pytest.mark.parametrize(("word", "score"), BY_HAND.items())
def test_difficulties_counted_by_hand(word: str, score: int) -> None:
    assert difficulty(word) == score


def test_letters_of_known_syllables() -> None:
    assert syllables("한글") == [Syllable("ㅎ", "ㅏ", "ㄴ"), Syllable("ㄱ", "ㅡ", "ㄹ")]
    assert syllables("값") == [Syllable("ㄱ", "ㅏ", "ㅄ")]
    assert syllables("a 1아!") == [Syllable("ㅇ", "ㅏ", "")]


def test_the_letters_agree_with_unicode_s_names() -> None:
    assert (len(ONSETS), len(VOWELS), len(FINALS)) == (19, 21, 28)
    for code in range(FIRST, LAST + 1, 7):
        (part,) = syllables(chr(code))
        letters = [letter for letter in (part.onset, part.vowel, part.final) if letter]
        ours = [unicodedata.name(letter).removeprefix("HANGUL LETTER ") for letter in letters]
        jamo = unicodedata.normalize("NFD", chr(code))
        theirs = [unicodedata.name(letter).split(" ", 2)[2] for letter in jamo]
        assert ours == theirs


@given(st.text(st.characters(min_codepoint=FIRST, max_codepoint=LAST), min_size=1, max_size=8))
def test_scores_stay_on_the_scale_and_do_not_depend_on_typing(word: str) -> None:
    score = difficulty(word)
    assert 2 <= score <= 11
    assert difficulty(unicodedata.normalize("NFD", word)) == score


def test_rare_words_and_complex_vowels_are_the_caller_s() -> None:
    assert difficulty("우산", rare=("우산",)) == difficulty("우산") + 1
    assert difficulty("사과", complex_vowels="") == 2
    assert difficulty("의자") == 2
    assert difficulty("의자", complex_vowels="ㅢ") == 3


def test_other_scripts_have_no_score() -> None:
    assert difficulty("cup") == 0
    assert difficulty("") == 0


def test_it_is_fast() -> None:
    began = time.perf_counter()
    for _ in range(80 * 10):
        difficulty("텔레비전")
    assert time.perf_counter() - began < 1
