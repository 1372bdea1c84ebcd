"""Lossy compression of a training waveform, by a real encoder and decoder."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import soundfile
from pydantic import Field

from harken.augment.augment import Wave, WaveformAugment
from harken.augment.level import peak
from harken.errors import ConfigError

_HEADROOM = 0.9  # codecs overshoot, and clip what is over full scale
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_MP3_DELAY = 528 + 1 + 576  # samples of LAME's encoder and of every decoder
_MP3_FRAME = 1152
_OPUS_KBPS = (6.0, 256.0)


class Codec(WaveformAugment):
    """Compress the clip as MP3 or Opus and decode it again; it keeps its place and its length.

    Encoding takes some ten times as long as decoding the clip's file did, so a small `p` is wise.
    """

    kind: Literal["codec"] = "codec"
    format: Literal["mp3", "opus"] = "mp3"
    """The codec; MP3 knows the rates from 8 to 48 kHz that are usual, Opus 8, 12, 16, 24, 48."""
    min_kbps: float = Field(16.0, ge=8, le=320)
    """Smallest bit rate in kbit/s; encoders take the nearest that they have."""
    max_kbps: float = Field(64.0, ge=8, le=320)
    """Largest bit rate in kbit/s."""

    def check(self, sample_rate: int) -> None:
        """Refuse rates that the codec does not know."""
        known = _MP3_RATES if self.format == "mp3" else _OPUS_RATES
        if sample_rate not in known:
            raise ConfigError(
                f"{self.format} does not know the rate {sample_rate} Hz, only "
                + ", ".join(map(str, known)),
                where="augment: codec.format",
                fix="change audio.sample_rate",
            )

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return what the decoder makes of it."""
        self.check(sample_rate)
        kbps = rng.uniform(self.min_kbps, self.max_kbps)
        level = peak(waveform)
        if level == 0:
            return waveform.copy()
        scale = np.float32(_HEADROOM / level)
        decoded = self._round_trip(waveform * scale, sample_rate, kbps) / scale
        changed = np.zeros_like(waveform)
        kept = min(len(waveform), len(decoded))
        changed[:kept] = decoded[:kept]
        return changed

    def _round_trip(self, waveform: Wave, sample_rate: int, kbps: float) -> Wave:
        file = io.BytesIO()
        if self.format == "mp3":
            kind = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}
            level = mp3_level(sample_rate, kbps)
        else:
            kind = {"format": "OGG", "subtype": "OPUS"}
            level = opus_level(kbps)
        # The last samples come out of a decoder with the frame after them.
        padded = np.pad(waveform, (0, 2 * _MP3_FRAME))
        soundfile.write(file, padded, sample_rate, compression_level=level, **kind)
        file.seek(0)
        decoded: Wave = soundfile.read(file, dtype="float32")[0]
        # Frames of low bit rates have no room for the tag by which libsndfile takes out the delay.
        is_late = self.format == "mp3" and b"Info" not in file.getvalue()[:200]
        return decoded[_MP3_DELAY:] if is_late else decoded


def mp3_level(sample_rate: int, kbps: float) -> float:
    """Return libsndfile's compression level of a constant bit rate, 0 being the highest of all.

    MPEG 1 has 32 to 320 kbit/s, MPEG 2 (under 32 kHz) 8 to 160, MPEG 2.5 (under 16 kHz) 8 to 64.
    """
    highest = 320.0 if sample_rate >= 32000 else 160.0 if sample_rate >= 16000 else 64.0
    lowest = 32.0 if sample_rate >= 32000 else 8.0
    # libsndfile refuses the level 1 itself.
    return float(np.clip((highest - kbps) / (highest - lowest), 0.0, 0.99))


def opus_level(kbps: float) -> float:
    """Return libsndfile's compression level of a bit rate."""
    low, high = _OPUS_KBPS
    return float(np.clip((high - kbps) / (high - low), 0.0, 1.0))
