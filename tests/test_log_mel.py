"""`log_mel` beside transformers, torch and hand-written references; every option at work."""

import warnings

import numpy as np
import pytest
import soundfile
import soxr
import torch
import yaml
from pydantic import ValidationError

from harken.errors import ConfigError
from harken.frontends import Frontend, LogMel


def recipes():
    """The three recipes of the class's text, as a reader would paste them."""
    blocks = [b for b in LogMel.__doc__.split("\n\n") if b.strip().startswith("{kind")]
    return [Frontend.member("log_mel").model_validate(yaml.safe_load(block)) for block in blocks]


def run(config, waveform, sample_rate=16000):
    waveform = torch.from_numpy(np.atleast_2d(waveform))
    lengths = torch.full((len(waveform),), waveform.shape[1])
    features, counts = config.build(sample_rate, None)(waveform, lengths)
    assert features.shape[2] == int(counts.max())
    return features.numpy()


def slow_002(waveform):
    """The minimal transformer's features, frame by frame: 8 kHz, 25 ms, magnitudes, ln."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 130) / 2595) - 1)
    mel = 2595 * np.log10(1 + edges / 700)
    bins = 2595 * np.log10(1 + np.arange(257) * 8000 / 512 / 700)
    bank = np.zeros((128, 257))
    for m in range(128):
        for k in range(1, 257):
            if mel[m] < bins[k] <= mel[m + 1]:
                bank[m, k] = (bins[k] - mel[m]) / (mel[m + 1] - mel[m])
            elif mel[m + 1] < bins[k] < mel[m + 2]:
                bank[m, k] = (mel[m + 2] - bins[k]) / (mel[m + 2] - mel[m + 1])
    hann = 0.5 * (1 - np.cos(2 * np.pi * np.arange(200) / 200))
    starts = range(0, len(waveform) - 200 + 1, 80)
    frames = [np.abs(np.fft.rfft(32767 * waveform[s : s + 200] * hann, 512)) for s in starts]
    levels = np.log(bank @ np.array(frames).T + 1e-10)
    return (levels - levels.mean()) / levels.std()


def test_features_of_the_minimal_transformer(noise):
    waveform = noise(5, 8000)
    features = run(recipes()[0], waveform, 8000)[0]
    assert features.shape == (128, 498)
    np.testing.assert_allclose(features, slow_002(waveform.astype(np.float64)), atol=1e-3)
    assert features.mean() == pytest.approx(0, abs=1e-5)
    assert features.std() == pytest.approx(1, abs=1e-4)


def whisper(waveform, **options):
    from transformers import WhisperFeatureExtractor

    # The path without torch, computed in float64.
    extractor = WhisperFeatureExtractor()
    return extractor._np_extract_fbank_features(waveform[None], device="cpu")[0]


def test_whisper_on_thirty_seconds(noise, tone):
    waveform = np.zeros(480000, dtype=np.float32)
    waveform[: 5 * 16000] = tone(5) + noise(5)
    features = run(recipes()[1], waveform)[0]
    assert features.shape == (80, 3000)
    np.testing.assert_allclose(features, whisper(waveform), atol=1e-4)


@pytest.mark.parametrize("seconds", [0.5, 1.234, 7.0])
def test_whisper_without_padding(seconds, noise):
    waveform = noise(seconds)
    np.testing.assert_allclose(run(recipes()[1], waveform)[0], whisper(waveform), atol=1e-4)


@pytest.mark.realdata
def test_whisper_on_real_clips(esc10):
    for path in sorted((esc10 / "audio").glob("*.ogg"))[::80]:
        clip, rate = soundfile.read(path, dtype="float32")
        clip = soxr.resample(clip, rate, 16000).astype(np.float32)
        np.testing.assert_allclose(run(recipes()[1], clip)[0], whisper(clip), atol=1e-4)


def test_mel_decibels_between_zero_and_one(noise):
    features = run(recipes()[2], noise(10, 22050), 22050)[0]
    assert features.shape == (64, 1723)
    assert (features.min(), features.max()) == (0.0, 1.0)


@pytest.mark.filterwarnings("ignore:frontend")
@pytest.mark.parametrize("level", [0.0, 0.25])
def test_a_constant_clip_gives_no_nan(level):
    for config in recipes():
        assert np.isfinite(run(config, np.full(22050, level, np.float32), 22050)).all()


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
def test_levels_equal_those_of_torch_stft(pad_mode, noise):
    waveform = noise(1)
    config = LogMel(n_fft=512, win_length=400, pad_mode=pad_mode, normalize="none")
    module = config.build(16000, None)
    stft = torch.stft(
        torch.from_numpy(waveform),
        512,
        160,
        400,
        window=torch.hann_window(400),
        pad_mode=pad_mode,
        return_complex=True,
    )
    theirs = (module.energy.filters @ stft.abs().square()).clamp(min=1e-10).log()
    np.testing.assert_allclose(run(config, waveform)[0], theirs, atol=1e-4)


BASE = {"normalize": "none"}
CHANGES = [
    {"n_mels": 32},
    {"n_fft": 1024},
    {"win_length": 200},
    {"hop_length": 80},
    {"fmin": 300},
    {"fmax": 4000},
    {"scale": "htk"},
    {"filter_norm": "none"},
    {"triangles": "mel"},
    {"power": 1},
    {"log": "log10"},
    {"log": "db"},
    {"floor": 1.0},
    {"floor": 1e-3, "floor_mode": "add"},
    {"dynamic_range": 1.0},
    {"window": "hamming"},
    {"periodic": False},
    {"center": False},
    {"pad_mode": "constant"},
    {"drop_last": True},
    {"input_scale": 2.0},
    {"normalize": "clip"},
]


@pytest.mark.filterwarnings("ignore:frontend")
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_option_changes_the_features(change, noise):
    before = run(LogMel.model_validate(BASE), noise())
    after = run(LogMel.model_validate({**BASE, **change}), noise())
    assert before.shape != after.shape or np.abs(before - after).max() > 1e-4


def test_every_option_is_among_them():
    assert {key for change in CHANGES for key in change} | {"kind"} == set(LogMel.model_fields)


def test_units_of_levels(noise):
    base = {"n_mels": 20, "normalize": "none"}
    ln = run(LogMel(**base), noise())
    np.testing.assert_allclose(
        run(LogMel(log="log10", **base), noise()), ln / np.log(10), rtol=1e-4
    )
    decibels = run(LogMel(log="db", **base), noise())
    np.testing.assert_allclose(decibels, 10 * ln / np.log(10), rtol=1e-4)
    louder = run(LogMel(log="db", power=1, input_scale=10, **base), noise())
    np.testing.assert_allclose(
        louder - run(LogMel(log="db", power=1, **base), noise()), 20, atol=1e-3
    )


def test_the_dynamic_range_counts_true_frames_only(tone):
    module = LogMel(dynamic_range=2.0, normalize="none").build(16000, None)
    loud = torch.zeros(1, 16000)
    loud[0, :4000] = torch.from_numpy(tone(0.25))
    loud[0, 8000:] = 100.0  # what lies beyond the clip's length must not count
    features, lengths = module(loud, torch.tensor([4000]))
    alone, _ = module(loud[:, :4000], torch.tensor([4000]))
    assert torch.equal(features[..., : int(lengths)], alone)
    assert float(alone.max() - alone.min()) == pytest.approx(2.0, abs=1e-4)


def test_max_frames_are_those_of_the_longest_clip():
    spec = recipes()[0].build(8000, 40000).spec
    assert (spec.kind, spec.dim, spec.rate, spec.max_frames) == ("spectrogram", 128, 100.0, 498)
    assert LogMel().build(16000, None).spec.max_frames is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"win_length": 600}, "win_length 600 is more than n_fft 512"),
        ({"center": False, "drop_last": True}, "drop_last goes with center"),
        ({"floor": 0}, "greater than 0"),
        ({"n_mel": 3}, "did you mean 'n_mels'"),
    ],
)
def test_settings_that_cannot_work(wrong, says):
    with pytest.raises(ValidationError, match=says):
        LogMel.model_validate(wrong)


@pytest.mark.parametrize("options", [{"fmax": 9000}, {"fmin": 5000, "fmax": 4000}])
def test_edges_outside_the_band(options):
    with pytest.raises(ConfigError, match="half the sample rate"):
        LogMel(**options).build(16000, None)


def test_silent_filters_are_reported():
    with pytest.warns(UserWarning, match="128 mel filters lie between two bins"):
        LogMel(n_mels=128, scale="htk").build(16000, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogMel().build(16000, None)
