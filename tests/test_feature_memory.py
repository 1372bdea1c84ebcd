from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harken.feature_memory import waveforms_stay
from harken.recipe import Recipe
from test_trainer import fitted, tiny_recipe, trainer_of

STAYS: dict[str, Any] = {
    "augment": [{"kind": "spec_mask"}],
    "mix": {"kind": "mixup", "domain": "features"},
}


def of(table: Path, gigabytes: float, **over: Any) -> Recipe:
    train = {"epochs": 3, "batch_size": 5, "memory_gigabytes": gigabytes}
    return tiny_recipe(table, **(STAYS | {"train": train} | over))


def test_remembered_features_train_the_same_network(tiny_table: Path, tmp_path: Path) -> None:
    kept = fitted(of(tiny_table, 1.0), tmp_path / "kept")
    fresh = fitted(of(tiny_table, 0.0), tmp_path / "fresh")
    assert kept.memory is not None
    assert fresh.memory is None
    for name, value in kept.model.state_dict().items():
        torch.testing.assert_close(value, fresh.model.state_dict()[name], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("clip_seconds", [0.5, None])
def test_a_batch_has_the_front_end_s_own_features(
    tiny_table: Path, tmp_path: Path, clip_seconds: float | None
) -> None:
    audio = {"sample_rate": 8000, "clip_seconds": clip_seconds}
    trainer = trainer_of(of(tiny_table, 1.0, audio=audio), tmp_path)
    assert trainer.memory is not None
    clips = trainer.train_loader.dataset
    rows = clips.rows[[3, 0, 5]]
    waves = [torch.from_numpy(clips.example(int(row), 0)[0]) for row in rows]
    expected, lengths = trainer.model.features(torch.stack(waves), torch.full((3,), 4000))
    features, frames = trainer.memory.batch(torch.from_numpy(rows))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert frames.tolist() == lengths.tolist()


def test_audio_is_not_read_again(tiny_table: Path, tmp_path: Path) -> None:
    trainer = trainer_of(of(tiny_table, 1.0), tmp_path)
    batch = next(iter(trainer.train_loader.epoch()))
    assert batch.waveform.shape[1] == 0


def test_what_does_not_fit_is_computed_anew(tiny_table: Path, tmp_path: Path) -> None:
    assert trainer_of(of(tiny_table, 1e-6), tmp_path).memory is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("augment", [{"kind": "gain"}]),
        ("mix", {"kind": "mixup", "domain": "waveform"}),
        ("audio", {"sample_rate": 8000, "clip_seconds": 0.5, "crop": "random"}),
    ],
)
def test_changing_waveforms_forbid_it(
    tiny_table: Path, tmp_path: Path, key: str, value: object
) -> None:
    recipe = of(tiny_table, 1.0, **{key: value})
    assert not waveforms_stay(recipe)
    assert trainer_of(recipe, tmp_path).memory is None


ENCODER = {
    "model_type": "wav2vec2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 8],
    "conv_stride": [10, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def frozen(table: Path, gigabytes: float, **over: Any) -> Recipe:
    speech = {
        "backbone": {"kind": "speech", "config": ENCODER, "freeze": "all"},
        "audio": {"sample_rate": 16000},
        "frontend": "waveform",
        "pooling": "mean",
        "augment": [],
        "mix": None,
    }
    return of(table, gigabytes, **(speech | over))


@pytest.mark.parametrize(
    ("over", "stage"),
    [
        ({}, "pooled"),
        ({"pooling": "attention"}, "lower"),
        ({"backbone": {"kind": "speech", "config": ENCODER, "freeze": 1}}, "lower"),
        ({"covariates": [{"kind": "film", "covariate": "age"}]}, "lower"),
        ({"covariates": [{"kind": "concat", "covariate": "age"}]}, "pooled"),
    ],
)
def test_the_last_stage_that_nothing_changes_is_kept(
    tiny_table: Path, tmp_path: Path, over: dict[str, Any], stage: str
) -> None:
    trainer = fitted(frozen(tiny_table, 1.0, **over), tmp_path / "run")
    assert trainer.memory is not None
    assert trainer.memory.stage == stage
    assert trainer.valid_memory is not None
    assert trainer.valid_memory.stage == stage


def test_samples_are_not_kept_twice(tiny_table: Path, tmp_path: Path) -> None:
    learning = {"kind": "speech", "config": ENCODER}
    assert trainer_of(frozen(tiny_table, 1.0, backbone=learning), tmp_path).memory is None


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_remembered_encoder_trains_the_same_head(
    tiny_table: Path, tmp_path: Path, pooling: str
) -> None:
    kept = fitted(frozen(tiny_table, 1.0, pooling=pooling), tmp_path / "kept")
    fresh = fitted(frozen(tiny_table, 0.0, pooling=pooling), tmp_path / "fresh")
    assert fresh.memory is None
    for name, value in kept.model.state_dict().items():
        torch.testing.assert_close(value, fresh.model.state_dict()[name], atol=1e-4, rtol=1e-3)
    for mine, other in zip(kept.progress.history, fresh.progress.history, strict=True):
        assert mine["valid_loss"] == pytest.approx(other["valid_loss"], abs=1e-4)


def test_the_encoder_runs_once_a_clip(
    tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harken.backbones.speech import SpeechModule

    rows: list[int] = []
    lower = SpeechModule.lower

    def counted(self: SpeechModule, features: torch.Tensor, lengths: torch.Tensor) -> Any:
        rows.append(len(features))
        return lower(self, features, lengths)

    monkeypatch.setattr(SpeechModule, "lower", counted)
    trainer = fitted(frozen(tiny_table, 1.0), tmp_path / "run")
    assert trainer.valid_loader is not None
    clips = len(trainer.train_loader.dataset) + len(trainer.valid_loader.dataset)
    assert sum(rows) == clips
