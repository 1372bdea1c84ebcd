from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import find_peaks

from harken.hangul import FINALS, FIRST, LAST, ONSETS
from harken.sources.utterance import GLIDES, LIQUID, SPOKEN_FINALS, VOWELS, pieces_of, say
from harken.sources.utterance import Piece as Piece
from harken.sources.voice import Voice

RATE = 16000
VOICE = Voice(f0=120.0, jitter=0.005, shimmer=0.02, breath=0.03)


def spoken(word: str, voice: Voice = VOICE, seconds: float = 3.0, seed: int = 0) -> npt.NDArray:
    return say(pieces_of(word), voice, seconds, RATE, np.random.default_rng(seed))


def high_share(wave: npt.NDArray, cut: float = 4000.0) -> float:
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    return float(power[round(cut * len(wave) / RATE) :].sum() / power.sum())


def test_every_letter_of_hangul_has_a_sound() -> None:
    assert set(VOWELS) | set(GLIDES) == set("ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ")
    assert set(SPOKEN_FINALS) == set(FINALS) - {""}
    words = [chr(FIRST + 588 * onset) for onset in range(len(ONSETS))]
    sounds = {tuple(pieces_of(word)) for word in words}
    assert len(sounds) == len(ONSETS)


@settings(max_examples=40, deadline=None)
@given(
    word=st.text(st.characters(min_codepoint=FIRST, max_codepoint=LAST), min_size=1, max_size=4),
    seconds=st.floats(0.2, 2.0),
)
def test_any_word_is_said_in_time_and_at_unit_peak(word: str, seconds: float) -> None:
    wave = spoken(word, seconds=seconds)
    assert len(wave) <= round(seconds * RATE)
    assert np.abs(wave).max() == pytest.approx(1.0)
    natural = sum(piece.seconds for piece in pieces_of(word))
    assert len(wave) >= 0.5 * min(natural, seconds) * RATE


@pytest.mark.parametrize("vowel", ["ㅏ", "ㅗ", "ㅣ", "ㅔ"])
@pytest.mark.parametrize("tract", [1.0, 1.5])
def test_vowels_have_their_formants_scaled_by_the_tract(vowel: str, tract: float) -> None:
    letters = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
    word = chr(FIRST + 588 * ONSETS.index("ㅇ") + 28 * letters.index(vowel))
    noise = Voice(f0=60.0, tract=tract, breath=3.0)
    total = np.zeros(1025)
    for seed in range(12):
        wave = spoken(word, noise, seed=seed)
        middle = wave[len(wave) // 2 - 1024 : len(wave) // 2 + 1024][:2048]
        total += np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2048)) ** 2
    smooth = np.convolve(np.log(total), np.hanning(21) / 10, mode="same")
    peaks = find_peaks(smooth)[0] * RATE / 2048
    for formant in VOWELS[vowel]:
        assert np.abs(peaks - formant * tract).min() < 0.12 * formant * tract, peaks


def test_an_s_hisses_higher_than_any_other_sound_and_lower_before_i() -> None:
    share = {word: high_share(spoken(word)) for word in ("사", "다", "나", "라", "아", "가")}
    assert share["사"] > 5 * max(value for word, value in share.items() if word != "사")
    hiss = [spoken(word)[: round(0.06 * RATE)] for word in ("사", "시")]
    middle = [
        float(np.average(np.arange(481), weights=np.abs(np.fft.rfft(w[:960])) ** 2)) for w in hiss
    ]
    assert middle[0] > 1.2 * middle[1]


def test_stops_are_silent_before_they_burst_and_aspirated_ones_breathe_longer() -> None:
    def first_voice(word: str) -> float:
        """Seconds from the burst to where the energy is that of a vowel."""
        wave = spoken(word)
        level = np.sqrt(np.convolve(wave**2, np.ones(80) / 80, mode="same"))
        loud = np.flatnonzero(level > 0.02)
        voiced = np.flatnonzero(level > 0.6 * level.max())
        return float((voiced[0] - loud[0]) / RATE)

    wave = spoken("아까")
    level = np.sqrt(np.convolve(wave**2, np.ones(80) / 80, mode="same"))
    middle = level[round(0.12 * RATE) : round(0.32 * RATE)]
    assert middle.min() < 1e-3 * level.max()
    assert first_voice("파") > first_voice("바") > first_voice("빠")


def test_glides_move_and_finals_close() -> None:
    assert [p.formants for p in pieces_of("야") if p.voice and p.seconds] == [
        VOWELS["ㅣ"],
        VOWELS["ㅏ"],
    ]
    assert pieces_of("말")[-1].formants == LIQUID
    assert pieces_of("밥")[-1].voice == 0.0
    assert pieces_of("밖") == [*pieces_of("바")[:-2], *pieces_of("박")[-2:]]
    assert pieces_of("abc 123") == []


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1))
def test_a_piece_may_lie_between_two(share: float) -> None:
    plain, other = pieces_of("사"), pieces_of("다")
    assert len(plain) == len(other)
    for one, two in zip(plain, other, strict=True):
        between = one.towards(two, share)
        for name in ("seconds", "voice", "breath", "hiss", "pitch"):
            low, high = sorted((getattr(one, name), getattr(two, name)))
            assert low - 1e-9 <= getattr(between, name) <= high + 1e-9
        assert one.towards(two, 0.0) == one
        assert one.towards(one, share) == one or share > 0


def test_between_s_and_t_the_hiss_fades() -> None:
    plain, other = pieces_of("사"), pieces_of("다")
    shares = []
    for share in (0.0, 0.5, 1.0):
        blend = [a.towards(b, share) for a, b in zip(plain, other, strict=True)]
        waves = [say(blend, VOICE, 2.0, RATE, np.random.default_rng(seed)) for seed in range(4)]
        shares.append(np.mean([high_share(wave) for wave in waves]))
    assert shares[0] > shares[1] > shares[2]


def test_the_same_draws_give_the_same_sound_and_others_another() -> None:
    assert np.array_equal(spoken("토끼"), spoken("토끼"))
    assert len(spoken("토끼", seed=1)) != len(spoken("토끼"))
    assert not np.array_equal(spoken("토끼"), spoken("도끼"))


@pytest.mark.parametrize("rate", [8000, 48000])
def test_any_rate_will_do(rate: int) -> None:
    wave = say(pieces_of("사자"), Voice(300.0, tract=1.7), 2.0, rate, np.random.default_rng(0))
    assert np.isfinite(wave).all()
    assert 0.3 * rate < len(wave) < 1.5 * rate
