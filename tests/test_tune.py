from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from conftest import write_tiny_table
from harken.checkpoint import RunFolder
from harken.cli import app
from harken.errors import ConfigError, HarkenError, RunError
from harken.recipe import Recipe, dump_recipe, read_recipe
from harken.report.page import build
from harken.storage import StoreError
from harken.trainer import StoppedError, Trainer
from harken.verbs import tune as verb
from harken.verbs.evaluate import evaluate
from harken.verbs.study import Trial
from harken.verbs.train import train
from harken.verbs.tune import tune
from test_trainer import tiny_recipe

LR: dict[str, Any] = {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True}
WIDTH = {"kind": "categorical", "choices": [4, 8]}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_table(tmp_path_factory.mktemp("tune") / "tiny")


def recipe_of(clips: Path, parameters: Any = None, folds: bool = False, **over: Any) -> Recipe:
    """A tiny recipe with a search; each trial trains for a moment."""
    source = {"kind": "table", "path": str(clips), "group": "speaker"}
    split = {"kind": "fold", "column": "fold", "valid": 0.5} if folds else "random"
    sections: dict[str, Any] = {
        "data": {"source": source, "target": "label", "split": split},
        "backbone": {"kind": "mlp", "hidden": [8]},
        "augment": [],
        "mix": None,
        "train": {"epochs": 1, "batch_size": 12},
        "evaluate": {"num_resamples": 0},
    }
    if not folds:
        sections["data"]["split"] = {"kind": "random", "valid": 0.34, "test": 0.33}
    search = over.pop("search", {})
    parameters = {"optimizer.lr": LR} if parameters is None else parameters
    return tiny_recipe(clips, **sections | over, search={"parameters": parameters, **search})


def trial_file(folder: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"trial-{number:04d}/trial.json").read_text())
    return found


