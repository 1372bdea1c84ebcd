"""The spectral envelope of a voice, which says which vowel it is, apart from its pitch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from harken.augment.augment import Wave
from harken.augment.fourier import fast_length
from harken.augment.level import match_rms

_FRAME_SECONDS = 0.032
_QUEFRENCY_SECONDS = 0.002  # under the period of a voice of 500 Hz, over the width of formants
_FLOOR = 1e-3  # −60 dB under a frame's loudest: hiss between partials has no envelope
_LARGEST = 4.0  # in nepers, 35 dB: what is not there at all cannot be brought back


def keep_envelope(changed: Wave, original: Wave, sample_rate: int) -> Wave:
    """Give a waveform the spectral envelope of another, frame by frame.

    The envelope is the spectrum smoothed by its cepstrum up to 2 ms (Oppenheim & Schafer, 1968);
    frames of 32 ms overlap by three quarters. The loudness stays.

    Args:
        changed: float32 `(samples,)`, such as a voice whose pitch was moved.
        original: float32 `(samples,)`, the voice itself.
        sample_rate: In Hz.
    """
    samples = len(changed)
    if samples == 0:
        return changed
    hop = max(round(_FRAME_SECONDS * sample_rate / 4), 1)
    size = 4 * hop
    window = _window(size)
    fft_size = fast_length(size)
    lag = max(round(_QUEFRENCY_SECONDS * sample_rate), 1)
    theirs, ours = (_spectra(wave, window, hop, fft_size) for wave in (original, changed))
    correction = _envelope(theirs, fft_size, lag) - _envelope(ours, fft_size, lag)
    ours *= np.exp(np.clip(correction, -_LARGEST, _LARGEST))
    frames = (np.fft.irfft(ours, fft_size)[:, :size] * window).astype(np.float32, copy=False)
    return match_rms(_overlap(frames, hop)[size : size + samples], changed)


@lru_cache(maxsize=8)
def _window(size: int) -> Wave:
    """Return the square root of a Hann window, scaled so that four overlapping squares make 1."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    return np.sqrt(hann / 2).astype(np.float32)


def _spectra(waveform: Wave, window: Wave, hop: int, fft_size: int) -> npt.NDArray[np.complex64]:
    size = len(window)
    padded = np.pad(waveform, (size, size + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.fft.rfft(frames * window, fft_size).astype(np.complex64, copy=False)


def _envelope(spectra: npt.NDArray[np.complex64], fft_size: int, lag: int) -> Wave:
    """Return the natural logarithm of each frame's smoothed magnitudes."""
    magnitude = np.abs(spectra)
    floor = np.maximum(_FLOOR * magnitude.max(axis=1, keepdims=True), 1e-12)
    cepstrum = np.fft.irfft(np.log(np.maximum(magnitude, floor)), fft_size)
    cepstrum[:, lag:-lag] = 0
    return np.fft.rfft(cepstrum, fft_size).real.astype(np.float32, copy=False)


def _overlap(frames: Wave, hop: int) -> Wave:
    """Add frames that overlap by three quarters."""
    count, size = frames.shape
    whole = np.zeros((count + 3, hop), dtype=np.float32)
    for quarter in range(4):
        whole[quarter : quarter + count] += frames[:, quarter * hop : (quarter + 1) * hop]
    assert size == 4 * hop
    return whole.ravel()
