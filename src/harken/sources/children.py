"""Children who say Korean words, some of whom have a speech-sound disorder.

Every child replaces the sounds that it has not mastered yet, such as s by t, the less the older it
is; a child with a disorder lags years behind. So the same half-way s means health at five and a
disorder at nine, a word without difficult sounds tells nothing, and a wrong word may be another one
said well: age and word belong to the decision. Children with a disorder often leave difficult words
out, so classes are uneven within words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harken.hangul import FINALS, FIRST, ONSETS, VOWELS, Syllable, syllables
from harken.seeds import generator
from harken.sources.utterance import Piece, pieces_of, say
from harken.sources.voice import Row, Sex, Signal, Voice

WORDS = (
    *("오이", "무"),  # nothing to get wrong
    *("오리", "물", "자라", "사과", "시소", "수박", "사자", "쌀", "토끼", "기차"),
)
"""What is said. Without liquids, 오리 (duck) is 오이 (cucumber), and 물 (water) is 무 (radish)."""


@dataclass(frozen=True)
class Process:
    """A way in which children simplify words.

    Attributes:
        mastered: Years of age at which typical children are halfway to giving it up.
        onsets: What becomes of letters at the beginning of a syllable.
        finals: What becomes of letters at its end.
    """

    mastered: float
    onsets: Mapping[str, str]
    finals: Mapping[str, str]


PROCESSES: dict[str, Process] = {
    "fronting": Process(3.5, {"ㄱ": "ㄷ", "ㄲ": "ㄸ", "ㅋ": "ㅌ"}, {}),
    "deaffrication": Process(4.5, {"ㅈ": "ㄷ", "ㅉ": "ㄸ", "ㅊ": "ㅌ"}, {}),
    "final_loss": Process(4.0, {}, {"ㄹ": "", "ㄱ": ""}),
    "liquid_loss": Process(5.5, {"ㄹ": "ㅇ"}, {}),
    "stopping": Process(6.5, {"ㅅ": "ㄷ", "ㅆ": "ㄸ"}, {}),
}
"""The processes by name; no two concern one letter."""

AGES = range(2, 11)
DISORDERED = 3
"""One child in so many has a disorder."""
YEARS_BEHIND = 8.0
"""How far a child of severity 1 lags behind."""
FADING = 1.0
"""Years in which a process goes from a half to a quarter, or so."""
LEFT_OUT = 0.6
"""How much rather (in logits) a child with a disorder leaves a difficult word out."""

Site = Literal["clinic", "school"]


@dataclass(frozen=True)
class Child:
    """A made-up child.

    Attributes:
        name: Its name.
        label: `td` (typically developing) or `ssd` (speech-sound disorder).
        age: Years.
        sex: Its sex.
        severity: From 0 to 1.
        lag: For each process the years that the child is behind its age.
        voice: How it sounds.
        site: Where it was recorded: a quiet room, or one with noise and a dull microphone.
    """

    name: str
    label: Literal["td", "ssd"]
    age: int
    sex: Sex
    severity: float
    lag: Mapping[str, float]
    voice: Voice
    site: Site


def processes_in(word: str) -> list[str]:
    """Return the processes that can change a word."""
    parts = syllables(word)
    return [
        name
        for name, process in PROCESSES.items()
        if any(part.onset in process.onsets or part.final in process.finals for part in parts)
    ]


def simplify(word: str, names: Iterable[str]) -> str:
    """Return what a word becomes under some processes."""
    parts = syllables(word)
    for name in names:
        process = PROCESSES[name]
        parts = [
            Syllable(
                process.onsets.get(part.onset, part.onset),
                part.vowel,
                process.finals.get(part.final, part.final),
            )
            for part in parts
        ]
    return "".join(map(_block, parts))


def _block(syllable: Syllable) -> str:
    onset = ONSETS.index(syllable.onset) * len(VOWELS) + VOWELS.index(syllable.vowel)
    return chr(FIRST + onset * len(FINALS) + FINALS.index(syllable.final))


def shares(child: Child, word: str, rng: np.random.Generator) -> dict[str, float]:
    """Return how far each process that can change a word does so, from 0 to 1."""
    found = {}
    for name in processes_in(word):
        years = PROCESSES[name].mastered + child.lag[name] - child.age
        usual = 1 / (1 + math.exp(-years / FADING))
        found[name] = float(np.clip(usual + rng.normal(0, 0.1), 0, 1))
    return found


def articulate(word: str, far: Mapping[str, float]) -> list[Piece]:
    """Return the pieces of a word that processes change, each so far."""
    plain = pieces_of(word)
    pieces = plain
    for name, share in far.items():
        changed = pieces_of(simplify(word, [name]))
        pieces = [
            piece if other == own else own.towards(other, share)
            for piece, own, other in zip(pieces, plain, changed, strict=True)
        ]
    return pieces


def draw_children(count: int, seed: int) -> list[Child]:
    """Draw children: a third with a disorder, half of them girls, of all ages in either class."""
    order = generator(seed, "children", "order").permutation(count)
    return [_draw_child(f"c{i + 1:03d}", int(kind), seed) for i, kind in enumerate(order)]


def _draw_child(name: str, kind: int, seed: int) -> Child:
    rng = generator(seed, "children", name)
    rest, disordered = divmod(kind, DISORDERED)
    ill = disordered == 0
    age = AGES[rest % len(AGES)]
    sex: Sex = "female" if rng.random() < 0.5 else "male"
    severity = float(0.35 + 0.65 * rng.beta(1.5, 1.5) if ill else 0.2 * rng.beta(1.2, 3.0))
    lag = {p: YEARS_BEHIND * severity + 0.4 * float(rng.standard_normal()) for p in PROCESSES}
    # Of children of one age some are taller than others a year older, so a voice tells age badly.
    grown = age + float(rng.normal(0, 1.3)) + (0.5 if sex == "male" else 0.0)
    voice = Voice(
        f0=float((330 - 9 * (grown - 2)) * np.exp(0.1 * rng.standard_normal())),
        tract=float((1.75 - 0.045 * (grown - 2)) * np.exp(0.02 * rng.standard_normal())),
        jitter=float(rng.uniform(0.004, 0.012)),
        shimmer=float(rng.uniform(0.02, 0.05)),
        breath=float(rng.uniform(0.03, 0.12)),
        open_quotient=float(rng.uniform(0.55, 0.7)),
        tilt=float(rng.uniform(2000, 5000)),
    )
    site: Site = "clinic" if rng.random() < 0.5 else "school"
    return Child(name, "ssd" if ill else "td", age, sex, severity, lag, voice, site)


def choose_words(child: Child, count: int, rng: np.random.Generator) -> list[str]:
    """Return the words that a child is recorded with, each once before any comes again."""
    difficult = np.array([bool(processes_in(word)) for word in WORDS])
    chosen: list[str] = []
    while len(chosen) < count:
        luck = rng.gumbel(size=len(WORDS))
        if child.label == "ssd":
            luck -= LEFT_OUT * difficult
        chosen += [WORDS[i] for i in np.argsort(-luck)]
    return chosen[:count]


def record(
    child: Child,
    pieces: Sequence[Piece],
    seconds: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> Signal:
    """Record a child that says something, somewhere within `seconds`."""
    pitch, tract = np.exp(rng.standard_normal(2) * (0.05, 0.01))
    voice = replace(
        child.voice, f0=child.voice.f0 * float(pitch), tract=child.voice.tract * float(tract)
    )
    spoken = say(pieces, voice, 0.9 * seconds, sample_rate, rng)
    wave = np.zeros(round(seconds * sample_rate))
    start = int(rng.integers(len(wave) - len(spoken) + 1))
    wave[start : start + len(spoken)] = spoken
    wave, noise = _through_room(child.site, wave, rng.standard_normal(len(wave)))
    quiet = rng.uniform(28, 40) if child.site == "clinic" else rng.uniform(16, 26)
    wave = wave + noise / noise.std() * wave.std() * 10 ** (-quiet / 20)
    scaled: Signal = wave * rng.uniform(0.3, 0.9) / np.abs(wave).max()
    return scaled


def _through_room(site: Site, wave: Signal, noise: Signal) -> tuple[Signal, Signal]:
    """Dull the microphone of the school, and give its room a lower noise."""
    from scipy.signal import lfilter  # slow to import, and only made-up voices need it

    if site == "clinic":
        return wave, noise
    return lfilter([0.6], [1, -0.4], wave), lfilter([0.3], [1, -0.9], noise)


def children(
    speakers: int, clips_per_speaker: int, seconds: float, sample_rate: int, seed: int
) -> Iterator[tuple[Row, Signal]]:
    """Yield the columns and the waveform of every clip; clips last 0.8 to 1.2 × `seconds`."""
    for child in draw_children(speakers, seed):
        words = choose_words(child, clips_per_speaker, generator(seed, "words", child.name))
        for number, word in enumerate(words):
            rng = generator(seed, "children", child.name, number)
            far = shares(child, word, rng)
            row: Row = {
                "id": f"{child.name}_{number + 1:02d}",
                "label": child.label,
                "speaker": child.name,
                "age": child.age,
                "word": word,
                "said": simplify(word, [name for name, share in far.items() if share > 0.5]),
                "distortion": round(max(far.values(), default=0.0), 3),
                "sex": child.sex,
                "severity": round(child.severity, 3),
                "site": child.site,
            }
            pieces, length = articulate(word, far), seconds * rng.uniform(0.8, 1.2)
            yield row, record(child, pieces, length, sample_rate, rng)
