from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from harken.batch import Batch, Output
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, HarkenError
from harken.losses import LossModule
from harken.recipe import Recipe, validate
from harken.track import Silent
from harken.trainer import Trainer, TrainingError, monitored
from harken.verbs.prepare import prepare
from harken.verbs.train import build_trainer, learn_covariates
from tiny_checkpoints import tiny_checkpoint


def tiny_recipe(table: Path, **over: Any) -> Recipe:
    tree: dict[str, Any] = {
        "data": {
            "source": {"kind": "table", "path": str(table), "group": "speaker"},
            "target": "label",
            "split": {"kind": "fold", "column": "fold", "valid": 0.5},
        },
        "audio": {"sample_rate": 8000, "clip_seconds": 0.5},
        "augment": [{"kind": "gain"}, {"kind": "spec_mask"}],
        "mix": {"kind": "mixup", "alpha": 0.4},
        "frontend": {"kind": "log_mel", "n_mels": 16, "normalize": "dataset"},
        "backbone": {"kind": "cnn", "widths": [4, 8], "dropout": 0.1},
        "optimizer": {"kind": "adamw", "lr": 0.01},
        "train": {"epochs": 3, "batch_size": 5, "ema": 0.9},
        "evaluate": {"num_resamples": 50},
    }
    return validate(tree | over)


def trainer_of(recipe: Recipe, folder: Path) -> Trainer:
    corpus, folds = prepare(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = learn_covariates(recipe, corpus, folds[0])
    return build_trainer(recipe, corpus, folds[0], RunFolder(folder), Silent())


def fitted(recipe: Recipe, folder: Path) -> Trainer:
    trainer = trainer_of(recipe, folder)
    trainer.fit()
    return trainer


def test_the_loss_falls_and_every_epoch_is_written(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_table, train={"epochs": 30, "batch_size": 6}, mix=None)
    trainer = fitted(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 31))
    assert rows[-1]["train_loss"] < 0.85 * rows[0]["train_loss"]
    assert rows[-1]["step"] == trainer.progress.step == 30 * trainer.train_loader.num_batches()
    assert {"lr", "valid_loss", "valid_balanced_accuracy", "seconds", "data_seconds"} <= set(
        rows[0]
    )


