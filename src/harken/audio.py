"""Recordings → waveforms: take a segment, downmix, resample, round; then crop and pad.

`load` is the whole way from a clip to its waveform. The cache of decoded audio goes the same way,
so a file that is predicted on its own gives the very samples that evaluation read from the cache.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import numpy as np
import numpy.typing as npt
import soxr
from pydantic import Field

from harken.choice import Config
from harken.decode import DECODER, BadAudio, Info, Wave, decode, probe

__all__ = [
    "DECODER", "Audio", "BadAudio", "Info", "Wave", "crop_start", "decode", "dequantize",
    "fit_length", "load", "load_int16", "pcm_round", "probe", "quantize", "trim_silence",
]  # fmt: skip

Crop = Literal["start", "centre", "random"]
Pad = Literal["zero", "repeat", "mean"]
Pcm = npt.NDArray[np.int16]

_SILENCE = 1e-6  # −120 dB of full scale: below 20-bit audio
_LOUDEST = 1e10  # 200 dB over full scale, 130 over raw 16-bit numbers; spectra overflow at 1e15
_TRIM_SECONDS = 0.01  # a frame of the level by which silent ends are found
_SMALLEST_PEAK = 1e-30  # below it, the scale of 16-bit samples would not be a normal float32


class Audio(Config):
    """How recordings become waveforms of one rate, one channel and perhaps one length."""

    sample_rate: int = Field(16000, ge=1000, le=384_000)
    """Samples per second of every waveform; soxr's HQ resampler converts to it."""
    channel: Literal["mean", "sum"] | Annotated[int, Field(ge=0, strict=True)] = "mean"
    """`mean` or `sum` of the channels, or the number of the one to take (from 0)."""
    clip_seconds: float | None = Field(None, gt=0)
    """Length that every clip is cropped or padded to; null keeps each clip's own."""
    crop: Crop = "start"
    """Part of a longer clip that is kept; `random` draws while training, else takes the centre."""
    pad: Pad = "zero"
    """What a shorter clip is filled with: `zero`, its own `mean`, or itself again (`repeat`)."""
    min_seconds: float = Field(0.0, ge=0)
    """Clips shorter than this are bad audio."""
    silent: Literal["bad", "keep"] = "bad"
    """Whether clips without any sound (peak of at most −120 dB) are bad audio."""
    trim_db: float | None = Field(None, gt=0)
    """Cut what is this many decibels softer than the loudest 10 ms off both ends (60 is usual);
    null keeps silence. `min_seconds` then holds for what is left."""

    @property
    def clip_samples(self) -> int | None:
        """`clip_seconds` in samples."""
        return None if self.clip_seconds is None else round(self.clip_seconds * self.sample_rate)


class Segment(Protocol):
    """What `load` reads of a clip: seconds, None meaning the file's beginning or end."""

    @property
    def id(self) -> str:
        """Name of the clip."""

    @property
    def path(self) -> str:
        """File or URL."""

    @property
    def start(self) -> float | None:
        """Where it begins."""

    @property
    def duration(self) -> float | None:
        """How long it is."""


def load(clip: Segment, audio: Audio) -> Wave:
    """Decode a clip: its whole segment, float32 `(samples,)` at `audio.sample_rate`.

    Raises:
        BadAudio: see its `reason`.
    """
    return dequantize(*load_int16(clip, audio))


def load_int16(clip: Segment, audio: Audio) -> tuple[Pcm, np.float32]:
    """Decode a clip to the 16-bit samples and the scale that the cache keeps.

    Raises:
        BadAudio: see its `reason`; `where` names the path and the clip.
    """
    try:
        wave, rate = decode(clip.path, clip.start, clip.duration)
        mono = _downmix(wave, audio.channel)
        _check_sound(mono, rate, audio)
        if audio.trim_db is not None:
            mono = trim_silence(mono, rate, audio.trim_db)
            _check_length(mono, rate, audio)
        return quantize(_resample(mono, rate, audio.sample_rate))
    except BadAudio as error:
        where = f"{clip.path} (clip {clip.id})"
        raise BadAudio(error.reason, error.message, where=where, fix=error.fix) from error


def _downmix(wave: Wave, channel: str | int) -> Wave:
    """Turn (channels, samples) into (samples,)."""
    count = len(wave)
    if isinstance(channel, int):
        if channel >= count:
            text = f"there is no channel {channel}: the file has {count}, counted from 0"
            raise BadAudio("no_channel", text, fix="choose another audio.channel")
        return np.ascontiguousarray(wave[channel])
    if count == 1:
        return np.ascontiguousarray(wave[0])
    # A product with a vector is ten times faster than the mean over an interleaved axis.
    weight = 1.0 / count if channel == "mean" else 1.0
    mixed: Wave = np.full(count, weight, dtype=np.float32) @ wave
    return mixed


