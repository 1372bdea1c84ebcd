"""Fourier transforms of one training waveform: filtering and convolution without a delay."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from harken.augment.augment import Wave

Response = Callable[[Wave], Wave]


@lru_cache(maxsize=4096)
def fast_length(samples: int) -> int:
    """Return the smallest product of 2s, 3s and 5s that is at least `samples`.

    Lengths with large prime factors transform many times slower.
    """
    best = 1 << max(samples - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            missing = -(-samples // three)
            best = min(best, three << max(missing - 1, 0).bit_length())
            three *= 3
        five *= 5
    return best


@lru_cache(maxsize=8)
def frequencies(size: int, sample_rate: int) -> Wave:
    """Return the frequencies in Hz of `rfft` of `size` samples, float32, read-only."""
    made = np.fft.rfftfreq(size, 1 / sample_rate).astype(np.float32)
    made.setflags(write=False)
    return made


def filtered(waveform: Wave, sample_rate: int, response: Response, tail: int) -> Wave:
    """Multiply a waveform's spectrum by a real response, so that nothing moves in time.

    Args:
        waveform: float32 `(samples,)`.
        sample_rate: In Hz.
        response: Turns frequencies in Hz into factors.
        tail: Zeros to add, so that what rings over one end does not come back at the other.
    """
    samples = len(waveform)
    if samples == 0:
        return waveform.copy()
    size = fast_length(samples + tail)
    factor = response(frequencies(size, sample_rate))
    changed = np.fft.irfft(np.fft.rfft(waveform, size) * factor, size)
    return changed[:samples].astype(np.float32, copy=False)


def convolved(waveform: Wave, response: Wave, start: int) -> Wave:
    """Convolve with an impulse response whose sample `start` falls on the sound itself.

    Args:
        waveform: float32 `(samples,)`.
        response: float32 `(taps,)`.
        start: Sample of the response that causes no delay.

    Returns:
        float32 `(samples,)`: what sounds before or after the clip is cut.
    """
    samples = len(waveform)
    if samples == 0:
        return waveform.copy()
    # What wraps around falls on samples that are cut, at either side.
    size = fast_length(samples + len(response) - 1)
    product = np.fft.rfft(waveform, size) * np.fft.rfft(response, size)
    whole = np.fft.irfft(product, size)
    return whole[start : start + samples].astype(np.float32, copy=False)
