"""Filtering and convolution in the frequency domain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.augment.fourier import convolved, fast_length, filtered, frequencies


@given(st.integers(0, 300_000))
def test_fast_lengths_are_the_next_products_of_small_primes(samples):
    from scipy.fft import next_fast_len

    size = fast_length(samples)
    rest = size
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
    assert size >= samples
    if samples:
        assert size == next_fast_len(samples, real=True)


@settings(deadline=None, max_examples=50)
@given(samples=st.integers(1, 300), taps=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_convolution_equals_the_sum_by_hand(samples, taps, seed):
    rng = np.random.default_rng(seed)
    waveform = rng.standard_normal(samples).astype(np.float32)
    response = rng.standard_normal(taps).astype(np.float32)
    start = int(rng.integers(taps))
    whole = np.convolve(waveform, response)
    expected = whole[start : start + samples]
    found = convolved(waveform, response, start)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_filters_move_nothing_and_do_not_wrap_around():
    waveform = np.zeros(1000, np.float32)
    waveform[995] = 1
    smooth = filtered(waveform, 1000, lambda pitch: np.exp(-((pitch / 50) ** 2)), 200)
    assert smooth.dtype == np.float32
    assert int(np.argmax(smooth)) == 995
    assert np.abs(smooth[:900]).max() < 1e-5


def test_a_response_of_one_changes_nothing():
    waveform = np.random.default_rng(0).standard_normal(777).astype(np.float32)
    found = filtered(waveform, 16000, np.ones_like, 100)
    np.testing.assert_allclose(found, waveform, atol=1e-6)


def test_nothing_gives_nothing():
    empty = np.zeros(0, np.float32)
    assert len(filtered(empty, 16000, np.ones_like, 10)) == 0
    assert len(convolved(empty, np.ones(3, np.float32), 0)) == 0


def test_frequencies_cannot_be_spoilt():
    made = frequencies(16000, 16000)
    assert made[440] == 440
    with pytest.raises(ValueError, match="read-only"):
        made[0] = 1
