"""Korean words said by made-up voices: the letters of Hangul, turned into sound.

A word becomes pieces, each with a standing vocal tract and gains of voice, breath and noise: a
stop is a silence, a burst, a breath and a bent beginning of its vowel. Pieces are filtered one by
one and blended where they meet; a piece may also lie between two, as a sound does that is neither
quite s nor quite t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harken.hangul import Syllable, syllables
from harken.sources.voice import Signal, Voice, excite, vocal_tract

Formants = tuple[float, float, float]

VOWELS: dict[str, Formants] = {
    "ㅏ": (740, 1370, 2570),
    "ㅓ": (610, 1120, 2680),
    "ㅗ": (450, 950, 2670),
    "ㅜ": (370, 980, 2560),
    "ㅡ": (400, 1490, 2500),
    "ㅣ": (340, 2220, 3050),
    "ㅐ": (590, 1850, 2600),
    "ㅔ": (490, 1970, 2640),
}
"""Hz, the first three formants, rounded after those of men in Yang (J. Phonetics 24, 1996)."""

UPPER = (3400.0, 4500.0, 5500.0, 6500.0)
"""Hz, the other formants, of every sound."""

GLIDES = {
    **dict(zip("ㅑㅕㅛㅠㅒㅖ", ("ㅣㅏ", "ㅣㅓ", "ㅣㅗ", "ㅣㅜ", "ㅣㅐ", "ㅣㅔ"), strict=True)),
    **dict(
        zip("ㅘㅝㅙㅞㅚㅟㅢ", ("ㅗㅏ", "ㅜㅓ", "ㅗㅐ", "ㅜㅔ", "ㅜㅔ", "ㅜㅣ", "ㅡㅣ"), strict=True)
    ),
}
"""Vowels that begin with another one."""

LOCI: dict[str, Formants] = {
    "lips": (250, 900, 2300),
    "teeth": (250, 1800, 2750),
    "velum": (250, 2250, 2450),
    "palate": (250, 2150, 3000),
}
"""Hz, where formants come from and go to while the tract is closed there."""

BURSTS = {"lips": 1000.0, "teeth": 4300.0, "velum": 2000.0, "palate": 4000.0}
"""Hz, the middle of a burst of noise at the place."""

STOPS = {
    **dict.fromkeys("ㅂㅃㅍ", "lips"),
    **dict.fromkeys("ㄷㄸㅌ", "teeth"),
    **dict.fromkeys("ㄱㄲㅋ", "velum"),
    **dict.fromkeys("ㅈㅉㅊ", "palate"),
}
TENSE, ASPIRATED, AFFRICATES = "ㄲㄸㅃㅆㅉ", "ㅋㅌㅍㅊ", "ㅈㅉㅊ"

NASALS: dict[str, tuple[str, Formants]] = {
    "ㅁ": ("lips", (280, 1050, 2200)),
    "ㄴ": ("teeth", (280, 1500, 2400)),
    "ㅇ": ("velum", (280, 1900, 2600)),
}
LIQUID: Formants = (360, 1250, 2850)

SPOKEN_FINALS = {
    **dict.fromkeys("ㄱㄲㄳㄺㅋ", "ㄱ"),
    **dict.fromkeys("ㄷㅅㅆㅈㅊㅌㅎ", "ㄷ"),
    **dict.fromkeys("ㅂㅄㅍㄼㄿ", "ㅂ"),
    **dict.fromkeys("ㄹㄽㄾㅀ", "ㄹ"),
    **dict.fromkeys("ㅁㄻ", "ㅁ"),
    **dict.fromkeys("ㄴㄵㄶ", "ㄴ"),
    "ㅇ": "ㅇ",
}
"""The seven sounds that a syllable may end with."""

BLEND = 0.016
"""Seconds over which neighbouring pieces are blended."""
WARM_UP = 0.02
"""Seconds that a filter runs before it is heard."""
SHORTEST = 0.002
"""Seconds below which a piece is left out."""


@dataclass(frozen=True)
class Piece:
    """A stretch of speech.

    Attributes:
        seconds: How long it is.
        formants: Hz, of a man; the first three.
        voice: Gain of the glottal source.
        breath: Gain of noise at the glottis.
        hiss: Loudness of noise in the mouth, over that of the voice.
        pitch: Hz, the middle of that noise.
    """

    seconds: float
    formants: Formants
    voice: float = 0.0
    breath: float = 0.0
    hiss: float = 0.0
    pitch: float = 4000.0

    def towards(self, other: Piece, share: float) -> Piece:
        """Return the piece that is this one at share 0 and the other one at share 1."""

        def between(a: float, b: float) -> float:
            return a + share * (b - a)

        one, two, three = map(between, self.formants, other.formants)
        names = ("seconds", "voice", "breath", "hiss", "pitch")
        values = {name: between(getattr(self, name), getattr(other, name)) for name in names}
        return Piece(formants=(one, two, three), **values)


def pieces_of(word: str) -> list[Piece]:
    """Return what a word of Hangul consists of, at about four syllables a second.

    Every syllable has the same places for its onset and its end, some of no length, so that words
    of the same vowels can be blended piece by piece. A word without Hangul gives nothing.
    """
    return [piece for syllable in syllables(word) for piece in _syllable(syllable)]


def _syllable(syllable: Syllable) -> Iterator[Piece]:
    letters = GLIDES.get(syllable.vowel, syllable.vowel)
    path = [VOWELS[letter] for letter in letters]
    yield from _onset(syllable.onset, path[0], is_front=letters[0] == "ㅣ")
    for begin in path[:-1]:
        yield Piece(0.05, begin, voice=0.9)
    yield Piece(0.15, path[-1], voice=1.0)
    yield from _final(SPOKEN_FINALS.get(syllable.final, ""), path[-1])


def _onset(letter: str, vowel: Formants, *, is_front: bool) -> tuple[Piece, ...]:
    """Return closure, noise, breath, and the beginning of the vowel."""
    none = Piece(0.0, vowel, voice=0.9)
    if letter in STOPS:
        return _stop(letter, vowel)
    if letter in NASALS and letter != "ㅇ":
        place, murmur = NASALS[letter]
        bend = Piece(0.03, _towards(vowel, place), voice=0.9)
        return Piece(0.07, murmur, voice=0.45), none, none, bend
    bend = Piece(0.03, _towards(vowel, "teeth"), voice=0.8)
    if letter == "ㄹ":
        return Piece(0.06, LIQUID, voice=0.25), none, none, bend
    if letter in "ㅅㅆ":
        # Before i the tongue lies further back, and the noise lower.
        pitch = 4300.0 if is_front else 6000.0
        loudness, seconds = (0.9, 0.13) if letter in TENSE else (0.7, 0.1)
        hiss = Piece(seconds, vowel, hiss=loudness, pitch=pitch)
        return none, hiss, Piece(0.015, vowel, breath=0.4), bend
    if letter == "ㅎ":
        return none, none, Piece(0.07, vowel, breath=0.6), none
    return none, none, none, none


def _stop(letter: str, vowel: Formants) -> tuple[Piece, ...]:
    place = STOPS[letter]
    bent, burst = _towards(vowel, place), BURSTS[place]
    noise = Piece(0.02, bent, hiss=0.7, pitch=burst)
    if letter in AFFRICATES:
        seconds = 0.07 if letter in ASPIRATED else 0.045
        noise = Piece(seconds, bent, hiss=0.5, pitch=burst)
    breath = 0.06 if letter in ASPIRATED else 0.0 if letter in TENSE else 0.025
    return (
        Piece(0.08 if letter in TENSE else 0.05, bent),
        noise,
        Piece(breath, bent, breath=0.5),
        Piece(0.045, bent, voice=0.8),
    )


def _final(letter: str, vowel: Formants) -> tuple[Piece, Piece]:
    """Return the end of the vowel, and what closes it."""
    if letter in NASALS:
        place, murmur = NASALS[letter]
        return Piece(0.03, _towards(vowel, place), voice=0.8), Piece(0.09, murmur, voice=0.4)
    if letter == "ㄹ":
        return Piece(0.0, vowel, voice=0.9), Piece(0.11, LIQUID, voice=0.6)
    if letter:
        bent = _towards(vowel, STOPS[letter])
        return Piece(0.03, bent, voice=0.6), Piece(0.07, bent)
    return Piece(0.0, vowel, voice=0.9), Piece(0.0, vowel)


def _towards(vowel: Formants, place: str) -> Formants:
    """Return formants halfway between a vowel and a closure."""
    one, two, three = ((a + b) / 2 for a, b in zip(vowel, LOCI[place], strict=True))
    return one, two, three


def say(
    pieces: Sequence[Piece],
    voice: Voice,
    seconds: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> Signal:
    """Say a word at its natural rate, or faster where it would last longer.

    Args:
        pieces: The word; every time it is said, the lengths of its sounds differ a little.
        voice: Who says it.
        seconds: The longest that it may last.
        sample_rate: Samples a second.
        rng: Draws everything.

    Returns:
        `(samples,)` of unit peak.
    """
    pieces = [piece for piece in pieces if piece.seconds >= SHORTEST]
    times = np.array([piece.seconds for piece in pieces])
    times = times * np.exp(0.12 * rng.standard_normal(len(times)) + 0.1 * rng.standard_normal())
    times *= min(1.0, seconds / times.sum())
    pieces = [replace(p, seconds=float(t)) for p, t in zip(pieces, times, strict=True)]
    source = _source(pieces, voice, float(times.sum()), sample_rate, rng)
    spoken = _through_tract(source, pieces, voice.tract, sample_rate)
    spoken = spoken / spoken.std() + _hisses(pieces, len(spoken), voice.tract, sample_rate, rng)
    loud: Signal = spoken / np.abs(spoken).max()
    return loud


def _source(
    pieces: Sequence[Piece],
    voice: Voice,
    seconds: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> Signal:
    """Return voice and breath under the pieces' gains."""
    glottal = excite(voice, seconds, sample_rate, rng)
    gain, breath = (
        _track([getattr(piece, name) for piece in pieces], pieces, len(glottal), sample_rate)
        for name in ("voice", "breath")
    )
    noise = rng.standard_normal(len(glottal))
    mixed: Signal = gain * glottal / glottal.std() + breath * noise
    return mixed


