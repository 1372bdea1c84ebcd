"""Mel scales and filter banks beside their definitions and transformers' independent ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.frontends.mel import hz_to_mel, mel_filters, mel_to_hz, num_empty

SCALES = ["slaney", "htk", "kaldi"]


@pytest.mark.parametrize("scale", SCALES)
@settings(deadline=None)
@given(hertz=st.floats(0, 24000))
def test_mel_to_hz_inverts_hz_to_mel(scale, hertz):
    assert mel_to_hz(hz_to_mel(hertz, scale), scale) == pytest.approx(hertz, abs=1e-6)


def test_known_values_of_the_scales():
    assert hz_to_mel(1000.0, "htk") == pytest.approx(999.9855)
    assert hz_to_mel(1000.0, "slaney") == pytest.approx(15.0)
    assert hz_to_mel(6400.0, "slaney") == pytest.approx(42.0)
    assert hz_to_mel(700.0, "kaldi") == pytest.approx(1127 * np.log(2))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("norm", "triangles"), [("slaney", "hz"), ("none", "hz"), ("none", "mel")])
@pytest.mark.parametrize(
    ("n_mels", "n_fft", "rate", "fmin", "fmax"),
    [(64, 1024, 22050, 0, 11025), (40, 512, 16000, 80, 7600)],
)
def test_filters_equal_transformers(scale, norm, triangles, n_mels, n_fft, rate, fmin, fmax):
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(
        n_fft // 2 + 1,
        n_mels,
        fmin,
        fmax,
        rate,
        norm=None if norm == "none" else norm,
        mel_scale=scale,
        triangularize_in_mel_space=triangles == "mel",
    ).T
    ours = mel_filters(n_mels, n_fft, rate, fmin, fmax, scale=scale, norm=norm, triangles=triangles)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6 * theirs.max())


def test_slaney_norm_gives_every_filter_the_same_area():
    filters = mel_filters(40, 16384, 16000, 0, 8000, scale="slaney", norm="slaney")
    areas = filters.double().sum(dim=1) * 16000 / 16384
    np.testing.assert_allclose(areas, 1.0, rtol=0.01)


def test_filters_see_neither_direct_current_nor_anything_outside_their_edges():
    filters = mel_filters(20, 512, 16000, 100, 4000, scale="htk")
    hertz = np.arange(257) * 16000 / 512
    assert filters[:, (hertz <= 100) | (hertz >= 4000)].abs().max() == 0
    assert mel_filters(20, 512, 16000, 0, 8000, scale="htk")[:, 0].abs().max() == 0


def test_the_bank_of_the_minimal_transformer_has_no_empty_filter():
    filters = mel_filters(128, 512, 8000, 0, 4000, scale="htk", triangles="mel")
    assert filters.shape == (128, 257)
    assert num_empty(filters) == 0


def test_empty_filters_are_counted():
    assert num_empty(mel_filters(224, 400, 16000, 0, 8000, scale="htk")) > 20
