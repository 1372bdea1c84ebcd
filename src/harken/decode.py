"""Files → samples: libsndfile first, PyAV for what it refuses.

libsndfile reads wav, flac, ogg, opus and mp3; PyAV, an optional extra, m4a, aac and webm. A file
that is cut short is never taken for a shorter one where its format lets us know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile

from harken.containers import is_cut_short, mp3_says_its_length
from harken.errors import DataError, MissingExtraError, import_extra
from harken.storage import recent_copy

Wave = npt.NDArray[np.float32]
Reason = Literal[
    "missing", "empty", "not_audio", "unsupported", "truncated", "zero_length", "too_short",
    "silent", "not_finite", "not_sound", "outside", "no_channel",
]  # fmt: skip

DECODER = 1
"""Raised whenever the same file would decode to other samples; cached audio is keyed by it."""
_SLACK_SECONDS = 0.02  # tables round their times; so much a segment may reach over the end
_CONTAINER_SLACK_SECONDS = 0.05  # m4a and webm promise durations that include codec padding
_PREROLL_SECONDS = 0.25  # lossy decoders need some frames to settle after a seek
_VORBIS_PAGE = 1 << 18  # samples that the last page of a Vorbis file holds at most, in practice
# Unrecognised, malformed (which it says of some sound Opus files, too), unsupported encoding.
_NOT_FOR_LIBSNDFILE = {1, 3, 4}
_MP3_PREROLL = 32 * 1152  # the reservoir's 511 bytes reach over some twenty frames at 8 kbit/s
_ENDLESS = 1 << 62  # libsndfile's length of streams that do not state theirs is above this


class BadAudio(DataError):  # noqa: N818
    """A recording that cannot be used.

    Attributes:
        reason: One word that says why; stable, for tables and tests.
    """

    def __init__(
        self, reason: Reason, message: str, *, where: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(message, where=where, fix=fix)
        self.reason = reason


@dataclass(frozen=True)
class Info:
    """What a file's header says; `frames` is an estimate where the format stores no length."""

    sample_rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.sample_rate


def probe(path: str | Path) -> Info:
    """Read a file's header; nothing is decoded.

    Raises:
        BadAudio: the file is missing, empty, cut short (where its container tells) or not audio.
    """
    file = _checked_file(path)
    reader = _open(file)
    if reader is None or reader.frames >= _ENDLESS:
        with _AvFile(file) as foreign:
            return Info(foreign.rate, foreign.channels, foreign.promised or 0)
    with reader:
        return Info(reader.samplerate, reader.channels, reader.frames)


def decode(
    path: str | Path, start: float | None = None, duration: float | None = None
) -> tuple[Wave, int]:
    """Decode a file, or only a part of it.

    Args:
        path: A local path or a URL.
        start: Seconds from the beginning; None is 0.
        duration: Seconds; None reads to the end.

    Returns:
        float32 `(channels, samples)` in [-1, 1] (float files as they are), and the file's own rate.

    Raises:
        BadAudio: missing, empty, not_audio, unsupported, truncated, zero_length or outside.
    """
    file = _checked_file(path)
    reader = _open(file)
    if reader is not None:
        with reader:
            wave = _read(reader, file, start, duration)
        if wave is not None:
            return wave.T, reader.samplerate
    with _AvFile(file) as foreign:
        return foreign.read(start, duration), foreign.rate


