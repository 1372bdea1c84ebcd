"""Encoders of waveforms: padding, norms over time, receptive fields, SEW's two rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from harken.backbones import SpeechBackbone
from harken.backbones.wave_encoders import norm_over_time, receptive_field
from harken.errors import ConfigError
from harken.frontends import BadClipsError, FeatureSpec
from test_encoders import backbone, features, module, noises, theirs
from tiny_checkpoints import tiny_checkpoint


@torch.no_grad()
@pytest.mark.parametrize("family", ["wav2vec2-large", "hubert-large", "wavlm-large"])
def test_padded_batches_of_layer_norm_encoders_equal_transformers_with_its_mask(
    family: str,
) -> None:
    x, lengths = features(family, 0.8, 0.45)
    mask = (torch.arange(x.shape[1]) < lengths[:, None]).long()
    wanted = theirs(family)(x, attention_mask=mask).last_hidden_state
    hidden = module(family)(x, lengths)
    torch.testing.assert_close(hidden.states[hidden.mask], wanted[hidden.mask], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_group_norm_encoders_ignore_the_padding_that_transformers_lets_in(family: str) -> None:
    x, lengths = features(family, 0.8, 0.45)
    alone = theirs(family)(x[1:, : int(lengths[1])]).last_hidden_state[0]
    padded = theirs(family)(x).last_hidden_state[1, : len(alone)]
    assert (padded - alone).abs().max() > 0.01
    mine = module(family)(x, lengths)
    torch.testing.assert_close(mine.states[1][mine.mask[1]], alone, atol=1e-5, rtol=0)


def test_a_norm_over_time_sees_each_clips_own_frames() -> None:
    norm, x = nn.GroupNorm(3, 3), torch.randn(2, 3, 10)
    nn.init.normal_(norm.weight)
    out = norm_over_time(norm, x, torch.tensor([10, 4]))
    torch.testing.assert_close(out[0], norm(x[:1])[0])
    torch.testing.assert_close(out[1, :, :4], norm(x[1:, :, :4])[0])
    assert (out[1, :, 4:] == 0).all()


@torch.no_grad()
def test_hubert_with_a_batch_norm_of_positions(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "hubert", conv_pos_batch_norm=True)
    built = SpeechBackbone(checkpoint=str(folder)).build(FeatureSpec("waveform", 1, 16000.0, None))
    x, lengths = noises(0.6, 0.4)
    built.encoder.network.encoder.pos_conv_embed.batch_norm.running_mean.fill_(0.3)
    together, alone = built.eval()(x, lengths), built(x[1:, : int(lengths[1])], lengths[1:])
    mine = together.states[1][together.mask[1]]
    torch.testing.assert_close(mine, alone.states[0], atol=1e-5, rtol=0)
    assert built.train()(x, lengths).states.isfinite().all()


def test_a_clip_of_one_state_is_the_shortest() -> None:
    built = module("wav2vec2")
    least = receptive_field(built.encoder.config)
    assert least == 400
    wave = torch.randn(2, 500)
    assert built(wave[:, :least], torch.tensor([400, 400])).states.shape[1] == 1
    with pytest.raises(BadClipsError, match=r"0\.0249 s are shorter than the 0\.025 s") as error:
        built(wave, torch.tensor([500, 399]))
    assert "in training audio.min_seconds=0.025 finds them" in str(error.value.fix)
    assert error.value.positions == [1]
    assert str(error.value.named(["a.wav", "b.wav"])).startswith("backbone: b.wav: 0.0249 s are")


def test_clips_of_a_fixed_length_below_the_receptive_field_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="sees 400 samples at a time and clips have 399") as error:
        backbone("wav2vec2").build(FeatureSpec("waveform", 1, 16000.0, 399))
    assert error.value.where == "audio.clip_seconds"
    assert backbone("wav2vec2").build(FeatureSpec("waveform", 1, 16000.0, 400)).dim == 32


@torch.no_grad()
@pytest.mark.parametrize("family", ["sew", "sew-d"])
def test_sew_drops_the_frame_that_fills_no_squeezed_one(family: str) -> None:
    built, (x, lengths) = module(family), noises(0.7)
    config = built.encoder.config
    assert receptive_field(config) == sew_samples(2)
    for frames in (33, 34):
        size = sew_samples(frames)
        theirs_too = theirs(family)(x[:, :size]).last_hidden_state
        assert theirs_too.shape[1] == frames
        assert bool((theirs_too[:, -1] == 0).all()) == bool(frames % 2)
        hidden = built(x[:, :size], torch.tensor([size]))
        assert hidden.states.shape[1] == frames // 2 * 2
        assert module(family, layer=1)(x[:, :size], lengths * 0 + size).states.shape[1] == 16 + (
            frames == 34
        )


def sew_samples(frames: int) -> int:
    for kernel, stride in ((2, 2), (2, 2), (3, 4), (3, 4), (10, 5)):
        frames = (frames - 1) * stride + kernel
    return frames
