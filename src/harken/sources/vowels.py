"""Sustained vowels of made-up speakers: a glottal source with a defect, and a vocal tract.

Each glottal cycle has its own length and strength (jitter, shimmer, period doubling); its flow is
the polynomial pulse of Klatt & Klatt (JASA 87, 1990), to which aspiration noise is added while the
glottis is open. A cascade of second-order resonators (Klatt, JASA 67, 1980) with the vowel's
formants, scaled to the speaker's tract, turns the source into a vowel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from harken.seeds import generator

Signal = npt.NDArray[np.float64]
Row = dict[str, str | int | float]
Sex = Literal["female", "male"]

FORMANTS: dict[str, tuple[float, ...]] = {
    "a": (730.0, 1090.0, 2440.0, 3400.0, 4500.0, 5500.0, 6500.0),
    "i": (270.0, 2290.0, 3010.0, 3500.0, 4500.0, 5500.0, 6500.0),
    "u": (300.0, 870.0, 2240.0, 3400.0, 4500.0, 5500.0, 6500.0),
}
"""Hz, of men: the first three from Peterson & Barney (JASA 24, 1952), then a 17 cm tube's."""

BANDWIDTHS = (60.0, 90.0, 120.0, 180.0, 240.0, 320.0, 400.0)
"""Hz, of the resonators above."""


@dataclass(frozen=True)
class Voice:
    """How a person phonates.

    Attributes:
        f0: Fundamental frequency, Hz.
        tract: The formants' factor: 1 for a man's tract, about 1.16 for a woman's shorter one.
        jitter: Mean change of length from cycle to cycle, as a share of the mean length.
        shimmer: Mean change of strength from cycle to cycle, as a share of the mean strength.
        doubling: How far every second cycle differs, 0 (not at all) to 1: a subharmonic at f0 / 2.
        breath: Loudness of the aspiration noise over that of the pulses.
        open_quotient: Share of each cycle for which the glottis is open.
        tilt: Hz above which the source falls by a further 6 dB an octave.
    """

    f0: float
    tract: float = 1.0
    jitter: float = 0.0
    shimmer: float = 0.0
    doubling: float = 0.0
    breath: float = 0.0
    open_quotient: float = 0.6
    tilt: float = 4000.0


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


def cycles(voice: Voice, seconds: float, rng: np.random.Generator) -> tuple[Signal, Signal]:
    """Return the starts (seconds, one more than cycles) and the strengths of glottal cycles.

    Independent normal errors of deviation s differ by 2 s / √π in the mean, which the jitter and
    shimmer asked for are divided by.
    """
    count = int(seconds * voice.f0 * 1.5) + 16
    spread = np.sqrt(np.pi) / 2
    length = 1 + voice.jitter * spread * rng.standard_normal(count).clip(-3, 3)
    strength = 1 + voice.shimmer * spread * rng.standard_normal(count).clip(-3, 3)
    alternate = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)
    length += 0.06 * voice.doubling * alternate
    strength *= 1 + 0.5 * voice.doubling * alternate
    time = np.arange(count) / voice.f0
    vibrato = 0.006 * np.sin(2 * np.pi * (rng.uniform(4, 6) * time + rng.uniform()))
    drift = rng.uniform(-0.01, 0.01) * (time / seconds - 0.5)
    periods = length.clip(0.3) * (1 + vibrato + drift) / voice.f0
    starts = np.concatenate([[0.0], np.cumsum(periods)])
    return starts, strength.clip(0.05)


def glottal_flow(time: Signal, starts: Signal, strength: Signal, open_quotient: float) -> Signal:
    """Return the flow at `time` (seconds): 27/4 x² (1 - x) while open, x the share of that part."""
    cycle = np.searchsorted(starts, time, side="right") - 1
    share = (time - starts[cycle]) / (np.diff(starts)[cycle] * open_quotient)
    pulse: Signal = 6.75 * share**2 * (1 - share).clip(0) * strength[cycle]
    return pulse


def vocal_tract(source: Signal, formants: Signal, sample_rate: int) -> Signal:
    """Filter a source by a cascade of resonators, each with gain 1 at 0 Hz."""
    from scipy.signal import sosfilt  # slow to import, and only this corpus needs it

    audible = formants < 0.46 * sample_rate
    frequency, bandwidth = formants[audible], np.asarray(BANDWIDTHS)[: len(formants)][audible]
    c = -np.exp(-2 * np.pi * bandwidth / sample_rate)
    b = 2 * np.exp(-np.pi * bandwidth / sample_rate) * np.cos(2 * np.pi * frequency / sample_rate)
    none, one = np.zeros_like(b), np.ones_like(b)
    sections = np.stack([1 - b - c, none, none, one, -b, -c], axis=1)
    filtered: Signal = sosfilt(sections, source)
    return filtered


def phonate(
    voice: Voice, vowel: str, seconds: float, sample_rate: int, rng: np.random.Generator
) -> Signal:
    """Say a vowel: `(samples,)` of unit peak, with 30 ms of onset and of offset."""
    from scipy.signal import lfilter

    samples = round(seconds * sample_rate)
    # The difference of the flow is its derivative averaged over a sample, so little of it aliases.
    time = np.arange(samples + 1) / sample_rate
    starts, strength = cycles(voice, seconds + 0.1, rng)
    flow = glottal_flow(time, starts, strength, voice.open_quotient)
    pulses = np.diff(flow)
    decay = np.exp(-2 * np.pi * voice.tilt / sample_rate)
    pulses = lfilter([1 - decay], [1, -decay], pulses)
    hiss = rng.standard_normal(samples) * (0.25 + flow[1:])
    source = pulses + hiss * voice.breath * pulses.std() / hiss.std()
    vowel_sound = vocal_tract(source, np.asarray(FORMANTS[vowel]) * voice.tract, sample_rate)
    ramp = (np.minimum(time[1:], time[:0:-1]) / 0.03).clip(0, 1)
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
