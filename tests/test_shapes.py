from __future__ import annotations

import pytest
import torch

from harken.backbones.shapes import fixed_frames, is_full, pad_frames, require_spectrogram
from harken.errors import ConfigError, DataError
from harken.frontends.frontend import FeatureSpec

SPEC = FeatureSpec("spectrogram", 64, 100.0, 500)


@pytest.mark.parametrize("kind", ["waveform", "tokens"])
def test_features_that_are_no_spectrogram_are_refused(kind: str) -> None:
    require_spectrogram(SPEC, "ast")
    with pytest.raises(ConfigError) as caught:
        require_spectrogram(FeatureSpec(kind, 1, 16000.0, None), "ast")
    assert str(caught.value).startswith(f"backbone.kind: ast cannot read {kind} features")
    assert "frontend.kind=log_mel" in str(caught.value)


def test_clips_of_no_fixed_length_are_refused_naming_the_option() -> None:
    assert fixed_frames(SPEC, "mlp") == 500
    with pytest.raises(ConfigError, match=r"audio\.clip_seconds"):
        fixed_frames(FeatureSpec("spectrogram", 64, 100.0, None), "mlp")


def test_padding_adds_zeros_at_the_end_and_refuses_longer_clips() -> None:
    features = torch.randn(2, 3, 5)
    padded = pad_frames(features, 8)
    assert torch.equal(padded[..., :5], features)
    assert padded.shape == (2, 3, 8)
    assert not padded[..., 5:].any()
    assert pad_frames(features, 5) is features
    with pytest.raises(DataError, match="a clip has 5 frames and the network was built for 4"):
        pad_frames(features, 4)


def test_a_batch_is_full_if_no_clip_is_padded() -> None:
    assert is_full(torch.tensor([5, 5]), 5)
    assert not is_full(torch.tensor([5, 4]), 5)
