"""Every family gives what `transformers` gives, and each clip the same in any batch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from harken.backbones import SpeechBackbone
from harken.backbones.speech import SpeechModule
from harken.errors import ConfigError
from harken.frontends import FeatureSpec
from tiny_checkpoints import FAMILIES, shared_checkpoint

EVERY = sorted(FAMILIES)


def backbone(family: str, **options: Any) -> SpeechBackbone:
    return SpeechBackbone(checkpoint=str(shared_checkpoint(family)), **options)


@cache
def frontend(family: str) -> Any:
    return backbone(family).default_frontend().build(16000, None)


def module(family: str, **options: Any) -> SpeechModule:
    built = backbone(family, **options).build(frontend(family).spec)
    assert isinstance(built, SpeechModule)
    return built.eval()


@cache
def theirs(family: str, attention: str | None = None) -> Any:
    import transformers

    from harken.backbones.pretrained import quiet

    with quiet():
        model = transformers.AutoModel.from_pretrained(
            shared_checkpoint(family), attn_implementation=attention
        )
    return (model.encoder if family == "whisper" else model).eval()


def noises(*seconds: float) -> tuple[Tensor, Tensor]:
    """Clips of noise, zero-padded to the longest."""
    draw = torch.Generator().manual_seed(7)
    lengths = torch.tensor([round(16000 * s) for s in seconds])
    waves = 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=draw)
    return waves.masked_fill(torch.arange(waves.shape[1]) >= lengths[:, None], 0.0), lengths


def features(family: str, *seconds: float) -> tuple[Tensor, Tensor]:
    made: tuple[Tensor, Tensor] = frontend(family)(*noises(*seconds))
    return made


def whole_clip(family: str) -> tuple[Tensor, Tensor]:
    """One clip of the length that the library insists on, where it does."""
    exact = {"whisper": 2.0, "audio-spectrogram-transformer": 1.295}
    return features(family, exact.get(family, 0.7))


@cache
def their_output(family: str) -> Any:
    model = theirs(family)
    x, _ = whole_clip(family)
    if family in ("audio-spectrogram-transformer", "wav2vec2-bert"):
        x = x.transpose(1, 2)
    with torch.no_grad():
        return model(x, output_hidden_states=True)


def in_our_order(family: str, states: Tensor) -> Tensor:
    return states[:, 2:] if family == "audio-spectrogram-transformer" else states


@torch.no_grad()
@pytest.mark.parametrize("family", EVERY)
def test_the_output_equals_transformers(family: str) -> None:
    hidden = module(family)(*whole_clip(family))
    wanted = in_our_order(family, their_output(family).last_hidden_state)
    assert hidden.mask.all()
    torch.testing.assert_close(
        hidden.states, wanted[:, : hidden.states.shape[1]], atol=1e-5, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("family", EVERY)
def test_every_layer_equals_transformers_and_leaves_out_what_is_above(family: str) -> None:
    for layer in (0, 1, 2):
        built = module(family, layer=layer)
        wanted = in_our_order(family, their_output(family).hidden_states[layer])
        states = built(*whole_clip(family)).states
        torch.testing.assert_close(states, wanted, atol=1e-5, rtol=0)
        assert len(built.encoder.blocks) == layer


@torch.no_grad()
@pytest.mark.parametrize("family", EVERY)
def test_a_clip_is_the_same_alone_and_padded(family: str) -> None:
    built = module(family)
    sizes = (1.03, 0.41, 0.777)
    waves, lengths = noises(*sizes)
    together = built(*frontend(family)(waves, lengths))
    for row, size in enumerate(lengths.tolist()):
        alone = built(*frontend(family)(waves[row : row + 1, :size], lengths[row : row + 1]))
        mine = together.states[row][together.mask[row]]
        torch.testing.assert_close(mine, alone.states[0][alone.mask[0]], atol=1e-5, rtol=1e-5)
        if together.cls is not None and alone.cls is not None:
            torch.testing.assert_close(together.cls[row], alone.cls[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_every_trained_parameter_gets_a_gradient(family: str) -> None:
    for layer in (1, -1):
        built = module(family, layer=layer)
        hidden = built(*features(family, 0.6, 0.5))
        loss = hidden.states[hidden.mask].square().sum()
        (loss if hidden.cls is None else loss + hidden.cls.square().sum()).backward()
        # Hidden frames are drawn in training only, and this is evaluation.
        lacking = [n for n, p in built.named_parameters() if p.requires_grad and p.grad is None]
        assert [n for n in lacking if not n.endswith("masked_spec_embed")] == []


@torch.no_grad()
@pytest.mark.parametrize("family", EVERY)
def test_attention_maps_are_the_librarys_and_ignore_padding(family: str) -> None:
    built = module(family)
    maps = built.attentions(*whole_clip(family))
    assert len(maps) == 2
    assert maps[0].shape[1] == 4
    for found in maps:
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))
    if not family.startswith(("wavlm", "audio")):
        x, _ = whole_clip(family)
        x = x.transpose(1, 2) if family == "wav2vec2-bert" else x
        wanted = theirs(family, None if family == "sew-d" else "eager")(x, output_attentions=True)
        for mine, other in zip(maps, wanted.attentions, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)
    batch = features(family, 0.9, 0.45)
    before = built(*batch).states
    shorter = built.attentions(*batch)[1][1]
    unseen = (shorter == 0).all(dim=(0, 1))
    assert unseen[-1]
    assert not unseen[0]
    assert torch.equal(before, built(*batch).states)


@torch.no_grad()
def test_wavlms_maps_have_the_librarys_mean_over_heads() -> None:
    x, lengths = whole_clip("wavlm")
    for mine, other in zip(
        module("wavlm").attentions(x, lengths),
        theirs("wavlm")(x, output_attentions=True).attentions,
        strict=True,
    ):
        torch.testing.assert_close(mine.mean(1), other[:, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("family", "spec", "where"),
    [
        ("wav2vec2", FeatureSpec("spectrogram", 64, 100.0, None), "frontend.kind"),
        ("wav2vec2", FeatureSpec("waveform", 1, 8000.0, None), "audio.sample_rate"),
        ("whisper", FeatureSpec("waveform", 1, 16000.0, None), "frontend.kind"),
        ("whisper", FeatureSpec("spectrogram", 64, 100.0, None), "frontend.n_mels"),
        ("whisper", FeatureSpec("spectrogram", 80, 50.0, None), "audio.sample_rate"),
        ("wav2vec2-bert", FeatureSpec("spectrogram", 160, 100.0, None), "audio.sample_rate"),
        ("audio-spectrogram-transformer", FeatureSpec("tokens", 9, 9.0, None), "frontend.kind"),
    ],
)
def test_features_that_it_was_not_made_for_are_refused(
    family: str, spec: FeatureSpec, where: str
) -> None:
    with pytest.raises(ConfigError) as error:
        backbone(family).build(spec)
    assert error.value.where == where
    assert error.value.fix
