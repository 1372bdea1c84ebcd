"""Made-up voices: a glottal source, and a vocal tract that filters it.

Each glottal cycle has its own length and strength (jitter, shimmer, period doubling); its flow is
the polynomial pulse of Klatt & Klatt (JASA 87, 1990), to which aspiration noise is added while the
glottis is open. A cascade of second-order resonators (Klatt, JASA 67, 1980) turns the source into
speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float64]
Row = dict[str, str | int | float]
"""A clip's columns."""
Sex = Literal["female", "male"]

BANDWIDTHS = (60.0, 90.0, 120.0, 180.0, 240.0, 320.0, 400.0)
"""Hz, of the resonators of the formants, from the first."""


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


def excite(voice: Voice, seconds: float, sample_rate: int, rng: np.random.Generator) -> Signal:
    """Return the glottal source `(samples,)`: pulses and breath."""
    from scipy.signal import lfilter  # slow to import, and only made-up voices need it

    samples = round(seconds * sample_rate)
    # The difference of the flow is its derivative averaged over a sample, so little of it aliases.
    time = np.arange(samples + 1) / sample_rate
    starts, strength = cycles(voice, seconds + 0.1, rng)
    flow = glottal_flow(time, starts, strength, voice.open_quotient)
    pulses = np.diff(flow)
    decay = np.exp(-2 * np.pi * voice.tilt / sample_rate)
    pulses = lfilter([1 - decay], [1, -decay], pulses)
    hiss = rng.standard_normal(samples) * (0.25 + flow[1:])
    source: Signal = pulses + hiss * voice.breath * pulses.std() / hiss.std()
    return source


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