def _track(
    gains: Sequence[float], pieces: Sequence[Piece], samples: int, sample_rate: int
) -> Signal:
    """Return gains `(samples,)` that move within 8 ms of a border, and start and end at 0."""
    borders = np.cumsum([0.0, *(piece.seconds for piece in pieces)])
    knots = (borders[:, None] + [-0.004, 0.004]).ravel()
    levels = np.repeat([0.0, *gains, 0.0], 2)[1:-1]
    # The word's own beginning and end lie inside it.
    knots[:2], knots[-2:] = knots[:2] + 0.004, knots[-2:] - 0.004
    track: Signal = np.interp(np.arange(samples) / sample_rate, knots, levels)
    return track


def _through_tract(
    source: Signal, pieces: Sequence[Piece], tract: float, sample_rate: int
) -> Signal:
    """Filter every piece by its own tract, and blend them where they meet."""
    out = np.zeros(len(source))
    borders = np.cumsum([0.0, *(piece.seconds for piece in pieces)])
    half = BLEND / 2
    for piece, begin, end in zip(pieces, borders[:-1], borders[1:], strict=True):
        first = max(0, int((begin - half - WARM_UP) * sample_rate))
        last = min(len(source), int((end + half) * sample_rate) + 1)
        formants = np.array([*piece.formants, *UPPER]) * tract
        heard = vocal_tract(source[first:last], formants, sample_rate)
        time = np.arange(first, last) / sample_rate
        rise = 1.0 if begin == 0 else ((time - begin + half) / BLEND).clip(0, 1)
        fall = 1.0 if end == borders[-1] else ((end + half - time) / BLEND).clip(0, 1)
        out[first:last] += heard * rise * fall
    return out


def _hisses(
    pieces: Sequence[Piece],
    samples: int,
    tract: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> Signal:
    """Return the noises of the mouth, whose pitch rises less than formants in a short tract."""
    from scipy.signal import lfilter

    out = np.zeros(samples)
    borders = np.cumsum([0.0, *(piece.seconds for piece in pieces)])
    for piece, begin, end in zip(pieces, borders[:-1], borders[1:], strict=True):
        if not piece.hiss:
            continue
        first, last = int(begin * sample_rate), min(samples, int(end * sample_rate))
        pitch = min(piece.pitch * tract**0.4, 0.45 * sample_rate)
        radius = np.exp(-np.pi * 0.25 * pitch / sample_rate)
        poles = [1, -2 * radius * np.cos(2 * np.pi * pitch / sample_rate), radius**2]
        noise = lfilter([1, 0, -1], poles, rng.standard_normal(last - first + 200))[200:]
        ramp = np.minimum(np.arange(last - first), np.arange(last - first)[::-1]) + 1
        noise *= (ramp / (0.004 * sample_rate)).clip(0, 1)
        out[first:last] += piece.hiss * noise / (noise.std() + 1e-12)
    return out
