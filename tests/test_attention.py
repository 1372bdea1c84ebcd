from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from burst_runs import BACKBONES, small, small_subject
from harken.backbones.ast import AstModule
from harken.errors import ConfigError
from harken.explain import AttentionMap, Rollout
from harken.explain.attention import read_attention

MEL = {"kind": "log_mel", "n_mels": 40, "n_fft": 256, "win_length": 200, "hop_length": 80}
VIT = {"kind": "timm", "name": "test_vit", "options": {"patch_size": 8}}


def with_torch(model: AstModule, tokens: torch.Tensor, block: int) -> torch.Tensor:
    """The attention of a block by torch's own layer, on the same weights."""
    own: Any = model.blocks[block]
    layer = torch.nn.MultiheadAttention(model.dim, own.num_heads, batch_first=True)
    with torch.no_grad():
        layer.in_proj_weight.copy_(own.qkv.weight)
        layer.in_proj_bias.copy_(own.qkv.bias)
        x = own.norm1(tokens)
        return layer(x, x, x, average_attn_weights=True)[1][0]


def test_the_maps_of_our_ast_are_those_of_torchs_layer() -> None:
    subject = small_subject(small(BACKBONES["ast"], "cls"))
    backbone = subject.model.backbone
    assert isinstance(backbone, AstModule)
    entered: list[torch.Tensor] = []
    hook = backbone.blocks[1].register_forward_pre_hook(lambda _, x: entered.append(x[0]))
    maps, hidden = read_attention(subject)
    hook.remove()
    assert len(maps) == 2
    assert maps[0].shape == (hidden.states.shape[1] + 1,) * 2
    assert maps[1] == pytest.approx(with_torch(backbone, entered[0], 1).double().numpy(), abs=1e-6)


def test_timms_maps_are_rows_of_shares_and_leave_the_network_as_it_was() -> None:
    model = small(VIT, "cls", MEL)
    subject = small_subject(model)
    before = subject.judge(np.zeros((1, 1, subject.steps), dtype=bool))
    maps, _ = read_attention(subject)
    assert len(maps) == len(model.backbone.network.blocks)  # type: ignore[union-attr]
    assert all(m.sum(axis=1) == pytest.approx(1) for m in maps)
    assert all(block.attn.fused_attn for block in model.backbone.network.blocks)  # type: ignore[union-attr]
    assert subject.judge(np.zeros((1, 1, subject.steps), dtype=bool)) == before


def test_the_class_tokens_row_or_the_mean_of_all_is_read() -> None:
    by_pooling = {}
    for pooling in ("cls", "mean"):
        subject = small_subject(small(BACKBONES["ast"], pooling))
        maps, _ = read_attention(subject)
        rows = maps[-1][:1] if pooling == "cls" else maps[-1][1:]
        wanted = rows.mean(axis=0)[1:]
        found = AttentionMap().relevance(subject).values[0]
        at = np.interp(np.arange(len(wanted)) * 6 + 3, np.arange(101) + 0.5, found)
        assert at == pytest.approx(wanted, rel=1e-3)
        by_pooling[pooling] = found
    assert not np.allclose(by_pooling["cls"], by_pooling["mean"])


def test_layers_are_counted_from_one() -> None:
    subject = small_subject(small(BACKBONES["ast"], "cls"))
    first, last = (AttentionMap(layer=n).relevance(subject).values for n in (1, 2))
    assert not np.allclose(first, last)
    assert np.array_equal(last, AttentionMap().relevance(subject).values)
    with pytest.raises(ConfigError, match="no layer 3: the network has 2"):
        AttentionMap(layer=3).relevance(subject)


def test_rollout_multiplies_the_layers() -> None:
    subject = small_subject(small(BACKBONES["ast"], "cls"))
    (one, two), _ = read_attention(subject)
    eye = np.eye(len(one))
    wanted = ((0.5 * two + 0.5 * eye) @ (0.5 * one + 0.5 * eye))[0, 1:]
    found = Rollout().relevance(subject).values[0]
    at = np.interp(np.arange(len(wanted)) * 6 + 3, np.arange(101) + 0.5, found)
    assert at == pytest.approx(wanted, rel=1e-3)
    assert not np.allclose(found, Rollout(residual=0.1).relevance(subject).values[0])


@pytest.mark.parametrize(
    "family", ["wav2vec2", "wavlm", "whisper", "audio-spectrogram-transformer"]
)
@pytest.mark.parametrize("method", [AttentionMap(), Rollout()])
def test_speech_encoders_are_read(
    tmp_path: Path, family: str, method: AttentionMap | Rollout
) -> None:
    pytest.importorskip("transformers")
    subject = speech_subject(tmp_path, family)
    values = method.relevance(subject).over_time
    assert len(values) == subject.steps
    assert (values > 0).all()
    assert np.ptp(values) > 0


def test_the_patches_of_transformers_ast_are_put_in_order(tmp_path: Path) -> None:
    """A change late in the clip must change the first layer's attention late in the map."""
    pytest.importorskip("transformers")
    subject = speech_subject(tmp_path, "audio-spectrogram-transformer")
    other = subject.features.clone()
    other[..., -16:] += 8.0
    from dataclasses import replace

    one, two = (
        AttentionMap(layer=1).relevance(s).over_time
        for s in (subject, replace(subject, features=other))
    )
    change = np.abs(two / two.sum() - one / one.sum())
    third = len(change) // 3
    assert change[-third:].mean() > 1.2 * change[:third].mean()


def speech_subject(folder: Path, family: str, **options: Any) -> Any:
    """Return a second of noise before an untrained encoder."""
    from harken.backbones.speech import SpeechBackbone
    from harken.explain import Subject
    from harken.heads import Heads
    from harken.labels import Labels
    from harken.model import Classifier
    from harken.pooling import MeanPooling
    from tiny_checkpoints import tiny_checkpoint

    checkpoint = str(tiny_checkpoint(folder / family, family))
    known = {key: value for key, value in options.items() if value is not None}
    backbone = SpeechBackbone(checkpoint=checkpoint, **known).resolved()
    torch.manual_seed(0)
    labels = Labels("single", ("a", "b", "c"), ("label",))
    front = backbone.default_frontend()
    model = Classifier.build(front, backbone, MeanPooling(), Heads(), labels, 16000, 16000).eval()
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    return Subject.of(model, wave, 0)
