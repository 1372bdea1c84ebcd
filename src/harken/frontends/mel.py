"""Banks of triangular mel filters.

Scales: `slaney` is the Auditory Toolbox's (linear below 1 kHz; librosa's default), `htk` is
2595 log10(1 + f/700) (HTK book, eq. 5.13), `kaldi` is 1127 ln(1 + f/700).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harken.errors import ConfigError

Scale = Literal["slaney", "htk", "kaldi"]
Array = npt.NDArray[np.float64]

_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0  # where Slaney's scale turns from linear to logarithmic
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(hertz: npt.ArrayLike, scale: Scale) -> Array:
    """Return frequencies in Hz as mels."""
    f = np.asarray(hertz, dtype=np.float64)
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + f / 700.0))
    if scale == "kaldi":
        return np.asarray(1127.0 * np.log1p(f / 700.0))
    above = _BREAK_MEL + np.log(np.maximum(f, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(f < _BREAK_HZ, f * 3.0 / 200.0, above)


def mel_to_hz(mels: npt.ArrayLike, scale: Scale) -> Array:
    """Return mels as frequencies in Hz; the inverse of `hz_to_mel`."""
    m = np.asarray(mels, dtype=np.float64)
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (m / 2595.0) - 1.0))
    if scale == "kaldi":
        return np.asarray(700.0 * np.expm1(m / 1127.0))
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(m, _BREAK_MEL) - _BREAK_MEL))
    return np.where(m < _BREAK_MEL, m * 200.0 / 3.0, above)


def mel_filters(
    n_mels: int,
    n_fft: int,
    sample_rate: int,
    fmin: float,
    fmax: float,
    *,
    scale: Scale,
    norm: Literal["slaney", "none"] = "none",
    triangles: Literal["hz", "mel"] = "hz",
) -> Tensor:
    """Return filters with equally spaced edges on a mel scale, float32 `(n_mels, n_fft // 2 + 1)`.

    Args:
        n_mels: Number of filters.
        n_fft: Length of the Fourier transform whose bins are weighted.
        sample_rate: In Hz.
        fmin: Lower edge of the first filter in Hz.
        fmax: Upper edge of the last filter in Hz.
        scale: See the module's text.
        norm: `slaney` gives every filter the area 1 over Hz, `none` the height 1.
        triangles: Whether the slopes are straight over Hz (librosa) or over mels (Kaldi).
    """
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    low, high = hz_to_mel([fmin, fmax], scale)
    mels = np.linspace(low, high, n_mels + 2)
    hertz = mel_to_hz(mels, scale)
    points, edges = (hz_to_mel(bins, scale), mels) if triangles == "mel" else (bins, hertz)
    widths = np.diff(edges)[:, None]
    rising = (points - edges[:-2, None]) / widths[:-1]
    falling = (edges[2:, None] - points) / widths[1:]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if norm == "slaney":
        weights *= (2.0 / (hertz[2:] - hertz[:-2]))[:, None]
    return torch.from_numpy(weights.astype(np.float32))


def num_empty(filters: Tensor) -> int:
    """Return how many filters lie between two bins and so never see any energy."""
    return int((filters.amax(dim=1) <= 0).sum())


def check_band(fmin: float, fmax: float | None, sample_rate: int) -> float:
    """Return the upper edge of the filters in Hz.

    Raises:
        ConfigError: it is not between `fmin` and half the sample rate.
    """
    nyquist = sample_rate / 2
    top = nyquist if fmax is None else fmax
    if not fmin < top <= nyquist:
        raise ConfigError(
            f"fmin {fmin:g} < fmax {top:g} <= {nyquist:g} Hz (half the sample rate) must hold",
            where="frontend.fmax",
            fix="change fmin or fmax, or raise audio.sample_rate",
        )
    return top
