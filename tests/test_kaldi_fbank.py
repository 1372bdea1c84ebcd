"""`kaldi_fbank` beside kaldi-native-fbank and transformers' AST; every option at work."""

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
import soxr
import torch
import yaml
from pydantic import ValidationError

from harken.errors import ConfigError
from harken.frontends import KaldiFbank


def run(config, waveform, sample_rate=16000):
    lengths = torch.tensor([len(waveform)])
    features, _ = config.build(sample_rate, None)(torch.from_numpy(waveform)[None], lengths)
    return features[0].numpy()


def kaldi(waveform, sample_rate=16000, **settings):
    """Features of the C++ library, `(bins, frames)`."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.samp_freq = sample_rate
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 128
    for name, value in settings.items():
        part = options.frame_opts if hasattr(options.frame_opts, name) else options.mel_opts
        setattr(part, name, value)
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(sample_rate, waveform.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)], axis=1)


PAIRS = [
    ({}, {}),
    ({"window": "povey"}, {"window_type": "povey"}),
    ({"window": "hamming"}, {"window_type": "hamming"}),
    ({"window": "blackman"}, {"window_type": "blackman"}),
    ({"window": "rectangular"}, {"window_type": "rectangular"}),
    ({"snip_edges": False}, {"snip_edges": False}),
    ({"snip_edges": False, "window": "hamming"}, {"snip_edges": False, "window_type": "hamming"}),
    ({"preemphasis": 0}, {"preemph_coeff": 0}),
    ({"preemphasis": 0.5, "window": "hamming"}, {"preemph_coeff": 0.5, "window_type": "hamming"}),
    ({"remove_dc_offset": False}, {"remove_dc_offset": False}),
    ({"n_mels": 23}, {"num_bins": 23}),
    ({"fmin": 100, "fmax": 6000}, {"low_freq": 100, "high_freq": 6000}),
    ({"frame_length_ms": 32, "frame_shift_ms": 8}, {"frame_length_ms": 32, "frame_shift_ms": 8}),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda pair: str(pair))
def test_parity_with_kaldi(ours, theirs, noise, tone):
    for waveform in (0.05 + noise(1), tone(1) + 0.01 * noise(1)):
        expected = kaldi(waveform, **theirs)
        features = run(KaldiFbank(normalize="none", **ours), waveform)
        assert features.shape == expected.shape
        assert np.abs(features - expected).mean() < 5e-5


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_parity_at_other_sample_rates(rate, noise):
    expected = kaldi(noise(1, rate), rate, num_bins=64)
    features = run(KaldiFbank(n_mels=64, normalize="none"), noise(1, rate), rate)
    assert features.shape == expected.shape
    assert np.abs(features - expected).mean() < 5e-5


def test_parity_on_sixteen_bit_levels(noise):
    features = run(KaldiFbank(input_scale=32768, normalize="none"), noise(1))
    expected = kaldi((32768 * noise(1)).astype(np.float32))
    assert np.abs(features - expected).mean() < 5e-5


@pytest.mark.realdata
def test_parity_on_real_clips(esc10):
    differences = []
    for path in sorted((esc10 / "audio").glob("*.ogg"))[::40]:
        clip, rate = soundfile.read(path, dtype="float32")
        clip = soxr.resample(clip, rate, 16000).astype(np.float32)
        for snip in (True, False):
            features = run(KaldiFbank(snip_edges=snip, normalize="none"), clip)
            differences.append(np.abs(features - kaldi(clip, snip_edges=snip)))
    assert np.mean([difference.mean() for difference in differences]) < 1e-5
    assert max(difference.mean() for difference in differences) < 1e-4
    assert max(difference.max() for difference in differences) < 5e-3


@pytest.mark.parametrize("seconds", [3.0, 10.2])
def test_parity_with_the_feature_extractor_of_ast(seconds, noise):
    from transformers import ASTFeatureExtractor

    text = next(b for b in KaldiFbank.__doc__.split("\n\n") if b.strip().startswith("{kind"))
    features = run(KaldiFbank.model_validate(yaml.safe_load(text)), noise(seconds))
    theirs = ASTFeatureExtractor()(noise(seconds), sampling_rate=16000)["input_values"][0].T
    frames = min(features.shape[1], 1024)  # theirs are padded or cut to 1024 frames
    assert np.abs(features[:, :frames] - theirs[:, :frames]).mean() < 1e-4


CHANGES = [
    {"n_mels": 64},
    {"frame_length_ms": 20},
    {"frame_shift_ms": 5},
    {"fmin": 100},
    {"fmax": 4000},
    {"window": "povey"},
    {"preemphasis": 0.9},
    {"remove_dc_offset": False},
    {"snip_edges": False},
    {"input_scale": 2},
    {"normalize": "clip"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_option_changes_the_features(change, noise):
    base = {"normalize": "none"}
    waveform = 0.1 + noise()
    before = run(KaldiFbank.model_validate(base), waveform)
    after = run(KaldiFbank.model_validate({**base, **change}), waveform)
    assert before.shape != after.shape or np.abs(before - after).max() > 1e-4


def test_every_option_is_among_them():
    assert {key for change in CHANGES for key in change} | {"kind"} == set(KaldiFbank.model_fields)


def test_silence_lies_on_kaldis_floor():
    features = run(KaldiFbank(normalize="none"), np.zeros(1600, np.float32))
    np.testing.assert_allclose(features, np.log(2.0**-23), rtol=1e-6)


def test_times_that_cannot_work():
    with pytest.raises(ValidationError, match="must not exceed"):
        KaldiFbank(frame_shift_ms=30)
    with pytest.raises(ConfigError, match="milliseconds"):
        KaldiFbank(frame_length_ms=0.025, frame_shift_ms=0.01).build(16000, None)
    with pytest.raises(ConfigError, match="half the sample rate"):
        KaldiFbank(fmax=8000).build(8000, None)
