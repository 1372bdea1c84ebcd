"""Every format, whole and in parts, and every way in which a file can be bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import harken.decode
from harken.decode import BadAudio, decode, probe
from harken.errors import MissingExtraError

FORMATS = {
    "u8.wav": ("PCM_U8", 2**-7),
    "16.wav": ("PCM_16", 2**-15),
    "24.wav": ("PCM_24", 2**-23),
    "32.wav": ("PCM_32", 2**-24),
    "float.wav": ("FLOAT", 0.0),
    "double.wav": ("DOUBLE", 0.0),
    "16.flac": ("PCM_16", 2**-15),
    "24.flac": ("PCM_24", 2**-23),
    "clip.ogg": ("VORBIS", 0.1),
    "clip.opus": ("OPUS", 0.1),
    "clip.mp3": ("MPEG_LAYER_III", 0.1),
}
FOREIGN = {"clip.m4a": "aac", "clip.aac": "aac", "clip.webm": "libopus"}
RATE = 48000


def write_foreign(path: Path, waveform: np.ndarray, rate: int = RATE, **options: str) -> Path:
    """Encode (samples,) or (channels, samples) with PyAV."""
    av = pytest.importorskip("av")
    waves = np.atleast_2d(waveform).astype(np.float32)
    layout = "mono" if len(waves) == 1 else "stereo"
    with av.open(str(path), "w", options=options) as container:
        codec = "libmp3lame" if path.suffix == ".mp3" else FOREIGN[f"clip{path.suffix}"]
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(waves, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        cutter = av.AudioResampler(
            stream.codec_context.format, layout, rate, stream.codec_context.frame_size
        )
        for part in [*cutter.resample(frame), *cutter.resample(None), None]:
            container.mux(stream.encode(part))
    return path


@pytest.fixture
def sweep() -> np.ndarray:
    """3 s at 48 kHz whose pitch tells the time, so that a shift of one sample shows."""
    frequency = np.linspace(100, 3000, 3 * RATE)
    return (0.4 * np.sin(2 * np.pi * np.cumsum(frequency) / RATE)).astype(np.float32)


def reason_of(path: Path, start: float | None = None, duration: float | None = None) -> str:
    with pytest.raises(BadAudio) as caught:
        decode(path, start, duration)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_libsndfile(tmp_path: Path, sweep: np.ndarray, name: str) -> None:
    subtype, step = FORMATS[name]
    kind = "OGG" if subtype == "OPUS" else None
    soundfile.write(tmp_path / name, sweep, RATE, subtype=subtype, format=kind)
    wave, rate = decode(tmp_path / name)
    assert (rate, wave.dtype, wave.shape) == (RATE, np.float32, (1, len(sweep)))
    assert np.abs(wave[0] - sweep)[:-500].max() <= step  # Opus fades at the end
    info = probe(tmp_path / name)
    assert (info.sample_rate, info.channels, info.seconds) == (RATE, 1, 3.0)


@pytest.mark.parametrize("name", FORMATS)
def test_parts_equal_the_whole(tmp_path: Path, sweep: np.ndarray, name: str) -> None:
    subtype, _ = FORMATS[name]
    kind = "OGG" if subtype == "OPUS" else None
    soundfile.write(tmp_path / name, sweep, RATE, subtype=subtype, format=kind)
    whole, _ = decode(tmp_path / name)
    for start, duration in [(0.0, 0.5), (0.333, 1.0), (1.7, None), (2.9, 0.1), (2.99, None)]:
        part, _ = decode(tmp_path / name, start, duration)
        first = round(start * RATE)
        stop = None if duration is None else round((start + duration) * RATE)
        np.testing.assert_allclose(part, whole[:, first:stop], atol=1e-6)


@pytest.mark.realdata
def test_parts_of_real_vorbis_files_are_exact(esc10: Path) -> None:
    # libsndfile's own seek is up to 704 samples off in the last second of these.
    rng = np.random.default_rng(0)
    for name in ("1-32318-A-0", "3-104632-A-12", "5-201274-A-21"):
        path = esc10 / "audio" / f"{name}.ogg"
        whole, rate = decode(path)
        for start in rng.uniform(3.5, whole.shape[1] / rate - 0.05, 10):
            part, _ = decode(path, start)
            assert np.array_equal(part, whole[:, round(start * rate) :])


def test_channels_keep_their_order(tmp_path: Path, sweep: np.ndarray) -> None:
    stereo = np.stack([sweep, 0.25 * sweep[::-1]])
    soundfile.write(tmp_path / "stereo.wav", stereo.T, RATE, subtype="FLOAT")
    assert np.array_equal(decode(tmp_path / "stereo.wav")[0], stereo)
    wave, _ = decode(write_foreign(tmp_path / "clip.m4a", stereo))
    assert wave.shape == stereo.shape
    assert np.corrcoef(wave[1], stereo[1])[0, 1] > 0.99


@pytest.mark.parametrize("name", FOREIGN)
def test_formats_of_pyav(tmp_path: Path, sweep: np.ndarray, name: str) -> None:
    path = write_foreign(tmp_path / name, sweep)
    wave, rate = decode(path)
    assert rate == RATE
    if name != "clip.aac":  # raw AAC stores neither its delay nor its length
        assert wave.shape == (1, len(sweep))
        assert np.abs(wave[0] - sweep)[2000:-2000].max() < 0.1
        assert probe(path).seconds == pytest.approx(3.0, abs=0.05)
    assert probe(path).channels == 1
    for start, duration in [(0.0, 0.5), (0.5, 1.0), (1.7, None), (2.9, 0.05)]:
        part, _ = decode(path, start, duration)
        first = round(start * RATE)
        stop = None if duration is None else round((start + duration) * RATE)
        # AAC fills bands with noise that depends on where decoding began; a shift would be 0.15.
        np.testing.assert_allclose(part, wave[:, first:stop], atol=5e-3)


def test_foreign_content_under_a_familiar_name(tmp_path: Path, sweep: np.ndarray) -> None:
    write_foreign(tmp_path / "clip.webm", sweep).rename(tmp_path / "clip.ogg")
    assert decode(tmp_path / "clip.ogg")[0].shape == (1, len(sweep))


def test_mp3_without_a_length(tmp_path: Path) -> None:
    # A loud half after a quiet one: libsndfile guesses the length from the first bit rate.
    rng = np.random.default_rng(0)
    options = {"write_xing": "0", "id3v2_version": "0"}
    part = write_foreign(tmp_path / "a.mp3", 0.1 * rng.standard_normal(RATE), **options)
    one = decode(part)[0].shape[1]
    assert one == pytest.approx(RATE, abs=3000)
    start, _ = decode(part, 0.5, 0.25)
    np.testing.assert_allclose(start, decode(part)[0][:, RATE // 2 : 3 * RATE // 4], atol=1e-6)
    soundfile.write(tmp_path / "b.mp3", np.zeros(RATE), RATE, bitrate_mode="CONSTANT")
    quiet = (tmp_path / "b.mp3").read_bytes().replace(b"Info", bytes(4)).replace(b"Xing", bytes(4))
    (tmp_path / "c.mp3").write_bytes(part.read_bytes() + quiet)
    (tmp_path / "d.mp3").write_bytes(quiet + part.read_bytes())
    for name in ("c.mp3", "d.mp3"):
        assert decode(tmp_path / name)[0].shape[1] == pytest.approx(2 * RATE, abs=6000), name


def test_flac_without_a_length(tmp_path: Path, sweep: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.flac", sweep, RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # the 36 bits of the total number of samples
    content[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(content)
    wave, _ = decode(tmp_path / "piped.flac")
    assert np.array_equal(wave, decode(tmp_path / "a.flac")[0])
    assert np.array_equal(decode(tmp_path / "piped.flac", 1.0)[0], wave[:, RATE:])


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
@pytest.mark.parametrize("name", [*FORMATS, *FOREIGN])
def test_truncated(tmp_path: Path, noise: Callable, name: str, share: float) -> None:
    path, wave = tmp_path / name, noise(3.0, RATE)
    if name in FOREIGN:
        write_foreign(path, wave)
    else:
        kind = "OGG" if name == "clip.opus" else None
        soundfile.write(path, wave, RATE, subtype=FORMATS[name][0], format=kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert reason_of(path) == "truncated"


def test_truncated_m4a_with_its_table_in_front(tmp_path: Path, noise: Callable) -> None:
    path = write_foreign(tmp_path / "clip.m4a", noise(3.0, RATE), movflags="faststart")
    assert decode(path)[0].shape[1] == 3 * RATE
    path.write_bytes(path.read_bytes()[:-2000])
    assert reason_of(path) == "truncated"


def test_damaged_flac(tmp_path: Path, noise: Callable) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, noise(3.0), 16000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    path.write_bytes(content)
    assert reason_of(path) == "truncated"


def test_damaged_headers(tmp_path: Path, noise: Callable) -> None:
    wav, mp3, ogg = (tmp_path / name for name in ("a.wav", "a.mp3", "a.ogg"))
    for path in (wav, mp3, ogg):
        soundfile.write(path, noise(1.0), 16000)
    content = bytearray(wav.read_bytes())
    content[22:24] = b"\xff\xff"  # number of channels
    wav.write_bytes(content)
    content = bytearray(mp3.read_bytes())
    header = max(content.find(b"Xing"), content.find(b"Info"))
    content[header + 8 : header + 12] = b"\x7f\xff\xff\xff"  # number of frames: terabytes
    mp3.write_bytes(content)
    content = bytearray(ogg.read_bytes())
    content[40:60] = bytes(20)
    ogg.write_bytes(content)
    for path in (wav, mp3, ogg):
        assert reason_of(path) == "truncated"


def test_tags_in_other_encodings_do_no_harm(tmp_path: Path, sweep: np.ndarray) -> None:
    path = write_foreign(tmp_path / "clip.webm", sweep)
    content = path.read_bytes()
    assert b"Lavf" in content  # the tag that names the writer
    path.write_bytes(content.replace(b"Lavf", "음성".encode("cp949")))
    with pytest.raises(UnicodeDecodeError):
        pytest.importorskip("av").open(str(path))
    assert decode(path)[0].shape == (1, len(sweep))


def test_sixteen_channels(tmp_path: Path, noise: Callable) -> None:
    waves = np.stack([noise(0.5, seed=i) for i in range(16)])
    soundfile.write(tmp_path / "array.wav", waves.T, 16000, subtype="FLOAT")
    assert np.array_equal(decode(tmp_path / "array.wav")[0], waves)


def test_missing_empty_text_folder_and_no_samples(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "nowhere.wav") == "missing"
    assert reason_of(tmp_path / "no" / "folder.wav") == "missing"
    (tmp_path / "empty.wav").touch()
    assert reason_of(tmp_path / "empty.wav") == "empty"
    (tmp_path / "text.wav").write_text("this is not sound\n" * 40)
    assert reason_of(tmp_path / "text.wav") == "not_audio"
    (tmp_path / "subtitles.wav").write_text("1\n00:00:01,000 --> 00:00:02,000\nhi\n\n" * 40)
    assert reason_of(tmp_path / "subtitles.wav") == "not_audio"
    assert reason_of(tmp_path) == "not_audio"
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    assert reason_of(tmp_path / "none.wav") == "zero_length"
    for name in ("nowhere.wav", "text.wav", "empty.wav"):
        with pytest.raises(BadAudio):
            probe(tmp_path / name)


@pytest.mark.parametrize("name", ["clip.wav", "clip.ogg", "clip.m4a", "clip.webm"])
def test_segments_outside_the_file(tmp_path: Path, sweep: np.ndarray, name: str) -> None:
    path = tmp_path / name
    if name in FOREIGN:
        write_foreign(path, sweep)
    else:
        soundfile.write(path, sweep, RATE)
    bad = [(3.0, None), (5.0, 1.0), (2.5, 1.0), (-1.0, None), (1.0, 0.0), (1.0, -2.0), (0.0, 9.0)]
    for start, duration in bad:
        assert reason_of(path, start, duration) == "outside", (start, duration)
    # Tables round: 10 ms over the end are forgiven.
    assert decode(path, 2.0, 1.01)[0].shape[1] == RATE


def test_without_pyav_the_extra_is_named(
    tmp_path: Path, sweep: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_foreign(tmp_path / "clip.m4a", sweep)

    def missing(module: str, extra: str) -> None:
        raise MissingExtraError(f"needs {module}", fix=f"pip install 'harken[{extra}]'")

    monkeypatch.setattr(harken.decode, "import_extra", missing)
    with pytest.raises(BadAudio, match=r"harken\[av\]") as caught:
        decode(path)
    assert caught.value.reason == "unsupported"


def test_names_in_any_script_and_urls(tmp_path: Path, sweep: np.ndarray) -> None:
    soundfile.write(tmp_path / "소리 ünï.wav", sweep, RATE)
    assert decode(tmp_path / "소리 ünï.wav")[0].shape[1] == len(sweep)
    assert decode(f"file://{tmp_path}/소리 ünï.wav")[0].shape[1] == len(sweep)
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/clips/a.wav", (tmp_path / "소리 ünï.wav").read_bytes())
    assert decode("memory://clips/a.wav", 1.0)[0].shape[1] == 2 * RATE
    with pytest.raises(BadAudio) as caught:
        decode("memory://clips/none.wav")
    assert caught.value.reason == "missing"
