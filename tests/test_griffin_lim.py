from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import make_noise, make_tone
from harken.frontends import Frontend, KaldiFbank, LogMel
from harken.frontends.griffin_lim import resynthesise, unnormalise
from harken.frontends.mel_frontend import MelFrontend

FRONTENDS = [
    LogMel(),
    LogMel(center=False, log="db", floor=1e-8),
    LogMel(power=1, log="log10", n_fft=400, floor_mode="add", normalize="minmax"),
    LogMel(input_scale=32767, n_mels=128, drop_last=True),
    KaldiFbank(n_mels=64),
]


def built(config: Frontend) -> MelFrontend:
    module = config.build(16000, None)
    assert isinstance(module, MelFrontend)
    return module


@pytest.mark.parametrize("config", FRONTENDS, ids=str)
def test_a_tone_keeps_its_pitch_its_level_and_its_spectrogram(config: Frontend) -> None:
    tone = torch.from_numpy(make_tone(0.5, frequency=440.0) + 0.1 * make_noise(0.5))
    frontend, lengths = built(config), torch.tensor([8000])
    levels = frontend.levels(tone[None], lengths)[0][0]
    heard = resynthesise(frontend, levels, 8000)
    assert heard.shape == (8000,)
    spectrum = torch.fft.rfft(heard * torch.hann_window(8000)).abs()
    assert abs(2 * int(spectrum.argmax()) - 440) <= 8
    assert float(heard.std()) == pytest.approx(float(tone.std()), rel=0.1)
    again = frontend.levels(heard[None], lengths)[0][0]
    assert np.corrcoef(levels.flatten(), again.flatten())[0, 1] > 0.95


@pytest.mark.parametrize("config", FRONTENDS[:3], ids=str)
def test_normalisation_is_undone(config: Frontend) -> None:
    noise, lengths = torch.from_numpy(make_noise(0.3))[None], torch.tensor([4800])
    frontend = built(config)
    levels, features = frontend.levels(noise, lengths)[0][0], frontend(noise, lengths)[0][0]
    torch.testing.assert_close(unnormalise(levels, features, features), levels, atol=1e-4, rtol=0)
    flat = torch.zeros_like(levels)
    assert torch.equal(unnormalise(flat, flat, flat), flat)


def test_more_turns_fit_better_and_the_seed_decides() -> None:
    tone = torch.from_numpy(make_tone(0.3) + make_tone(0.3, frequency=1234.0))
    frontend, lengths = built(LogMel()), torch.tensor([4800])
    levels = frontend.levels(tone[None], lengths)[0][0]
    gaps = []
    for turns in (1, 60):
        heard = resynthesise(frontend, levels, 4800, turns=turns)
        gaps.append(float((frontend.levels(heard[None], lengths)[0][0] - levels).abs().mean()))
    assert gaps[1] < 0.7 * gaps[0]
    assert torch.equal(heard, resynthesise(frontend, levels, 4800))
    assert not torch.equal(heard, resynthesise(frontend, levels, 4800, seed=1))
