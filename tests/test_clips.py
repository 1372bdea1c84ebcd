from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from harken.report.clips import (
    MAX_RATE,
    Sound,
    frequency_ticks,
    listen,
    outline,
    palette,
    png,
    spectrogram,
    wav,
    within,
)

Wave = np.ndarray


def heard(sound: Sound | str) -> tuple[Wave, int]:
    assert isinstance(sound, Sound)
    head, _, content = sound.audio.partition(",")
    assert head == "data:audio/wav;base64"
    return soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="float32")


def test_clip_is_heard_as_it_was_recorded(
    tmp_path: Path, tone: Callable[..., Wave], write_clip: Callable[..., Path]
) -> None:
    wave = tone(0.5, 16000)
    sound = listen(str(write_clip(tmp_path / "a.wav", wave)), None, None)
    samples, rate = heard(sound)
    assert rate == 16000
    assert np.abs(samples - wave).max() < 1e-4


def test_segment_is_cut_and_long_clips_end_early(
    tmp_path: Path, tone: Callable[..., Wave], write_clip: Callable[..., Path]
) -> None:
    wave = tone(3.0, 8000)
    path = str(write_clip(tmp_path / "a.wav", wave, 8000))
    samples, _ = heard(listen(path, 1.0, 0.5))
    assert np.abs(samples - wave[8000:12000]).max() < 1e-4
    cut = listen(path, None, None, max_seconds=2.0)
    assert isinstance(cut, Sound)
    assert (cut.seconds, cut.full_seconds) == (2.0, 3.0)


def test_fast_and_stereo_recordings_become_mono_at_the_page_rate(
    tmp_path: Path, tone: Callable[..., Wave], write_clip: Callable[..., Path]
) -> None:
    wave = tone(0.5, 44100, 1000.0)
    path = write_clip(tmp_path / "a.wav", np.stack([wave, np.zeros_like(wave)], axis=1), 44100)
    samples, rate = heard(listen(str(path), None, None))
    assert rate == MAX_RATE
    assert len(samples) == pytest.approx(8000, abs=2)
    middle = samples[2000:6000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == pytest.approx(250, abs=1)
    assert middle.max() == pytest.approx(0.25, abs=0.01)


def test_missing_and_broken_files_become_a_sentence(tmp_path: Path) -> None:
    words = listen(str(tmp_path / "gone.wav"), None, None)
    assert isinstance(words, str)
    assert words.startswith("The recording can no longer be read")
    (tmp_path / "text.wav").write_text("no sound")
    assert isinstance(listen(str(tmp_path / "text.wav"), None, None), str)
    assert isinstance(listen(str(tmp_path), None, None), str)


@pytest.mark.parametrize("frequency", [500.0, 2000.0, 5000.0])
def test_a_tone_is_bright_at_its_place_on_the_mel_axis(
    frequency: float, tone: Callable[..., Wave]
) -> None:
    picture = spectrogram(tone(1.0, 16000, frequency), 16000)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 112
    brightest = int(np.argmax(picture.mean(axis=1)))
    share = np.log10(1 + frequency / 700) / np.log10(1 + 8000 / 700)
    assert 1 - (brightest + 0.5) / 112 == pytest.approx(share, abs=0.015)
    assert picture.max() == 255


@pytest.mark.parametrize("samples", [1, 50, 401, 160000])
def test_any_length_gives_a_picture_and_an_outline(samples: int) -> None:
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    picture = spectrogram(wave, 16000)
    assert 1 <= picture.shape[1] <= 361
    assert outline(wave).startswith("M")
    assert np.isfinite(picture).all()


def test_silence_is_no_error() -> None:
    silence = np.zeros(8000, dtype=np.float32)
    assert spectrogram(silence, 16000).shape[0] == 112
    assert "nan" not in outline(silence)
    assert len(wav(silence, 16000)) == 44 + 16000


def test_png_holds_the_picture(tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture = np.random.default_rng(0).integers(0, 256, (7, 13)).astype(np.uint8)
    shown = imread(io.BytesIO(png(picture)), format="png")
    assert np.array_equal(np.round(shown[..., :3] * 255).astype(np.uint8), palette()[picture])


def test_palette_rises_evenly_in_light() -> None:
    light = palette() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) >= -0.5).all()
    assert light[0] < 10
    assert light[-1] > 220


def test_ticks_stay_inside_the_band() -> None:
    assert [text for _, text in frequency_ticks(16000)] == ["500 Hz", "1 kHz", "2 kHz", "4 kHz"]
    assert [text for _, text in frequency_ticks(4000)] == ["500 Hz", "1 kHz"]
    assert all(0 < top < 1 for top, _ in frequency_ticks(16000))


def test_outline_follows_the_peaks() -> None:
    wave = np.zeros(4000, dtype=np.float32)
    wave[2000] = 0.5
    points = outline(wave).strip("MZ").split("L")
    assert len(points) == 800
    assert min(float(point.split()[1]) for point in points) == -1.0


def test_too_loud_sound_is_turned_down_as_a_whole() -> None:
    wave = np.array([0.5, -2.0, 1.0], dtype=np.float32)
    samples, _ = soundfile.read(io.BytesIO(wav(wave, 8000)))
    assert samples == pytest.approx([0.25, -1.0, 0.5], abs=1e-3)


def test_within_counts_what_fits() -> None:
    sound = Sound("x" * 40, "", "y" * 60, 1.0, 1.0, ())
    assert within([sound, "no sound", sound, sound], 250) == 3
    assert within([sound, sound], 50) == 0
    assert within([], 50) == 0