def test_batches_whose_clips_weigh_nothing_teach_nothing(tiny_table: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(tiny_table).with_columns(w=(pl.int_range(pl.len()) % 3 == 0).cast(pl.Int8))
    frame.write_csv(tiny_table)
    source = {"kind": "table", "path": str(tiny_table), "group": "speaker", "weight": "w"}
    split = {"kind": "fold", "column": "fold", "valid": 0.5}
    data = {"source": source, "target": "label", "split": split}
    recipe = tiny_recipe(tiny_table, data=data, mix=None, train={"epochs": 1, "batch_size": 1})
    trainer = fitted(recipe, tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    assert 0 < trainer.progress.history[0]["train_loss"] < 10


def test_the_same_seed_gives_the_same_weights(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_table)
    one, two = (fitted(recipe, tmp_path / name) for name in "ab")
    other = fitted(recipe.model_copy(update={"seed": 1}), tmp_path / "c")
    weights = [t.model.state_dict() for t in (one, two, other)]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    assert not all(torch.equal(v, weights[2][k]) for k, v in weights[0].items())


class InterruptedTestError(Exception):
    pass


def break_off(recipe: Recipe, folder: Path, batch: int) -> None:
    """Train until so many batches are done."""

    class Breaks(Silent):
        seen = 0

        def advance(self) -> None:
            self.seen += 1
            if self.seen == batch:
                raise InterruptedTestError

    broken = trainer_of(recipe, folder)
    broken.tracker = Breaks()
    with pytest.raises(InterruptedTestError):
        broken.fit()


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_broken_run_resumes_to_the_same_weights(
    tiny_table: Path, tmp_path: Path, batch: int
) -> None:
    """Stop in the middle of an epoch, with a state saved at every step."""
    train = {"epochs": 3, "batch_size": 5, "ema": 0.9, "accumulate": 2, "checkpoint_minutes": 1e-9}
    recipe = tiny_recipe(tiny_table, train=train)
    whole = fitted(recipe, tmp_path / "whole")
    break_off(recipe, tmp_path / "broken", batch)
    again = trainer_of(recipe, tmp_path / "broken")
    again.fit(resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    clocks = {"seconds", "data_seconds"}
    rows = [
        [{k: v for k, v in row.items() if k not in clocks} for row in t.progress.history]
        for t in (whole, again)
    ]
    assert rows[0] == rows[1]


def test_accumulated_batches_equal_one_large_batch(tiny_table: Path, tmp_path: Path) -> None:
    base = {"epochs": 1, "batch_size": 12, "clip_norm": 1.0}
    plain: dict[str, Any] = {
        "augment": [],
        "mix": None,
        "backbone": {"kind": "mlp", "summary": "statistics", "hidden": [8]},
    }
    one = fitted(tiny_recipe(tiny_table, train=base, **plain), tmp_path / "one")
    split = base | {"batch_size": 6, "accumulate": 2}
    two = trainer_of(tiny_recipe(tiny_table, train=split, **plain), tmp_path / "two")
    order = one.train_loader.order.batches(0)
    halves = [half for rows in order for half in np.array_split(rows, 2)]
    two.train_loader.order.batches = lambda epoch: halves  # type: ignore[method-assign]
    two.fit()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, two.model.state_dict()[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mix", None),
        ("mix", {"kind": "mixup", "alpha": 0.4, "domain": "features"}),
        ("augment", []),
        ("schedule", "none"),
        ("optimizer", {"kind": "sgd", "lr": 0.01}),
        ("loss", {"kind": "cross_entropy", "smoothing": 0.2}),
        ("train", {"epochs": 3, "batch_size": 5}),
        ("train", {"epochs": 3, "batch_size": 5, "ema": 0.9, "clip_norm": 0.01}),
        ("train", {"epochs": 3, "batch_size": 5, "ema": 0.9, "precision": "bf16"}),
        ("train", {"epochs": 3, "batch_size": 5, "ema": 0.9, "sampler": "balanced"}),
        ("train", {"epochs": 3, "batch_size": 5, "ema": 0.9, "accumulate": 2}),
    ],
)
def test_every_option_changes_the_run(
    tiny_table: Path, tmp_path: Path, key: str, value: object
) -> None:
    fitted(tiny_recipe(tiny_table), tmp_path / "base")
    fitted(tiny_recipe(tiny_table, **{key: value}), tmp_path / "other")
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("base", "other"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_patience_ends_a_run_that_stands_still(tiny_table: Path, tmp_path: Path) -> None:
    train = {"epochs": 50, "batch_size": 12, "patience": 2, "min_delta": 10.0, "monitor": "loss"}
    trainer = fitted(tiny_recipe(tiny_table, train=train), tmp_path / "run")
    assert trainer.progress.epoch == 3
    assert trainer.progress.best_epoch == 1


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 4)])
def test_the_wanted_epoch_s_weights_are_kept(
    tiny_table: Path, tmp_path: Path, keep: str, epoch: int
) -> None:
    train = {"epochs": 4, "batch_size": 12, "monitor": "loss", "keep": keep}
    recipe = tiny_recipe(tiny_table, train=train, schedule="none", augment=[], mix=None)
    trainer = trainer_of(recipe, tmp_path / "run")
    seen: list[dict[str, torch.Tensor]] = []
    losses = iter([1.0, 0.5, 2.0, 0.7])

    def measure(loader: object) -> dict[str, float | None]:
        seen.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        return {"valid_loss": next(losses)}

    trainer._measure = measure  # type: ignore[method-assign]
    trainer.fit()
    assert trainer.progress.best_epoch == 2
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(saved[name], seen[epoch - 1][name]) for name in saved)
    assert not all(torch.equal(saved[name], seen[epoch % 4][name]) for name in saved)


def test_a_loss_that_is_not_finite_names_the_clip(tiny_table: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe(tiny_table), tmp_path / "run")

    class Explodes(LossModule):
        def forward(self, output: Output, batch: Batch) -> torch.Tensor:
            value = output.logits.sum(dim=1)
            return value / (batch.rows != batch.rows.max()).float()

    trainer.loss = Explodes()
    with pytest.raises(
        TrainingError, match=r"not finite in epoch 1 \(clips \w+_\d_\d\).*optimizer.lr"
    ):
        trainer.fit()


