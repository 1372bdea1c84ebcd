"""The front-ends of imported models hear padding, and are the old ones otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from conftest import make_noise, make_tone
from harken.frontends.legacy import LegacyFbank, LegacyWaveform
from harken.recipe import dump_recipe, validate
from legacy_models import old_fbank, old_input


def clip(seconds: float) -> Any:
    return (make_tone(seconds) + make_noise(seconds) + 0.1).astype(np.float32)


def batch(*seconds: float, size: int = 16000) -> tuple[Tensor, Tensor, list[Any]]:
    waves = [clip(each)[:size] for each in seconds]
    padded = torch.zeros(len(waves), size)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    return padded, torch.tensor([len(wave) for wave in waves]), waves


@pytest.mark.parametrize("frames", [50, 98, 128])
def test_fbank_equals_the_old_one(frames: int) -> None:
    waveform, lengths, waves = batch(1.0, 0.4, 0.7)
    front = LegacyFbank(n_mels=64, frames=frames, mean=-4.2, std=4.5).build(16000, 16000)
    features, counts = front(waveform, lengths)
    assert front.spec.max_frames == frames
    assert counts.tolist() == [frames] * 3
    for mine, wave in zip(features, waves, strict=True):
        theirs = old_fbank(wave, 16000, 16000, frames, 64, -4.2, 4.5)
        torch.testing.assert_close(mine.T, theirs, atol=2e-4, rtol=1e-4)


def test_waveform_equals_the_old_one() -> None:
    waveform, lengths, waves = batch(1.0, 0.4)
    found, counts = LegacyWaveform().build(16000, 16000)(waveform, lengths)
    assert counts.tolist() == [16000, 16000]
    for mine, wave in zip(found, waves, strict=True):
        torch.testing.assert_close(mine, old_input(wave, 16000), atol=1e-5, rtol=1e-4)
    plain, _ = LegacyWaveform(normalize="none").build(16000, 16000)(waveform, lengths)
    torch.testing.assert_close(plain[1, :6400], torch.from_numpy(waves[1] - waves[1].mean()))
    assert not plain[1, 6400:].any()


@pytest.mark.parametrize("front", [LegacyWaveform(), LegacyFbank(frames=60, std=2.0, n_mels=20)])
def test_a_clip_is_the_same_alone_and_in_a_batch(front: Any) -> None:
    module = front.build(16000, 16000)
    waveform, lengths, _ = batch(1.0, 0.4)
    together, _ = module(waveform, lengths)
    alone, _ = module(waveform[1:, :6400], lengths[1:])
    torch.testing.assert_close(alone[0], together[1])


def test_clips_of_their_own_lengths_keep_them() -> None:
    waveform, lengths, _ = batch(1.0, 0.4)
    found, counts = LegacyWaveform().build(16000, None)(waveform, lengths)
    assert counts.tolist() == [16000, 6400]
    assert float(found[1, :6400].std(correction=0)) == pytest.approx(1.0, abs=1e-3)


def test_recipes_name_the_plug_in() -> None:
    tree = {
        "data": {"source": {"kind": "folder", "path": "."}},
        "plugins": ["harken.frontends.legacy"],
        "frontend": {"kind": "legacy_fbank", "std": 2.0},
    }
    recipe = validate(tree)
    assert validate(yaml.safe_load(dump_recipe(recipe))) == recipe
    with pytest.raises(ValidationError):
        LegacyFbank(std=0.0)
