"""A recording as a page shows it: a picture, an outline and sound, all inside the page."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from harken.audio import decode
from harken.errors import HarkenError

Wave = npt.NDArray[np.float32]

MAX_RATE = 16000
"""Hz; faster recordings are resampled, which halves the page and still shows 8 kHz."""

_ANCHORS = ("0b0405", "2e1e3c", "413d7b", "37659e", "348fa7", "40b7ad", "8ad9b1", "def5e5")


@dataclass(frozen=True)
class Sound:
    """A clip as the page shows it.

    Attributes:
        picture: Data URI of the spectrogram, PNG.
        outline: SVG path of the waveform in a box 0..400 × -1..1.
        audio: Data URI of a 16-bit WAV.
        seconds: Length of what is shown and heard.
        full_seconds: Length of the clip.
        ticks: `(share of the height from the top, text)` of the frequency axis.
    """

    picture: str
    outline: str
    audio: str
    seconds: float
    full_seconds: float
    ticks: tuple[tuple[float, str], ...]

    @property
    def num_bytes(self) -> int:
        """What the clip adds to the page."""
        return len(self.picture) + len(self.audio) + len(self.outline)


def listen(
    path: str, start: float | None, duration: float | None, max_seconds: float = 10.0
) -> Sound | str:
    """Return the clip for the page, or a sentence on why it cannot be shown."""
    try:
        channels, sample_rate = decode(path, start, duration)
    except (HarkenError, OSError) as error:
        reason = error.message if isinstance(error, HarkenError) else str(error)
        return f"The recording can no longer be read: {reason}."
    if channels.shape[-1] == 0 or not np.isfinite(channels).all():
        return "The recording holds no sound that can be shown."
    wave = channels.mean(axis=0, dtype=np.float32)
    full_seconds = len(wave) / sample_rate
    wave = wave[: round(max_seconds * sample_rate)]
    if sample_rate > MAX_RATE:
        wave, sample_rate = soxr.resample(wave, sample_rate, MAX_RATE), MAX_RATE
    return Sound(
        picture=_uri("image/png", png(spectrogram(wave, sample_rate))),
        outline=outline(wave),
        audio=_uri("audio/wav", wav(wave, sample_rate)),
        seconds=len(wave) / sample_rate,
        full_seconds=full_seconds,
        ticks=frequency_ticks(sample_rate),
    )


def spectrogram(
    wave: Wave, sample_rate: int, bands: int = 112, max_frames: int = 360, range_db: float = 75.0
) -> npt.NDArray[np.uint8]:
    """Return a picture `(bands, frames)`, high frequencies on top: 255 loudest, 0 `range_db` below.

    Hann windows of 25 ms; the bands are triangles with equal steps on the mel scale
    (2595 log10(1 + f / 700)), never narrower than a bin.
    """
    window = max(16, round(0.025 * sample_rate))
    n_fft = 1 << (2 * window - 1).bit_length()
    padded = np.pad(wave, (window // 2, window))
    hop = max(1, round(0.005 * sample_rate), -(-len(wave) // max_frames))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[: len(wave) : hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), n_fft)) ** 2
    energy = power @ _triangles(n_fft, sample_rate, bands)
    decibel = 10 * np.log10(energy + 1e-20)
    share = (decibel - decibel.max()) / range_db + 1
    picture: npt.NDArray[np.uint8] = np.round(255 * share.clip(0, 1)).astype(np.uint8).T[::-1]
    return picture


def _triangles(n_fft: int, sample_rate: int, bands: int) -> npt.NDArray[np.float64]:
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    centres = 700 * (10 ** (np.linspace(0, top, bands + 1)[1:] / 2595) - 1)
    widths = np.maximum(np.gradient(centres), bins[1])
    weights = (1 - np.abs(bins[:, None] - centres) / widths).clip(0)
    shares: npt.NDArray[np.float64] = weights / weights.sum(axis=0).clip(1e-9)
    return shares


def frequency_ticks(sample_rate: int) -> tuple[tuple[float, str], ...]:
    """Return where 0.5, 1, 2, 4 kHz lie on the mel axis, as shares from the top."""
    top = np.log10(1 + sample_rate / 2 / 700)
    known = ((500, "500 Hz"), (1000, "1 kHz"), (2000, "2 kHz"), (4000, "4 kHz"))
    return tuple(
        (float(1 - np.log10(1 + hertz / 700) / top), text)
        for hertz, text in known
        if hertz < 0.45 * sample_rate
    )


def outline(wave: Wave, columns: int = 400) -> str:
    """Return an SVG path: the least and greatest sample of each column, scaled to -1..1."""
    peak = float(np.abs(wave).max()) or 1.0
    edges = np.linspace(0, len(wave), min(columns, len(wave)) + 1).astype(int)[:-1]
    upper = -np.maximum.reduceat(wave, edges) / peak
    lower = -np.minimum.reduceat(wave, edges) / peak
    at = np.linspace(0, columns, len(edges))
    there = [f"{x:.0f} {y:.2f}" for x, y in zip(at, upper, strict=True)]
    back = [f"{x:.0f} {y:.2f}" for x, y in zip(at[::-1], lower[::-1], strict=True)]
    return f"M{'L'.join(there + back)}Z"


def wav(wave: Wave, sample_rate: int) -> bytes:
    """Return a 16-bit WAV file; what is louder than full scale is turned down as a whole."""
    peak = float(np.abs(wave).max())
    buffer = io.BytesIO()
    scaled = wave / peak if peak > 1 else wave
    soundfile.write(buffer, scaled, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def palette() -> npt.NDArray[np.uint8]:
    """Return 256 colours `(256, 3)` from black over blue to pale green, evenly rising in light."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _ANCHORS], dtype=float)
    at = np.linspace(0, 1, len(anchors))
    channels = [np.interp(np.linspace(0, 1, 256), at, channel) for channel in anchors.T]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG file (ISO/IEC 15948) of a picture `(height, width)` of palette indexes."""
    height, width = picture.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    rows = np.pad(picture, ((0, 0), (1, 0))).tobytes()
    parts = [(b"IHDR", header), (b"PLTE", palette().tobytes())]
    parts += [(b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def _uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def within(sounds: Sequence[Sound | str], max_bytes: int) -> int:
    """Return how many of the first sounds fit into a page of `max_bytes`."""
    total = 0
    for index, sound in enumerate(sounds):
        total += 0 if isinstance(sound, str) else sound.num_bytes
        if total > max_bytes:
            return index
    return len(sounds)
