from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from harken.backbones import Backbone, BagBackbone, BertBackbone, LstmBackbone
from harken.backbones.sequence import RESERVED, SequenceInput, SequenceModule
from harken.choice import Config
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec
from harken.frontends.tokens import Tokens
from harken.model import without_weights
from harken.pooling import MeanPooling

K = 11
TOKENS = FeatureSpec("tokens", K, 100.0, None)
FRAMES = FeatureSpec("spectrogram", 5, 100.0, None)
MODELS: dict[str, dict[str, Any]] = {
    "lstm": {"kind": "lstm", "dim": 6, "hidden": 5},
    "lstm-deep": {"kind": "lstm", "dim": 6, "hidden": 5, "num_layers": 2, "stride": 4},
    "bert": {"kind": "bert", "dim": 8, "depth": 2, "num_heads": 2},
    "bert-stride": {"kind": "bert", "dim": 8, "depth": 1, "num_heads": 2, "stride": 4},
    "bert-learned": {"kind": "bert", "dim": 8, "depth": 1, "positions": "learned"},
    "bag": {"kind": "bag", "dim": 6},
}


class Slot(Config):
    backbone: Backbone


def build(name: str, spec: FeatureSpec = TOKENS) -> SequenceModule:
    torch.manual_seed(0)
    module = Slot.model_validate({"backbone": MODELS[name]}).backbone.build(spec).eval()
    assert isinstance(module, SequenceModule)
    return module


def sentence(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, K, (length,), generator=torch.Generator().manual_seed(seed))


