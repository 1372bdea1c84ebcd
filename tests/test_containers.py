"""Files that end early are found from a few of their bytes, whole ones are not accused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harken.containers import is_cut_short, mp3_says_its_length

CONTAINERS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("RF64", "PCM_24"), ("OGG", "VORBIS")]


def rewrite(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("kind", "subtype"), [*CONTAINERS, ("OGG", "OPUS")])
def test_whole_files_pass_and_cut_ones_do_not(
    tmp_path: Path, noise: Callable, kind: str, subtype: str
) -> None:
    path = tmp_path / "clip"
    soundfile.write(path, noise(1.0), 16000, format=kind, subtype=subtype)
    content = path.read_bytes()
    assert not is_cut_short(path)
    for share in (0.1, 0.5, 0.9, 0.999):
        assert is_cut_short(rewrite(path, content[: int(share * len(content))])), share


@given(lost=st.integers(1, 30_000))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_cut_of_a_wav_is_found(tmp_path: Path, noise: Callable, lost: int) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, noise(1.0), 16000)
    assert is_cut_short(rewrite(path, path.read_bytes()[:-lost]))


def test_wav_from_a_pipe_does_not_promise_a_length(tmp_path: Path, tone: Callable) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(), 16000)
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff" * 4
    assert not is_cut_short(rewrite(path, bytes(content)))


def test_chunks_before_and_after_the_samples_are_walked(tmp_path: Path, tone: Callable) -> None:
    path = tmp_path / "tagged.wav"
    soundfile.write(path, tone(), 16000)
    content = path.read_bytes()
    tag = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    assert not is_cut_short(rewrite(path, content[:36] + tag + content[36:] + tag))
    assert is_cut_short(rewrite(path, content[:36] + tag + content[36:-2]))


def test_ogg_may_be_followed_by_tags(tmp_path: Path, tone: Callable) -> None:
    path = tmp_path / "tagged.ogg"
    soundfile.write(path, tone(), 16000)
    content = path.read_bytes()
    assert not is_cut_short(rewrite(path, content + b"TAG" + bytes(125)))


def test_mp3_length(tmp_path: Path, tone: Callable) -> None:
    path = tmp_path / "clip.mp3"
    soundfile.write(path, tone(1.0), 16000)
    content = path.read_bytes()
    assert mp3_says_its_length(path)
    tag = b"ID3\x04\0\0" + bytes([0, 0, 0x20, 0]) + bytes(0x20 << 7)
    assert mp3_says_its_length(rewrite(path, tag + content))
    without = content.replace(b"Xing", b"\0\0\0\0").replace(b"Info", b"\0\0\0\0")
    assert not mp3_says_its_length(rewrite(path, without))


@pytest.mark.realdata
def test_real_recordings_are_whole(esc10: Path, fsdd: Path) -> None:
    ogg = sorted((esc10 / "audio").glob("*.ogg"))
    wav = sorted((fsdd / "recordings").glob("*.wav"))
    assert len(ogg) == 400
    assert len(wav) == 3000
    assert not any(is_cut_short(path) for path in [*ogg, *wav])