def _checked_file(path: str | Path) -> Path:
    try:
        file = recent_copy(path)
        size = file.stat().st_size
        if not file.is_file():
            raise BadAudio("not_audio", "is not a file", where=str(path))
        if size == 0:
            raise BadAudio("empty", "the file is empty (0 bytes)", where=str(path))
        if is_cut_short(file):
            raise _truncated(file)
    except BadAudio:
        raise
    except (FileNotFoundError, NotADirectoryError, DataError) as error:
        raise BadAudio("missing", "there is no such file", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise BadAudio("missing", f"cannot be opened: {error}", where=str(path)) from error
    return file


def _truncated(file: Path, detail: str = "it ends before the audio that it promises") -> BadAudio:
    return BadAudio("truncated", f"the file is cut short or damaged: {detail}", where=str(file))


def _open(file: Path) -> Any | None:
    """Return libsndfile's reader, or None where it does not know the format."""
    try:
        return soundfile.SoundFile(str(file))
    except soundfile.LibsndfileError as error:
        if error.code in _NOT_FOR_LIBSNDFILE or "unimplemented" in error.error_string:
            return None
        # It knows the format and found a fault: PyAV would make noise of the rest.
        raise _truncated(file, error.error_string) from error


def _read(reader: Any, file: Path, start: float | None, duration: float | None) -> Wave | None:
    """Return float32 (samples, channels), or None where libsndfile would drop the end."""
    rate, total, where = reader.samplerate, reader.frames, str(file)
    if total >= _ENDLESS:
        return None
    try:
        if reader.format == "MP3" and not mp3_says_its_length(file):
            whole = _read_frames(reader, total)
            if len(whole) == total:  # the guessed length was too small: more may follow
                return None
            first, count = _span(len(whole), rate, start, duration, where)
            return whole[first : first + count]
        first, count = _span(total, rate, start, duration, where)
        skip = _seek(reader, first)
        wave = _read_frames(reader, skip + count)[skip:]
    except soundfile.LibsndfileError as error:
        raise _truncated(file, error.error_string) from error
    except (MemoryError, ValueError) as error:
        raise _truncated(file, f"it promises {total} samples") from error
    if len(wave) < count:
        raise _truncated(file, f"{total} samples promised, {first + len(wave)} found")
    return wave


def _seek(reader: Any, first: int) -> int:
    """Go to a sample, or before it, and return how many samples are still to be skipped.

    libsndfile 1.2.2 lands up to a block off inside the last page of Vorbis files, and begins MP3
    with silence until the bit reservoir is full again; both are right if they are entered earlier.
    """
    entry = first
    if reader.subtype == "VORBIS":
        entry = max(0, min(first, reader.frames - _VORBIS_PAGE))
    elif reader.format == "MP3":
        entry = max(0, first - _MP3_PREROLL)
    if entry:
        reader.seek(entry)
    return first - entry


def _read_frames(reader: Any, count: int) -> Wave:
    if reader.subtype != "PCM_16":
        wave: Wave = reader.read(count, dtype="float32", always_2d=True)
        return wave
    # numpy converts 16-bit samples faster than libsndfile does; both divide by 2**15, exactly.
    pcm: npt.NDArray[np.int16] = reader.read(count, dtype="int16", always_2d=True)
    return np.multiply(pcm, np.float32(2.0**-15), dtype=np.float32)


def _span(
    total: int, rate: int, start: float | None, duration: float | None, where: str
) -> tuple[int, int]:
    """Return the first sample and the number of samples of a segment."""
    if total == 0:
        raise BadAudio("zero_length", "holds no samples", where=where)
    seconds = total / rate
    begin = 0.0 if start is None else start
    end = seconds if duration is None else begin + duration
    if not 0 <= begin < end or begin >= seconds or end > seconds + _SLACK_SECONDS:
        size = "" if total >= _ENDLESS else f" of {seconds:g} s"
        text = f"the segment from {begin:g} s to {end:g} s is not inside the file{size}"
        raise BadAudio("outside", text, where=where)
    first = min(round(begin * rate), total - 1)
    return first, max(1, min(round(end * rate), total) - first)


class _AvFile:
    """An audio file opened by PyAV; a context manager."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._av: Any = import_extra("av", "av")
        except MissingExtraError as error:
            text = "libsndfile cannot read this file; PyAV might, but is not installed"
            raise BadAudio("unsupported", text, where=str(file), fix=error.fix) from error

    def __enter__(self) -> _AvFile:
        try:
            self._container: Any = self._av.open(str(self.file), metadata_errors="ignore")
        except self._av.FFmpegError as error:
            raise self._refusal() from error
        streams = self._container.streams.audio
        if not streams or streams[0].codec_context is None:  # None: an unknown codec
            self._container.close()
            raise self._refusal()
        self._stream = streams[0]
        self.rate, self.channels = int(self._stream.rate), int(self._stream.channels)
        # Only mp4 keeps an index of its samples and a clock that ticks once a sample.
        self._ticks = Fraction(self._stream.time_base or 1) * self.rate
        self._indexed = "mp4" in self._container.format.name and self._ticks.numerator == 1
        self.promised = self._promised()
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def _refusal(self) -> BadAudio:
        with self.file.open("rb") as file:
            head = file.read(8)
        if head[4:] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3":  # mp4, and Matroska or webm
            return _truncated(self.file, "its table of contents is missing")
        if head[:4] in (b"RIFF", b"OggS", b"fLaC"):
            return _truncated(self.file, "its header cannot be read")
        return BadAudio("not_audio", "this is not an audio file", where=str(self.file))

    def _promised(self) -> int | None:
        if self._indexed and self._stream.duration:
            samples: int = round(self._stream.duration * self._ticks)
            return samples
        if self._container.duration:
            return round(Fraction(self._container.duration, 1_000_000) * self.rate)
        return None

    def read(self, start: float | None, duration: float | None) -> Wave:
        """Return float32 (channels, samples) of a segment."""
        total = self.promised if self._indexed and self.promised else _ENDLESS
        first, count = _span(total, self.rate, start, duration, str(self.file))
        pieces, found = [], 0
        try:
            for position, block in self._blocks(first):
                found = position + block.shape[1]
                if found > first:
                    pieces.append(block[:, max(first - position, 0) : first + count - position])
                if found >= first + count:
                    break
        except self._av.FFmpegError as error:
            raise _truncated(self.file, str(error)) from error
        if found < first + count:
            self._explain_the_end(found, start, duration)
        if not pieces:
            raise BadAudio("zero_length", "holds no samples", where=str(self.file))
        return np.ascontiguousarray(np.concatenate(pieces, axis=1))

    def _blocks(self, first: int) -> Iterator[tuple[int, Wave]]:
        """Yield decoded blocks from `first` or before it on, each with its first sample's position.

        Other containers than mp4 are decoded from their beginning: the clock of webm, for one,
        ticks but once a millisecond, so that a seek would be up to 24 samples off.
        """
        position = 0
        early = first - round(_PREROLL_SECONDS * self.rate)
        seeks = self._indexed and early > 0
        if seeks:
            self._container.seek(int(early / self._ticks), stream=self._stream)
        to_float = self._av.AudioResampler(format="flt")  # PyAV reads only 8 separate channels
        for frame in self._container.decode(self._stream):
            if seeks and frame.pts is not None:
                position = round(frame.pts * self._ticks)
            for part in to_float.resample(frame):
                block = part.to_ndarray().reshape(-1, part.layout.nb_channels).T
                yield position, block
                position += block.shape[1]

    def _explain_the_end(self, found: int, start: float | None, duration: float | None) -> None:
        """Raise, unless the file has merely ended where it should."""
        stores_length = self._indexed or "matroska" in self._container.format.name
        missing = (self.promised or 0) - found
        if stores_length and missing > _CONTAINER_SLACK_SECONDS * self.rate:
            raise _truncated(self.file, f"{self.promised} samples promised, {found} found")
        _span(found, self.rate, start, duration, str(self.file))
