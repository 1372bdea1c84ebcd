"""`waveform`: samples, standardised as wav2vec 2.0 was trained with."""

import torch

from harken.frontends import Waveform


def test_standardised_as_in_transformers(noise):
    from transformers import Wav2Vec2FeatureExtractor

    clips = [0.2 + noise(0.5), 3 * noise(0.25, seed=1)]
    theirs = Wav2Vec2FeatureExtractor(return_attention_mask=True)(
        clips, sampling_rate=16000, padding=True, return_tensors="pt"
    )["input_values"]
    batch = torch.zeros(2, 8000)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    features, lengths = Waveform().build(16000, None)(batch, torch.tensor([8000, 4000]))
    torch.testing.assert_close(features, theirs, atol=1e-4, rtol=1e-4)
    assert lengths.tolist() == [8000, 4000]


def test_none_leaves_samples_alone(noise):
    waveform = torch.from_numpy(noise())[None]
    features, _ = Waveform(normalize="none").build(16000, None)(waveform, torch.tensor([8000]))
    assert torch.equal(features, waveform)


def test_zero_beyond_each_length_and_finite_in_silence():
    for normalize in ("none", "clip"):
        module = Waveform(normalize=normalize).build(16000, None)
        features, _ = module(torch.ones(2, 100), torch.tensor([100, 40]))
        assert features[1, 40:].abs().max() == 0
        silence, _ = module(torch.zeros(1, 100), torch.tensor([100]))
        assert not silence.any()


def test_what_it_says_about_itself():
    spec = Waveform().build(16000, 48000).spec
    assert (spec.kind, spec.dim, spec.rate, spec.max_frames) == ("waveform", 1, 16000.0, 48000)