def readouts(module: SequenceModule, ids: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        hidden = module(ids, torch.tensor(lengths))
    mean = MeanPooling().build(module)(hidden)
    return mean if hidden.cls is None else torch.cat((mean, hidden.cls), dim=1)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    length=st.integers(1, 21),
    extra=st.integers(0, 9),
    filling=st.integers(0, K + RESERVED - 1),
)
def test_what_lies_beyond_a_clips_end_changes_nothing(
    name: str, length: int, extra: int, filling: int
) -> None:
    module, ids = build(name), sentence(length)
    alone = readouts(module, ids[None], [length])
    padded = torch.cat((ids, torch.full((extra,), filling)))
    batch = torch.stack((padded, sentence(length + extra, seed=1)))
    together = readouts(module, batch, [length, length + extra])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_frames_are_pseudo_embeddings_and_their_padding_changes_nothing(name: str) -> None:
    module, frames = build(name, FRAMES), torch.randn(2, 5, 13)
    lengths = [9, 13]
    first = readouts(module, frames, lengths)
    frames[0, :, 9:] = 1e3
    torch.testing.assert_close(readouts(module, frames, lengths), first, atol=1e-5, rtol=0)
    frames[0, :, 8] += 1
    assert not torch.allclose(readouts(module, frames, lengths)[0], first[0], atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_sequence_of_ten_seconds_is_read(name: str) -> None:
    module, ids = build(name), sentence(1723)
    changed = ids.clone()
    changed[1600] = (ids[1600] + 1) % K
    one, other = (readouts(module, x[None], [1723]) for x in (ids, changed))
    assert (one - other).abs().max() > 1e-6


@pytest.mark.parametrize(("name", "sees"), [("lstm", True), ("bert", True), ("bag", False)])
def test_order_matters_to_all_but_the_bag(name: str, sees: bool) -> None:
    module, ids = build(name), sentence(12)
    one, other = (readouts(module, x[None], [12]) for x in (ids, ids.flip(0)))
    assert torch.allclose(one, other, atol=1e-6) is not sees


def test_reserved_ids_follow_the_vocabulary_and_padding_is_nothing() -> None:
    reads = SequenceInput(TOKENS, 4, 1, 0.0)
    assert (reads.pad_id, reads.cls_id, reads.mask_id) == (K, K + 1, K + 2)
    x, lengths = reads(torch.full((1, 3), 2), torch.tensor([2]))
    assert lengths.tolist() == [2]
    assert x[0, 2].abs().max() == 0
    assert torch.equal(x[0, 0], x[0, 1])
    x.sum().backward()
    assert reads.embedding.weight.grad is not None
    assert reads.embedding.weight.grad[K].abs().max() == 0


def test_stride_merges_neighbours_in_their_order() -> None:
    reads = SequenceInput(TOKENS, 4, 3, 0.0)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    x, lengths = reads(ids, torch.tensor([7]))
    assert x.shape == (1, reads.steps(7), 4)
    assert lengths.tolist() == [3]
    swapped, _ = reads(ids[:, [1, 0, 2, 3, 4, 5, 6]], torch.tensor([7]))
    changed = (x - swapped).abs().amax(-1)[0] > 0
    assert changed.tolist() == [True, False, False]


@pytest.mark.parametrize("spec", [TOKENS, FRAMES], ids=["tokens", "frames"])
def test_masking_hides_about_its_share_and_only_while_training(spec: FeatureSpec) -> None:
    reads = SequenceInput(spec, 4, 1, 0.3)
    features = torch.zeros(1, 2000).long() if spec is TOKENS else torch.ones(1, 5, 2000)
    lengths = torch.tensor([2000])
    plain = reads.eval()(features, lengths)[0]
    torch.testing.assert_close(plain[0], plain[0, :1].expand_as(plain[0]))
    masked = reads.train()(features, lengths)[0]
    share = ((masked - plain).abs().amax(-1) > 1e-4).float().mean()
    assert 0.25 < share < 0.35


@pytest.mark.parametrize("config", [LstmBackbone(), BertBackbone(), BagBackbone()])
def test_waveforms_are_refused_when_the_model_is_built(config: Backbone) -> None:
    assert isinstance(config.default_frontend(), Tokens)
    waves = FeatureSpec("waveform", 1, 16000.0, 16000)
    for refuse in (config.check, config.build):
        with pytest.raises(ConfigError, match="cannot read waveform"):
            refuse(waves)


# --- pretrained weights ---

SAME = FeatureSpec("tokens", K, 100.0, None, vocabulary="abc")


def pretrained(folder: Path, module: SequenceModule) -> str:
    folder.mkdir()
    about = {"vocabulary": "abc", "vocabulary_file": "vocabulary.safetensors"}
    (folder / "pretraining.json").write_text(json.dumps(about))
    tensors = {f"backbone.{n}": t.clone() for n, t in module.state_dict().items()}
    save_file({**tensors, "heads.weight": torch.zeros(1)}, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("config", [LstmBackbone(dim=4, hidden=3), BertBackbone(dim=8, depth=1)])
def test_weights_are_taken_from_a_checkpoint_and_not_when_a_run_is_rebuilt(
    config: Backbone, tmp_path: Path
) -> None:
    source = config.build(SAME)
    assert isinstance(source, SequenceModule)
    run = pretrained(tmp_path / "run", source)
    asked = config.model_copy(update={"checkpoint": run})
    mine = asked.build(SAME).state_dict()
    assert all(torch.equal(mine[name], value) for name, value in source.state_dict().items())
    (tmp_path / "run/model.safetensors").unlink()
    without_weights(asked).build(SAME)
    with pytest.raises(ConfigError, match="cannot be read"):
        asked.build(SAME)


@pytest.mark.parametrize(
    ("spec", "over", "text"),
    [
        (TOKENS, {}, "another vocabulary"),
        (FRAMES, {}, "another vocabulary"),
        (SAME, {"hidden": 4}, "another network"),
        (SAME, {"checkpoint": "nowhere"}, "no pretrained network is here"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    spec: FeatureSpec, over: dict[str, Any], text: str, tmp_path: Path
) -> None:
    config = LstmBackbone(dim=4, hidden=3)
    source = config.build(SAME)
    assert isinstance(source, SequenceModule)
    config = config.model_copy(update={"checkpoint": pretrained(tmp_path / "run", source), **over})
    with pytest.raises(ConfigError, match=text):
        config.build(spec)