@pytest.mark.parametrize("part", ["train", "valid"])
def test_features_that_are_not_finite_name_the_clip(
    tiny_table: Path, tmp_path: Path, part: str
) -> None:
    train = {"epochs": 1, "batch_size": 12, "memory_gigabytes": 0}
    trainer = trainer_of(
        tiny_recipe(tiny_table, augment=[], mix=None, train=train), tmp_path / "run"
    )
    clips = (trainer.train_loader if part == "train" else trainer.valid_loader).dataset
    row = int(clips.rows[3])
    odd, whole = torch.from_numpy(clips.example(row, 0)[0]), trainer.model.features

    def features(waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found, frames = whole(waveform, lengths)
        is_odd = (waveform[:, : len(odd)] == odd).all(dim=1)
        return torch.where(is_odd[:, None, None], torch.nan, found), frames

    trainer.model.features = features  # type: ignore[method-assign]
    name = trainer.ids[row]
    told = r"the features of 1 clips" if part == "train" else r"the scores of 1 of \d+ clips"
    with pytest.raises(HarkenError, match=rf"{told} are not finite \({name}\)") as caught:
        trainer.fit()
    assert "look at these recordings" in str(caught.value)


def test_choosing_an_epoch_needs_validation_clips(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_table)
    corpus, folds = prepare(recipe)
    split = np.where(folds[0].split == "valid", "train", folds[0].split)
    fold = dataclasses.replace(folds[0], split=split)
    with pytest.raises(ConfigError, match="needs validation clips"):
        build_trainer(recipe, corpus, fold, RunFolder(tmp_path), Silent())


def test_an_unknown_metric_is_one_error(tiny_table: Path, tmp_path: Path) -> None:
    train = {"epochs": 1, "monitor": "acuracy", "mode": "max"}
    with pytest.raises(ConfigError, match="there is no metric 'acuracy', did you mean 'accuracy'"):
        fitted(tiny_recipe(tiny_table, train=train), tmp_path / "run")


def test_the_monitor_knows_its_direction(tiny_table: Path) -> None:
    corpus, _ = prepare(tiny_recipe(tiny_table))
    labels = corpus.labels
    assert monitored(tiny_recipe(tiny_table), labels) == ("balanced_accuracy", True)
    assert monitored(tiny_recipe(tiny_table, train={"monitor": "loss"}), labels) == ("loss", False)
    forced = tiny_recipe(tiny_table, train={"monitor": "loss", "mode": "max"})
    assert monitored(forced, labels) == ("loss", True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_runs_on_a_gpu(tiny_table: Path, tmp_path: Path) -> None:
    train = {"epochs": 2, "device": "cuda", "precision": "bf16"}
    trainer = fitted(tiny_recipe(tiny_table, train=train), tmp_path / "run")
    assert next(trainer.model.parameters()).is_cuda


def test_a_run_resumes_after_its_checkpoint_is_gone_or_another(
    tiny_table: Path, tmp_path: Path
) -> None:
    """What its frozen encoder makes of clips is that of the saved state, not of the checkpoint."""
    encoder = tiny_checkpoint(tmp_path / "encoder", "wav2vec2")
    backbone = {"kind": "speech", "checkpoint": str(encoder), "freeze": "all"}
    train = {"epochs": 2, "batch_size": 5, "checkpoint_minutes": 1e-9}
    over = {"augment": [], "mix": None, "frontend": None, "backbone": backbone, "train": train}
    recipe = tiny_recipe(tiny_table, audio={"clip_seconds": 0.5}, **over).resolved()
    whole = fitted(recipe, tmp_path / "whole").model.state_dict()
    for name in ("gone", "another"):
        break_off(recipe, tmp_path / name, 2)
    shutil.rmtree(encoder)
    gone = trainer_of(recipe, tmp_path / "gone")
    tiny_checkpoint(encoder, "wav2vec2", seed=1)
    another = trainer_of(recipe, tmp_path / "another")
    for trainer in (gone, another):
        trainer.fit(resume=True)
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(value, whole[name]), name
