"""Logarithms of energies, autocast and gradients."""

import numpy as np
import pytest
import torch

from harken.frontends import KaldiFbank, LogMel
from harken.frontends.mel_frontend import Logarithm

LENGTHS = torch.tensor([4, 2])


def energies():
    return torch.from_numpy(np.random.default_rng(0).uniform(0, 2, (2, 3, 4)).astype(np.float32))


@pytest.mark.parametrize("unit", ["ln", "log10", "db"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("mode", ["clamp", "add"])
@pytest.mark.parametrize("dynamic_range", [None, 0.2])
def test_levels_equal_numpy(unit, power, mode, dynamic_range):
    logarithm = Logarithm(unit, power, 0.5, mode, dynamic_range)
    raised = energies().numpy() + 0.5 if mode == "add" else np.maximum(energies().numpy(), 0.5)
    factor = {"ln": 1 / np.log10(np.e), "log10": 1, "db": 20 if power == 1 else 10}[unit]
    expected = np.log10(raised) * factor
    for clip, length in zip(expected, LENGTHS.tolist(), strict=True):
        if dynamic_range is not None:
            clip[:] = np.maximum(clip, clip[:, :length].max() - dynamic_range)
        clip[:, length:] = 0
    tracked = energies().requires_grad_()
    levels = logarithm(tracked, LENGTHS)
    np.testing.assert_allclose(levels.detach(), expected, atol=1e-6)
    overwritten = energies()
    assert logarithm(overwritten, LENGTHS, in_place=True) is overwritten
    np.testing.assert_allclose(overwritten, expected, atol=1e-6)
    levels.sum().backward()
    assert torch.isfinite(tracked.grad).all()
    assert torch.equal(tracked.detach(), energies())


@pytest.mark.parametrize("config", [LogMel(), KaldiFbank()])
def test_autocast_does_not_touch_the_features(config, noise):
    module = config.build(16000, None)
    waveform, lengths = torch.from_numpy(noise())[None], torch.tensor([8000])
    expected, _ = module(waveform, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        fast, _ = module(waveform, lengths)
        plain, _ = module(waveform.clone().requires_grad_(), lengths)
    assert torch.equal(fast, expected)
    torch.testing.assert_close(plain.detach(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [LogMel(), KaldiFbank(), LogMel(power=1, normalize="minmax")])
def test_the_waveform_gets_a_gradient(config, noise):
    waveform = torch.from_numpy(noise(0.1))[None].requires_grad_()
    features, _ = config.build(16000, None)(waveform, torch.tensor([1600]))
    features.square().sum().backward()
    assert torch.isfinite(waveform.grad).all()
    assert (waveform.grad != 0).float().mean() > 0.9


def test_the_waveform_is_left_as_it_was(noise):
    waveform = torch.from_numpy(noise())[None]
    LogMel().build(16000, None)(waveform, torch.tensor([8000]))
    KaldiFbank().build(16000, None)(waveform, torch.tensor([8000]))
    assert np.array_equal(waveform[0], noise())
