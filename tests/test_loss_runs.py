"""Losses in whole runs: side information, resuming, evaluation of people never seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import harken
from conftest import write_tiny_table
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, DataError
from harken.recipe import Recipe
from harken.track import Silent
from harken.trainer import Trainer
from harken.verbs.evaluate import evaluate
from harken.verbs.prepare import prepare
from harken.verbs.train import build_trainer, learn_covariates, train
from test_trainer import InterruptedTestError, tiny_recipe

TWO = {"low": 0.5, "high": 2.0}
BY_AGE = {age: {"low": [0.2, 0.6, 0.2]} for age in (21, 22)}
LOSSES: list[dict[str, Any]] = [
    {"kind": "focal"},
    {"kind": "class_balanced", "of": {"kind": "focal", "form": "sigmoid"}},
    {"kind": "balancing", "by": "word"},
    {"kind": "difficulty", "table": {"w0": TWO}},
    {
        "kind": "difficulty",
        "rule": {"kind": "column", "column": "age"},
        "threshold": 21.5,
        "easy": TWO,
        "hard": TWO,
    },
    {"kind": "anchor", "delta": 0.3},
    {"kind": "severity", "scores": {"s1": 0.5, "s2": 1.5}},
    {"kind": "smoothed", "by": "age", "table": BY_AGE},
    {"kind": "hybrid", "by": "word"},
    {"kind": "hybrid", "by": "word", "partners": "centroids"},
    {"kind": "supcon"},
]
"""Folds are speakers, s0 is tested, and either of the others is trained on."""


def with_words(table: Path) -> Path:
    """Give the tiny table a word for every take."""
    take = pl.col("path").str.extract(r"_(\d)\.wav").cast(pl.Int64) % 2
    pl.read_csv(table).with_columns(word=pl.format("w{}", take)).write_csv(table)
    return table


@pytest.fixture
def worded(tiny_table: Path) -> Path:
    return with_words(tiny_table)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run with plain cross-entropy."""
    folder = tmp_path_factory.mktemp("plain")
    table = with_words(write_tiny_table(folder / "tiny"))
    recipe = recipe_with(table, None)
    data = recipe.data.model_copy(update={"cache": str(folder / "cache")})
    recipe = recipe.model_copy(update={"data": data})
    return weights(train(recipe, folder / "run", folds="1"))


def recipe_with(table: Path, loss: dict[str, Any] | None, **over: Any) -> Recipe:
    base = {"mix": None, "train": {"epochs": 2, "batch_size": 6}, "loss": loss}
    return tiny_recipe(table, **base | over)


def weights(run: Any) -> dict[str, torch.Tensor]:
    return load_file(run.path / "fold-1" / "model.safetensors")


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["kind"])
def test_every_loss_changes_a_run_and_evaluates(
    worded: Path, plain: dict[str, torch.Tensor], tmp_path: Path, loss: dict[str, Any]
) -> None:
    ours = train(recipe_with(worded, loss), tmp_path / "ours", folds="1")
    one, two = plain, weights(ours)
    assert any(not torch.equal(one[name], two[name]) for name in one)
    before = ours.folds[0].read_json("metrics.json")["test"]["metrics"]
    again = evaluate(ours.folds[0], split="test")["metrics"]
    assert before["accuracy"]["value"] == again["accuracy"]["value"]


@pytest.mark.parametrize("partners", ["random", "centroids"])
@pytest.mark.parametrize("batch", [5, 9])
def test_a_broken_hybrid_run_resumes_to_the_same_weights(
    worded: Path, tmp_path: Path, partners: str, batch: int
) -> None:
    loss = {"kind": "hybrid", "by": "word", "partners": partners}
    options = {"epochs": 3, "batch_size": 5, "accumulate": 2, "checkpoint_minutes": 1e-9}
    recipe = recipe_with(worded, loss, train=options)
    whole = trainer_of(recipe, tmp_path / "whole")
    whole.fit()

    class Breaks(Silent):
        left = batch

        def advance(self) -> None:
            self.left -= 1
            if self.left == 0:
                raise InterruptedTestError

    broken = trainer_of(recipe, tmp_path / "broken")
    broken.tracker = Breaks()
    with pytest.raises(InterruptedTestError):
        broken.fit()
    again = trainer_of(recipe, tmp_path / "broken")
    again.fit(resume=True)
    for one, two in ((whole.model, again.model), (whole.loss, again.loss)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[name]), name
    counts = [[row["without_partner"] for row in t.progress.history] for t in (whole, again)]
    assert counts[0] == counts[1]
    assert counts[0][0] > counts[0][-1] == 0