def test_trials_are_run_folders_that_have_not_seen_their_test_clips(
    clips: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(clips, {"optimizer.lr": LR, "heads.bottleneck": WIDTH})
    told: list[tuple[Trial, Trial | None]] = []
    tuned = tune(recipe, tmp_path / "s", trials=3, told=lambda *each: told.append(each))
    assert [trial.state for trial in tuned.trials] == ["complete"] * 3
    assert [trial for trial, _ in told] == list(tuned.trials)
    assert told[-1][1] == tuned.best
    assert tuned.metric == "balanced_accuracy"
    assert tuned.tests
    assert not tuned.stopped
    for trial in tuned.trials:
        run = RunFolder.open(tmp_path / "s" / trial.name)
        metrics = run.read_json("metrics.json")
        assert set(metrics) == {"valid"}
        value = metrics["valid"]["metrics"]["balanced_accuracy"]["value"]
        assert trial_file(tmp_path / "s", trial.number) == {
            "study": "s",
            "number": trial.number,
            "values": trial.values,
            "metric": "balanced_accuracy",
            "split": "valid",
            "value": value,
            "state": "complete",
            "error": None,
        }
        assert set(run.read_table("predictions.parquet")["split"]) == {"valid"}
        assert not (run.path / "last").exists()
        mine = read_recipe([run.path / "recipe.yaml"])
        assert mine.search is None
        assert mine.optimizer.lr == trial.values["optimizer.lr"]
        assert mine.heads.bottleneck == trial.values["heads.bottleneck"]


def test_the_best_is_measured_afterwards_and_trained_anew(clips: Path, tmp_path: Path) -> None:
    tuned = tune(recipe_of(clips, train={"epochs": 5, "batch_size": 6}), tmp_path / "s", trials=2)
    assert tuned.best is not None
    run = RunFolder.open(tmp_path / "s" / tuned.best.name)
    tested = evaluate(run)
    again = train(read_recipe([tmp_path / "s/best.yaml"]), tmp_path / "again")
    one, two = (load_file(r.path / "model.safetensors") for r in (run, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    told = again.read_json("metrics.json")["test"]["metrics"]
    assert {k: v["value"] for k, v in told.items()} == {
        k: v["value"] for k, v in tested["metrics"].items()
    }


def test_the_same_seed_makes_the_same_trials(clips: Path, tmp_path: Path) -> None:
    def told(seed: int, name: str, sampler: str) -> list[Any]:
        recipe = recipe_of(clips, seed=seed, search={"sampler": sampler})
        trials = tune(recipe, tmp_path / name, trials=3).trials
        return [(t.values, t.value) for t in trials]

    one = told(0, "a", "tpe")
    assert told(0, "b", "tpe") == one
    assert told(1, "c", "tpe") != one
    assert told(0, "d", "random") != one


def test_a_grid_covers_its_product_and_ends(clips: Path, tmp_path: Path) -> None:
    parameters = {
        "heads.shared": {"kind": "categorical", "choices": [None, 4, 8]},
        "heads.bottleneck": {**WIDTH, "when": {"heads.shared": [4, 8]}},
    }
    search = {"sampler": "grid", "constraints": "heads.bottleneck <= heads.shared"}
    recipe = recipe_of(clips, parameters, search=search)
    tune(recipe, tmp_path, trials=2)
    trials = tune(recipe, tmp_path).trials
    shapes = [(t.values["heads.shared"], t.values.get("heads.bottleneck")) for t in trials]
    assert shapes == [(None, None), (4, 4), (8, 4), (8, 8)]


def test_the_number_of_trials_is_of_the_study(clips: Path, tmp_path: Path) -> None:
    recipe = recipe_of(clips)
    assert len(tune(recipe, tmp_path, trials=1).trials) == 1
    assert len(tune(recipe, tmp_path, trials=2).trials) == 2
    assert len(tune(recipe, tmp_path, trials=2).trials) == 2
    assert len(tune(recipe, tmp_path, trials=9, minutes=0).trials) == 2


def test_folds_are_trained_and_averaged(clips: Path, tmp_path: Path) -> None:
    recipe = recipe_of(clips, folds=True, search={"metric": "loss"})
    tuned = tune(recipe, tmp_path / "all", trials=1)
    run = RunFolder.open(tmp_path / "all/trial-0000")
    losses = [fold.read_table("predictions.parquet")["loss"].mean() for fold in run.folds]
    assert len(losses) == 3
    assert tuned.trials[0].value == pytest.approx(sum(losses) / 3)  # type: ignore[arg-type]
    told = run.read_json("metrics.json")
    assert "pooled" not in told
    assert "does not look at its test clips" in told["notes"][0]
    assert build(run.path)
    assert evaluate(run)["num_clips"] == 36
    words = ["train", str(run.path / "recipe.yaml"), "--resume", "--out", str(run.path)]
    resumed = CliRunner().invoke(app, words)
    assert "validation clips only; harken evaluate measures" in resumed.output
    assert resumed.exit_code == 0
    some = tune(recipe, tmp_path / "some", trials=1, folds="2")
    assert [f.path.name for f in RunFolder(tmp_path / "some/trial-0000").folds] == ["fold-2"]
    assert some.trials[0].value == pytest.approx(losses[1])
    with pytest.raises(RunError, match="folds"):
        tune(recipe, tmp_path / "some", trials=2)


def test_the_least_loss_is_the_best(clips: Path, tmp_path: Path) -> None:
    tuned = tune(recipe_of(clips, search={"metric": "loss"}), tmp_path, trials=3)
    assert tuned.metric == "loss"
    values = [trial.value for trial in tuned.trials]
    assert tuned.best is not None
    assert tuned.best.value == min(v for v in values if v is not None)
    best = read_recipe([tmp_path / "best.yaml"])
    assert best.optimizer.lr == tuned.best.values["optimizer.lr"]


def test_a_bad_trial_is_broken_off(clips: Path, tmp_path: Path) -> None:
    """The grid's last learning rate is far too small to learn anything."""
    parameters = {"optimizer.lr": {"kind": "categorical", "choices": [0.03, 0.02, 0.01, 1e-9]}}
    pruner = {"kind": "median", "warmup_epochs": 2, "startup_trials": 3}
    search = {"sampler": "grid", "pruner": pruner, "metric": "loss"}
    recipe = recipe_of(clips, parameters, train={"epochs": 8, "batch_size": 6}, search=search)
    tuned = tune(recipe, tmp_path)
    assert [trial.state for trial in tuned.trials] == ["complete"] * 3 + ["pruned"]
    run = RunFolder(tmp_path / "trial-0003")
    assert len(run.read_text("metrics.jsonl").splitlines()) == 3
    assert not run.has("metrics.json")
    assert trial_file(tmp_path, 3)["state"] == "pruned"
    assert trial_file(tmp_path, 3)["value"] is None
    # It is an ordinary run that was interrupted.
    whole = train(read_recipe([run.path / "recipe.yaml"]), run.path, resume=True)
    assert len(whole.read_text("metrics.jsonl").splitlines()) == 8


def test_pruning_counts_the_epochs_of_all_folds(clips: Path, tmp_path: Path) -> None:
    parameters = {"optimizer.lr": {"kind": "categorical", "choices": [0.03, 1e-9]}}
    pruner = {"kind": "median", "warmup_epochs": 3, "startup_trials": 1}
    search = {"sampler": "grid", "pruner": pruner, "metric": "loss"}
    train = {"epochs": 3, "batch_size": 6}
    recipe = recipe_of(clips, parameters, folds=True, train=train, search=search)
    tuned = tune(recipe, tmp_path)
    assert [trial.state for trial in tuned.trials] == ["complete", "pruned"]
    run = RunFolder(tmp_path / "trial-0001")
    assert run.fold("1").has("metrics.json")
    assert len(run.fold("2").read_text("metrics.jsonl").splitlines()) == 1
    steps = tune(recipe, tmp_path) and _intermediate(tmp_path)
    assert [sorted(each) for each in steps] == [list(range(1, 10)), [1, 2, 3, 4]]
    rows = [
        json.loads(line)["valid_loss"]
        for name in "12"
        for line in (tmp_path / f"trial-0000/fold-{name}/metrics.jsonl").read_text().splitlines()
    ]
    assert steps[0][3] == pytest.approx(min(rows[:3]))
    assert steps[0][5] == pytest.approx((min(rows[:3]) + min(rows[3:5])) / 2)


def _intermediate(folder: Path) -> list[dict[int, float]]:
    import optuna

    journal = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    storage = optuna.storages.JournalStorage(journal)
    study = optuna.load_study(study_name=folder.name, storage=storage)
    return [trial.intermediate_values for trial in study.trials]


def test_a_trial_that_cannot_be_trained_is_noted(clips: Path, tmp_path: Path) -> None:
    parameters = {"optimizer.lr": {"kind": "categorical", "choices": [1e30, 0.01, 1e25]}}
    optimizer = {"kind": "sgd"}
    train = {"epochs": 2, "batch_size": 6}
    search = {"sampler": "grid"}
    recipe = recipe_of(clips, parameters, optimizer=optimizer, train=train, search=search)
    tuned = tune(recipe, tmp_path)
    assert [trial.state for trial in tuned.trials] == ["failed", "complete", "failed"]
    assert "not finite" in (tuned.trials[0].error or "")
    assert "not finite" in trial_file(tmp_path, 0)["error"]
    assert tuned.best == tuned.trials[1]


def test_the_same_mistake_three_times_ends_the_search(clips: Path, tmp_path: Path) -> None:
    parameters = {"optimizer.lr": {"kind": "float", "low": 1e28, "high": 1e30, "log": True}}
    train = {"epochs": 2, "batch_size": 6}
    recipe = recipe_of(clips, parameters, optimizer={"kind": "sgd"}, train=train)
    with pytest.raises(HarkenError, match=r"first 3 trials all failed: .*not finite") as caught:
        tune(recipe, tmp_path, trials=10)
    assert "optimizer.lr" in str(caught.value)
    assert len(list(tmp_path.glob("trial-*"))) == 3


class Breaks:
    """Stands in for a fold's training, and fails as told."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.train_fold = error, verb.train_fold

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise self.error


def test_no_memory_is_a_failure_of_the_trial(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(clips)
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()):
        monkeypatch.setattr(verb, "train_fold", Breaks(error))
        number = len(list(tmp_path.glob("trial-*")))
        trials = tune(recipe, tmp_path, trials=number + 1).trials
        assert trials[-1].error is not None
        assert trials[-1].error.startswith("out of memory → a smaller train.batch_size")
    monkeypatch.setattr(verb, "train_fold", Breaks(RuntimeError("a bug of ours")))
    with pytest.raises(RuntimeError, match="a bug of ours"):
        tune(recipe, tmp_path, trials=3)
    monkeypatch.undo()
    states = [trial.state for trial in tune(recipe, tmp_path, trials=4).trials]
    assert states == ["failed"] * 3 + ["complete"]


@pytest.mark.parametrize("kind", ["disk", "store"])
def test_what_a_full_disk_or_a_store_broke_off_is_taken_up(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It is no failure of the trial, and would be one of all that follow."""
    recipe = recipe_of(clips)
    tune(recipe, tmp_path, trials=1)
    error: RunError = StoreError("the store cannot be reached", where="gs://b/x")
    if kind == "disk":
        error = RunError("cannot write this file: the disk is full")
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(verb, "train_fold", Breaks(error))
    with pytest.raises(type(error), match=error.message):
        tune(recipe, tmp_path, trials=5)
    monkeypatch.undo()
    done = tune(recipe, tmp_path, trials=2)
    assert [trial.state for trial in done.trials] == ["complete"] * 2


def test_the_best_recipe_is_kept_though_a_kill_came_before_it(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(clips, search={"metric": "loss"})
    monkeypatch.setattr(verb._Session, "_keep_best", lambda *args: None)
    tuned = tune(recipe, tmp_path, trials=1)
    assert not (tmp_path / "best.yaml").exists()
    monkeypatch.undo()
    tune(recipe, tmp_path, trials=1)
    best = read_recipe([tmp_path / "best.yaml"])
    assert best.optimizer.lr == tuned.trials[0].values["optimizer.lr"]


@pytest.mark.parametrize("error", [StoppedError("stopped"), KeyboardInterrupt()])
def test_what_was_stopped_is_taken_up(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    recipe = recipe_of(clips)
    monkeypatch.setattr(verb, "train_fold", Breaks(error))
    tuned = tune(recipe, tmp_path, trials=2)
    assert tuned.stopped
    assert [trial.state for trial in tuned.trials] == ["running"]
    assert trial_file(tmp_path, 0)["state"] == "running"
    monkeypatch.undo()
    done = tune(recipe, tmp_path, trials=1)
    assert [trial.state for trial in done.trials] == ["complete"]
    assert done.trials[0].values == tuned.trials[0].values


def test_the_audio_is_decoded_once(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Recipe] = []
    real = verb.prepare
    monkeypatch.setattr(
        verb, "prepare", lambda recipe, told: [prepared.append(recipe), real(recipe, told)][1]
    )
    tune(recipe_of(clips), tmp_path / "a", trials=3)
    assert len(prepared) == 1
    seconds = {"kind": "categorical", "choices": [0.25, 0.5]}
    other = recipe_of(clips, {"audio.clip_seconds": seconds}, search={"sampler": "grid"})
    tuned = tune(other, tmp_path / "b")
    assert [recipe.audio.clip_seconds for recipe in prepared[1:]] == [0.5, 0.25, 0.5]
    assert [trial.state for trial in tuned.trials] == ["complete"] * 2


def test_data_may_be_searched_too(clips: Path, tmp_path: Path) -> None:
    some = {"kind": "categorical", "choices": [{}, {"label": ["low", "high"]}]}
    tune(recipe_of(clips, {"data.source.where": some}, search={"sampler": "grid"}), tmp_path)
    files = [tmp_path / f"trial-000{number}/splits.parquet" for number in (0, 1)]
    assert [len(pl.read_parquet(file)) for file in files] == [36, 24]


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"metric": "acuracy"}, "search.metric: there is no metric 'acuracy', did you mean"),
        ({"metric": "mae"}, "there is no metric 'mae'"),
    ],
)
def test_metrics_that_are_not_there(
    clips: Path, tmp_path: Path, over: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        tune(recipe_of(clips, search=over), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_search_wants_validation_clips_and_something_to_search(
    clips: Path, tmp_path: Path
) -> None:
    data = recipe_of(clips).data.model_dump()
    data["split"] = {"kind": "fold", "column": "fold", "valid": 0}
    recipe = recipe_of(clips, data=data, train={"epochs": 1, "keep": "last"})
    with pytest.raises(ConfigError, match="this split has none"):
        tune(recipe, tmp_path / "s")
    with pytest.raises(ConfigError, match="says nothing to search"):
        tune(recipe.model_copy(update={"search": None}), tmp_path / "s")


def test_trials_may_lie_in_a_bucket(clips: Path, tmp_path: Path) -> None:
    out: Any = f"memory://tune-{os.getpid()}/s"
    study = str(tmp_path / "study.journal")
    tuned = tune(recipe_of(clips), out, trials=1, study=study)
    assert tuned.best is not None
    assert len(tune(recipe_of(clips), out, trials=2).trials) == 2
    assert evaluate(f"{out}/trial-0000")["num_clips"] == 12


# --- several processes, and kills ---

RUN = """
import sys
import time
import torch
from harken.recipe import read_recipe
from harken.trainer import Trainer
from harken.verbs.tune import tune

torch.set_num_threads(1)
real = Trainer._finish_epoch

def finish_and_wait(self):
    real(self)
    if self.progress.epoch == 3:
        print("in the middle", flush=True)
        time.sleep(1000)

Trainer._finish_epoch = finish_and_wait
tune(read_recipe([sys.argv[1]]), sys.argv[2], trials=2)
"""


def rows(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def test_two_processes_one_of_them_killed(clips: Path, tmp_path: Path) -> None:
    """What is finished stays, and what was under way goes on from where it stood."""
    recipe, out = recipe_of(clips, train={"epochs": 6, "batch_size": 12}), tmp_path / "s"
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    command = [sys.executable, "-c", RUN, str(tmp_path / "r.yaml"), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in the middle\n"
        meanwhile = tune(recipe, out, trials=2)
        assert [trial.state for trial in meanwhile.trials] == ["running", "complete"]
        other.send_signal(signal.SIGKILL)
    left, done = out / "trial-0000", out / "trial-0001"
    begun, finished = rows(left), (done / "metrics.json").read_bytes()
    assert len(begun) == 3
    assert trial_file(out, 0)["state"] == "running"
    tuned = tune(recipe, out, trials=2)
    assert [trial.state for trial in tuned.trials] == ["complete"] * 2
    assert rows(left)[:3] == begun
    assert len(rows(left)) == 6
    assert (done / "metrics.json").read_bytes() == finished
    whole = tune(recipe, tmp_path / "whole", trials=2)
    assert [t.values for t in tuned.trials] == [t.values for t in whole.trials]
    for trial in whole.trials:
        first, second = (
            load_file(folder / trial.name / "model.safetensors")
            for folder in (out, tmp_path / "whole")
        )
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_request_to_stop_is_met_within_an_epoch(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(clips, train={"epochs": 50, "batch_size": 6})
    real = Trainer._finish_epoch

    def finish_and_stop(self: Trainer) -> None:
        real(self)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_finish_epoch", finish_and_stop)
    tuned = tune(recipe, tmp_path, trials=2)
    assert tuned.stopped
    assert len((tmp_path / "trial-0000/metrics.jsonl").read_text().splitlines()) == 1


# --- the command ---


def test_the_command(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(
        dump_recipe(
            recipe_of(
                clips,
                {
                    "optimizer.lr": LR,
                    "pooling": {"kind": "categorical", "choices": ["mean", "max"]},
                },
            )
        )
    )
    words = ["tune", "r.yaml", "search.sampler=random", "--search.metric=loss", "--out", "t"]
    done = CliRunner().invoke(app, [*words, "--trials", "2", "--name", "mine"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("trial 0  ")
    assert "best" in lines[1]
    assert "optimizer.lr=" in lines[1]
    assert "2 trials: 2 complete" in lines
    number = read_number(lines)
    assert f"measure it on test clips: harken evaluate t/trial-000{number}" in lines
    assert "train it anew: harken train t/best.yaml --out runs/best" in lines
    assert json.loads(Path("t/study.json").read_text())["name"] == "mine"
    more = CliRunner().invoke(app, [*words, "--trials", "3", "--study", "sqlite:///s.db"])
    assert isinstance(more.exception, RunError)
    assert CliRunner().invoke(app, [*words, "--trials", "3", "--timeout", "0"]).exit_code == 0
    assert len(list(Path("t").glob("trial-*"))) == 2


def read_number(lines: list[str]) -> int:
    line = next(line for line in lines if line.startswith("best: trial "))
    return int(line.removeprefix("best: trial ").partition(",")[0])


def test_the_command_tells_how_to_go_on(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(dump_recipe(recipe_of(clips, folds=True)))
    monkeypatch.setattr(verb, "train_fold", Breaks(KeyboardInterrupt()))
    stopped = CliRunner().invoke(app, ["tune", "r.yaml", "--folds", "1", "--trials", "2"])
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.output
    assert Path("runs/tune/study.journal").exists()
