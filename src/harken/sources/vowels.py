"""Sustained vowels of made-up speakers, some of whose voices are rough or breathy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harken.seeds import generator
from harken.sources.voice import Row, Sex, Signal, Voice, excite, vocal_tract

FORMANTS: dict[str, tuple[float, ...]] = {
    "a": (730.0, 1090.0, 2440.0, 3400.0, 4500.0, 5500.0, 6500.0),
    "i": (270.0, 2290.0, 3010.0, 3500.0, 4500.0, 5500.0, 6500.0),
    "u": (300.0, 870.0, 2240.0, 3400.0, 4500.0, 5500.0, 6500.0),
}
"""Hz, of men: the first three from Peterson & Barney (JASA 24, 1952), then a 17 cm tube's."""


@dataclass(frozen=True)
class Speaker:
    """A made-up person; `rough_share` parts a defect of `severity` into roughness and breath."""

    name: str
    sex: Sex
    age: int
    label: Literal["clear", "rough"]
    severity: float
    rough_share: float
    voice: Voice
    noise_db: float


def phonate(
    voice: Voice, vowel: str, seconds: float, sample_rate: int, rng: np.random.Generator
) -> Signal:
    """Say a vowel: `(samples,)` of unit peak, with 30 ms of onset and of offset."""
    source = excite(voice, seconds, sample_rate, rng)
    vowel_sound = vocal_tract(source, np.asarray(FORMANTS[vowel]) * voice.tract, sample_rate)
    samples = np.arange(1, len(source) + 1)
    ramp = (np.minimum(samples, samples[::-1]) / sample_rate / 0.03).clip(0, 1)
    shaped = vowel_sound * np.sin(np.pi / 2 * ramp) ** 2
    loud: Signal = shaped / np.abs(shaped).max()
    return loud


def impair(voice: Voice, severity: float, rough_share: float) -> Voice:
    """Return the voice with a defect of severity 0 to 1.

    `rough_share` says which: 0 breathiness alone, 0.5 both in full, 1 roughness alone.
    """
    rough, breathy = severity * min(1, 2 * rough_share), severity * min(1, 2 - 2 * rough_share)
    return replace(
        voice,
        jitter=voice.jitter + 0.06 * rough,
        shimmer=voice.shimmer + 0.2 * rough,
        doubling=max(voice.doubling, rough - 0.2),
        breath=voice.breath + 0.65 * breathy,
        open_quotient=min(voice.open_quotient + 0.25 * breathy, 0.95),
        tilt=voice.tilt * 0.35**breathy,
    )


def draw_speakers(count: int, seed: int) -> list[Speaker]:
    """Draw speakers: half of them women, half of them rough, at random within each sex."""
    order = generator(seed, "vowels", "order").permutation(count)
    return [_draw_speaker(f"s{i + 1:02d}", int(kind), seed) for i, kind in enumerate(order)]


def _draw_speaker(name: str, kind: int, seed: int) -> Speaker:
    rng = generator(seed, "vowels", name)
    sex: Sex = "female" if kind % 2 else "male"
    rough = kind // 2 % 2 == 1
    woman = sex == "female"
    # The ranges overlap: as in a clinic, some mild patients sound no worse than some controls.
    severity = float(rng.beta(2.2, 1.5) * 0.7 + 0.3 if rough else rng.beta(1.2, 4.0) * 0.6)
    voice = Voice(
        f0=float((205 if woman else 118) * np.exp(0.13 * rng.standard_normal())),
        tract=float((1.16 if woman else 1.0) * np.exp(0.04 * rng.standard_normal())),
        jitter=float(rng.uniform(0.003, 0.009)),
        shimmer=float(rng.uniform(0.015, 0.04)),
        breath=float(rng.uniform(0.01, 0.07) + (0.02 if woman else 0.0)),
        open_quotient=float(rng.uniform(0.5, 0.65) + (0.05 if woman else 0.0)),
        tilt=float(rng.uniform(2000, 5000)),
    )
    age, rough_share = int(rng.integers(20, 76)), float(rng.beta(0.8, 0.8))
    label: Literal["clear", "rough"] = "rough" if rough else "clear"
    noise_db = float(rng.uniform(30, 50))
    return Speaker(name, sex, age, label, severity, rough_share, voice, noise_db)


def record(
    speaker: Speaker, vowel: str, seconds: float, sample_rate: int, rng: np.random.Generator
) -> Signal:
    """Record one take: pitch, tract and severity vary a little, and the room adds its noise."""
    severity = float(np.clip(speaker.severity + 0.07 * rng.standard_normal(), 0, 1))
    voice = impair(speaker.voice, severity, speaker.rough_share)
    pitch, tract = np.exp(rng.standard_normal(2) * (0.03, 0.01))
    voice = replace(voice, f0=voice.f0 * float(pitch), tract=voice.tract * float(tract))
    vowel_sound = phonate(voice, vowel, seconds, sample_rate, rng)
    room = (
        rng.standard_normal(len(vowel_sound)) * vowel_sound.std() * 10 ** (-speaker.noise_db / 20)
    )
    mixed = vowel_sound + room
    scaled: Signal = mixed * rng.uniform(0.3, 0.9) / np.abs(mixed).max()
    return scaled


def vowels(
    speakers: int, clips_per_speaker: int, seconds: float, sample_rate: int, seed: int
) -> Iterator[tuple[Row, Signal]]:
    """Yield the columns and the waveform of every clip; takes last 0.8 to 1.2 × `seconds`."""
    for speaker in draw_speakers(speakers, seed):
        for number in range(clips_per_speaker):
            vowel, take = "aiu"[number % 3], number // 3 + 1
            rng = generator(seed, "vowels", speaker.name, vowel, take)
            length = seconds * rng.uniform(0.8, 1.2)
            row: Row = {
                "id": f"{speaker.name}_{vowel}_{take}",
                "label": speaker.label,
                "speaker": speaker.name,
                "sex": speaker.sex,
                "age": speaker.age,
                "vowel": vowel,
                "take": take,
                "severity": round(speaker.severity, 3),
            }
            yield row, record(speaker, vowel, length, sample_rate, rng)
