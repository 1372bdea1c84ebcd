"""Rooms for a training waveform: measured impulse responses, and made-up ones."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from harken.augment.augment import Wave, WaveformAugment
from harken.augment.fourier import convolved
from harken.augment.level import amplitude, match_rms, rms
from harken.augment.noises import draw_noise
from harken.augment.recordings import find_recordings, read_beginning

_LONGEST_SECONDS = 10.0  # of a response: what comes later is its recording's noise


class ImpulseResponse(WaveformAugment):
    """Play the clip through a measured impulse response: a room, a telephone, a microphone.

    The response's largest sample falls on the sound itself, so that the clip does not move; the
    clip keeps its loudness and its length.
    """

    kind: Literal["impulse_response"] = "impulse_response"
    path: str
    """A response, or a folder whose responses (and its sub-folders') are drawn evenly."""
    min_wet: float = Field(0.5, ge=0, le=1)
    """Smallest share of the played sound, beside the clip as it was."""
    max_wet: float = Field(1.0, gt=0, le=1)
    """Largest share of the played sound."""

    def check(self, sample_rate: int) -> None:
        """Refuse a path without recordings."""
        find_recordings(self.path, "impulse_response.path")

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform in the room."""
        files = find_recordings(self.path, "impulse_response.path")
        wet = np.float32(rng.uniform(self.min_wet, self.max_wet))
        file = files[int(rng.integers(len(files)))]
        response = read_beginning(file, sample_rate, _LONGEST_SECONDS)
        peak = int(np.argmax(np.abs(response)))
        # A response upside down would cancel the dry sound.
        played = np.copysign(np.float32(1), response[peak]) * convolved(waveform, response, peak)
        return (1 - wet) * waveform + wet * match_rms(played, waveform)


class Room(WaveformAugment):
    """Play the clip in a made-up room: its echo is noise that dies away exponentially.

    That is Polack's model of late reverberation (1988); `rt60` is the time in which the echo falls
    by 60 dB. The clip keeps its place, its loudness and its length.
    """

    kind: Literal["room"] = "room"
    min_rt60: float = Field(0.1, gt=0, le=20)
    """Shortest reverberation time in seconds: a furnished room has 0.3 to 0.6."""
    max_rt60: float = Field(0.8, gt=0, le=20)
    """Longest reverberation time in seconds."""
    min_direct_db: float = 0.0
    """Smallest ratio of the direct sound's power to the echo's, in decibels."""
    max_direct_db: float = 12.0
    """Largest ratio in decibels: the closer the microphone, the larger."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform in the room."""
        rt60 = rng.uniform(self.min_rt60, self.max_rt60)
        direct_db = rng.uniform(self.min_direct_db, self.max_direct_db)
        response = draw_response(rt60, direct_db, sample_rate, rng)
        return match_rms(convolved(waveform, response, 0), waveform)


def draw_response(
    rt60: float, direct_db: float, sample_rate: int, rng: np.random.Generator
) -> Wave:
    """Return an impulse response `(taps,)`: 1, then noise that has died away after `rt60`."""
    size = max(round(rt60 * sample_rate), 1)
    decay = np.exp(np.linspace(0, -3 * np.log(10), size, dtype=np.float32))
    echo = draw_noise(size, rng) * decay
    # The noise's own level cancels out.
    level = amplitude(-direct_db) / max(rms(echo) * size**0.5, 1e-12)
    return np.concatenate([np.ones(1, np.float32), np.float32(level) * echo])
