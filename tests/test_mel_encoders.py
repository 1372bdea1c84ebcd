"""Encoders of mel features: Whisper's cut table, AST's grid, w2v-BERT's positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harken.backbones import SpeechBackbone
from harken.errors import ConfigError, DataError
from harken.frontends import KaldiFbank, LogMel, StackedFbank, Waveform
from test_encoders import backbone, features, frontend, module, noises, theirs
from tiny_checkpoints import tiny_checkpoint

AST = "audio-spectrogram-transformer"


@torch.no_grad()
def test_whispers_table_is_cut_to_the_clip() -> None:
    hidden = module("whisper")(*features("whisper", 0.5))
    assert hidden.states.shape[1] == 25
    odd = torch.randn(1, 80, 51)
    assert module("whisper")(odd, torch.tensor([51])).states.shape[1] == 26
    padded = theirs("whisper")(features("whisper", 2.0)[0]).last_hidden_state
    assert padded.shape[1] == 100


def test_clips_longer_than_whispers_table_are_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"^audio.clip_seconds: 1 clips of a batch: 2\.01 s are longer than whisper's 2 s",
    ):
        module("whisper")(torch.zeros(1, 80, 201), torch.tensor([201]))
    spec = frontend("whisper").spec
    assert backbone("whisper").build(type(spec)("spectrogram", 80, 100.0, 200)).dim == 32
    with pytest.raises(ConfigError, match="longer than whisper's table") as error:
        backbone("whisper").build(type(spec)("spectrogram", 80, 100.0, 201))
    assert error.value.fix == "audio.clip_seconds=2 or less"


@torch.no_grad()
def test_asts_class_state_is_what_its_classifier_reads() -> None:
    x, lengths = features(AST, 1.295)
    assert x.shape == (1, 64, 128)
    hidden = module(AST)(x, lengths)
    assert hidden.grid == (5, 12)
    wanted = theirs(AST)(x.transpose(1, 2)).pooler_output
    assert hidden.cls is not None
    torch.testing.assert_close(hidden.cls, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_asts_grid_follows_the_clip() -> None:
    built = module(AST)
    assert built.bins_read == 16 + 4 * 10
    for frames, columns in ((10, 1), (16, 1), (26, 2), (128, 12), (200, 19)):
        hidden = built(torch.randn(1, 64, frames), torch.tensor([frames]))
        assert hidden.grid == (5, columns)
        assert hidden.states.shape == (1, 5 * columns, 32)
    # A longer clip stretches the table over itself, whatever else is in its batch.
    x, lengths = torch.randn(2, 64, 200), torch.tensor([200, 150])
    x[1, :, 150:] = 0
    together, alone = built(x, lengths), built(x[1:, :, :150], lengths[1:])
    mine = together.states[1][together.mask[1]]
    torch.testing.assert_close(mine, alone.states[0], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["rotary", "relative", "relative_key", None])
def test_every_kind_of_position_of_w2v_bert(tmp_path: Path, kind: str | None) -> None:
    import transformers

    folder = tiny_checkpoint(tmp_path, "wav2vec2-bert", position_embeddings_type=kind)
    built = SpeechBackbone(checkpoint=str(folder)).build(frontend("wav2vec2-bert").spec).eval()
    x, lengths = features("wav2vec2-bert", 0.8, 0.5)
    together, alone = built(x, lengths), built(x[1:, :, : int(lengths[1])], lengths[1:])
    mine = together.states[1][together.mask[1]]
    torch.testing.assert_close(mine, alone.states[0], atol=1e-5, rtol=1e-5)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    mask = together.mask.long()
    wanted = model(input_features=x.transpose(1, 2), attention_mask=mask).last_hidden_state
    torch.testing.assert_close(
        together.states[together.mask], wanted[together.mask], atol=1e-5, rtol=1e-5
    )


def test_each_family_has_its_own_frontend() -> None:
    whisper = backbone("whisper").default_frontend()
    assert isinstance(whisper, LogMel)
    assert (whisper.n_mels, whisper.n_fft, whisper.dynamic_range) == (80, 400, 8)
    ast = backbone(AST).default_frontend()
    assert isinstance(ast, KaldiFbank)
    assert ast.n_mels == 64
    assert ast.normalize.model_dump()["scale"] == 2.0
    assert backbone("wav2vec2-bert").default_frontend() == StackedFbank()
    assert backbone("wav2vec2").default_frontend() == Waveform(normalize="clip")


def test_whispers_large_models_read_128_bins(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "whisper", num_mel_bins=128)
    chosen = SpeechBackbone(checkpoint=str(folder))
    made = chosen.default_frontend().build(16000, 16000)
    assert made.spec.dim == 128
    assert chosen.build(made.spec)(*made(*noises(1.0))).states.shape == (1, 50, 32)


def test_the_features_equal_the_librarys_extractors() -> None:
    import transformers

    waves, lengths = noises(2.0)
    pairs = {
        "whisper": transformers.WhisperFeatureExtractor(chunk_length=2),
        "wav2vec2": transformers.Wav2Vec2FeatureExtractor(),
    }
    for family, extractor in pairs.items():
        found = extractor(waves[0].numpy(), sampling_rate=16000, return_tensors="pt")
        wanted = next(iter(found.values()))
        torch.testing.assert_close(frontend(family)(waves, lengths)[0], wanted, atol=2e-4, rtol=0)