def trainer_of(recipe: Recipe, folder: Path) -> Trainer:
    corpus, folds = prepare(recipe)
    corpus = learn_covariates(recipe, corpus, folds[0])
    folder.mkdir(parents=True, exist_ok=True)
    return build_trainer(recipe, corpus, folds[0], RunFolder(folder), Silent())


def test_both_passes_of_sam_see_the_same_partners(worded: Path, tmp_path: Path) -> None:
    optimizer = {"kind": "sam", "lr": 0.01, "rho": 1e-12}
    recipe = recipe_with(worded, {"kind": "hybrid", "by": "word"}, optimizer=optimizer)
    trainer = trainer_of(recipe, tmp_path / "run")
    values: list[list[float]] = []
    trainer.loss.register_forward_hook(
        lambda module, _, value: values.append(value.tolist()) if module.training else None
    )
    trainer.fit()
    count = 2 * trainer.train_loader.num_batches()
    assert len(values) == 2 * count
    for first, second in zip(values[::2], values[1::2], strict=True):
        assert first == pytest.approx(second, rel=1e-5)


def test_partners_are_counted_in_the_history(worded: Path, tmp_path: Path) -> None:
    run = train(recipe_with(worded, {"kind": "hybrid"}), tmp_path / "run", folds="1")
    lines = (run.path / "fold-1" / "metrics.jsonl").read_text().splitlines()
    first, last = (json.loads(line)["without_partner"] for line in lines)
    assert first > last == 0


def test_severity_is_plain_for_speakers_it_has_no_score_of(worded: Path, tmp_path: Path) -> None:
    """Folds are speakers here, so the test speaker has neither score nor place in training."""
    scores = tmp_path / "scores.csv"
    scores.write_text("speaker,score\ns1,0.5\ns2,2\n")
    loss = {"kind": "severity", "scores": str(scores)}
    run = train(recipe_with(worded, loss), tmp_path / "run", folds="1")
    scores.unlink()
    frame = run.folds[0].read_table("predictions.parquet").filter(pl.col("split") == "test")
    assert frame["speaker" if "speaker" in frame.columns else "group"].unique().to_list() == ["s0"]
    chance = [row[f"score_{row['target']}"] for row in frame.iter_rows(named=True)]
    assert (-torch.log(torch.tensor(chance))).tolist() == pytest.approx(
        frame["loss"].to_list(), rel=1e-4
    )
    evaluate(run.folds[0], split="test")


def test_new_clips_need_not_tell_what_only_the_loss_read(worded: Path, tmp_path: Path) -> None:
    loss = {"kind": "balancing", "by": "word"}
    run = train(recipe_with(worded, loss), tmp_path / "run", folds="1")
    clip = next(worded.parent.glob("low_*.wav"))
    table = harken.load(run.folds[0].path).predict([str(clip)])
    assert table["decision"][0] in ("low", "high", "noise")
    unlabelled = worded.with_name("new.csv")
    pl.read_csv(worded).select("path", "label").write_csv(unlabelled)
    assert evaluate(run.folds[0], on=unlabelled)["num_clips"] == 36


def test_bad_input_is_one_line(worded: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(worded)
    odd = worded.with_name("odd.csv")
    word = (
        pl.when(pl.col("path").is_in(["low_1_0.wav", "low_2_0.wav"]))
        .then(pl.lit("alone"))
        .otherwise("word")
    )
    frame.with_columns(word=word).write_csv(odd)
    with pytest.raises(DataError, match="the word 'alone' has no training clip of high, noise"):
        train(recipe_with(odd, {"kind": "balancing", "by": "word"}), tmp_path / "a", folds="1")
    with pytest.raises(DataError, match=r"no column 'wrod', did you mean 'word'"):
        train(recipe_with(worded, {"kind": "balancing", "by": "wrod"}), tmp_path / "b", folds="1")
    loss: dict[str, Any] = {"kind": "severity", "scores": {"s9": 1}}
    with pytest.raises(DataError, match=r"no score for the speaker 's[12]'"):
        train(recipe_with(worded, loss), tmp_path / "c", folds="1")
    with pytest.raises(ConfigError, match=r"loss.*a margin of 4 can never be met"):
        recipe_with(worded, {"kind": "hybrid", "margin": 4})
    loss = {"kind": "smoothed", "by": "word", "table": {"w0": {"low": [0.95, 0.5, 0]}}}
    with pytest.raises(ConfigError, match=r"loss.*sums to 1\.45, not to 1"):
        recipe_with(worded, loss)
    mixed = recipe_with(worded, LOSSES[2], mix={"kind": "mixup"})
    with pytest.raises(ConfigError, match="a mixture of two clips has no one"):
        train(mixed, tmp_path / "d", folds="1")