def _check_sound(mono: Wave, rate: int, audio: Audio) -> None:
    if len(mono) == 0:
        raise BadAudio("zero_length", "holds no samples")
    _check_length(mono, rate, audio)
    peak = _peak(mono)
    if not np.isfinite(peak):
        raise BadAudio("not_finite", "holds samples that are not numbers (NaN or infinite)")
    if peak > _LOUDEST:
        text = f"holds samples as large as {peak:.0e}, and sound lies between -1 and 1"
        raise BadAudio("not_sound", text)
    if peak <= _SILENCE and audio.silent == "bad":
        raise BadAudio("silent", "holds nothing but silence", fix="audio.silent=keep takes it")


def _check_length(mono: Wave, rate: int, audio: Audio) -> None:
    if len(mono) < audio.min_seconds * rate:
        text = f"{len(mono) / rate:g} s are shorter than audio.min_seconds={audio.min_seconds:g}"
        raise BadAudio("too_short", text)


def trim_silence(waveform: Wave, sample_rate: int, trim_db: float) -> Wave:
    """Cut the silent frames of 10 ms off both ends of a waveform `(samples,)`.

    A frame is silent whose mean square is over `trim_db` decibels below the loudest frame's. A
    waveform without any sound stays as it is.
    """
    size = max(round(_TRIM_SECONDS * sample_rate), 1)
    starts = np.arange(0, len(waveform), size)
    if len(starts) == 0:
        return waveform
    counts = np.diff(starts, append=len(waveform))
    power = np.add.reduceat(np.square(waveform, dtype=np.float64), starts) / counts
    loud = np.flatnonzero(power >= power.max() * 10 ** (-trim_db / 10))
    return waveform[loud[0] * size : (loud[-1] + 1) * size] if power.max() > 0 else waveform


def _peak(wave: Wave) -> np.float32:
    # The extremes pass NaN on, and cost no temporary array as abs() would.
    return np.float32(max(abs(np.max(wave)), abs(np.min(wave)))) if len(wave) else np.float32(0)


def _resample(mono: Wave, rate: int, sample_rate: int) -> Wave:
    if rate == sample_rate:
        return mono
    resampled: Wave = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if len(resampled) == 0:
        raise BadAudio("zero_length", f"{len(mono)} samples at {rate} Hz are less than one")
    return resampled


def quantize(waveform: Wave) -> tuple[Pcm, np.float32]:
    """Round to 16-bit samples that share one scale, peak / 32767 (block floating point).

    The error is at most half a step of the clip's own peak: 98 dB below a full-scale sine however
    quiet the clip is. Peaks under 1e-30 become zero.
    """
    peak = _peak(waveform)
    if peak < _SMALLEST_PEAK:
        return np.zeros(len(waveform), np.int16), np.float32(0)
    scale = np.float32(peak / np.float32(32767))
    return np.rint(waveform * (np.float32(1) / scale)).astype(np.int16), scale


def dequantize(pcm: Pcm, scale: np.float32) -> Wave:
    """Turn 16-bit samples and their scale into float32."""
    return np.multiply(pcm, scale, dtype=np.float32)


def pcm_round(waveform: Wave) -> Wave:
    """Round a waveform as the cache of decoded audio does."""
    return dequantize(*quantize(waveform))


def crop_start(length: int, samples: int, crop: Crop, rng: np.random.Generator | None) -> int:
    """Return where the crop of a clip begins, so that only that part need be read.

    Args:
        length: Samples that there are.
        samples: Samples that are wanted.
        crop: Which part; `random` takes the centre where there is no generator (evaluation).
        rng: Draws the place.
    """
    spare = length - samples
    if spare <= 0 or crop == "start":
        return 0
    if crop == "random" and rng is not None:
        return int(rng.integers(spare + 1))
    return spare // 2


def fit_length(
    waveform: Wave, samples: int, crop: Crop, pad: Pad, rng: np.random.Generator | None = None
) -> tuple[Wave, int]:
    """Crop or pad a waveform `(length,)` to `samples`.

    Returns:
        The waveform `(samples,)` and its true length: what was filled with zeros or the mean does
        not count, what was repeated does.
    """
    length = len(waveform)
    if length >= samples:
        start = crop_start(length, samples, crop, rng)
        return waveform[start : start + samples], samples
    if pad == "repeat" and length:
        return np.resize(waveform, samples), samples
    fill = float(waveform.mean()) if pad == "mean" and length else 0.0
    padded = np.full(samples, fill, dtype=np.float32)
    padded[:length] = waveform
    return padded, length
