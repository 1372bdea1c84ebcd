from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from harken.standings import Run, rank_runs
from harken.verbs.legacy_scores import find_trials, read_trial
from many_runs import MULTI, SIGNS, predictions, write_run
from test_legacy_names import name_of


def write_trial(
    folder: Path, *, seed: int = 0, stem: str = "amr_5_adamw_epoch1_x_clf1_Final", aucs: bool = True
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Write a trial as 001 left it: logits, targets of 0 and 1, and `aucs.csv`."""
    rng = np.random.default_rng(seed)
    target = (np.random.default_rng(9).random((50, 3)) < 0.4).astype(np.float32)
    logits = (3 * target + 2 * rng.standard_normal(target.shape)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(logits), folder / f"{stem}_predictions.pt")
    torch.save(torch.from_numpy(target), folder / f"{stem}_targets.pt")
    if aucs:
        lines = [f"{name},0.0" for name in SIGNS]  # wrong numbers, which nobody may take
        (folder / "aucs.csv").write_text("\n".join(["Label,AUC", *lines]))
    return logits, target


def read(place: Path | str, metric: str | None = None) -> Run:
    (trial,) = find_trials([place])
    return read_trial(trial, metric)


def test_a_trial_has_its_areas_and_the_settings_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / name_of(lr=1e-05, dataset="my_set", norm=True)
    logits, target = write_trial(folder)
    run = read(tmp_path)
    expected = {n: roc_auc_score(target[:, i], logits[:, i]) for i, n in enumerate(SIGNS)}
    assert run.values == pytest.approx(expected)
    assert (run.name, run.task, run.split, run.num_clips) == (folder.name, "multi", "test", 50)
    assert run.settings["optimizer.lr"] == 1e-05
    assert run.settings["heads.layer_norm"] is True
    assert run.settings["legacy.dataset"] == "my_set"
    assert not run.is_whole


def test_clips_without_targets_are_left_out_as_001_left_them_out_of_predictions(
    tmp_path: Path,
) -> None:
    logits, target = write_trial(tmp_path / name_of())
    longer = np.insert(target, [3, 10], np.nan, axis=0)
    (path,) = tmp_path.rglob("*_targets.pt")
    torch.save(torch.from_numpy(longer), path)
    assert read(tmp_path).values["slow"] == pytest.approx(roc_auc_score(target[:, 2], logits[:, 2]))
    torch.save(torch.from_numpy(target[:40]), path)
    run = read(tmp_path)
    assert run.state == "broken"
    assert "(50, 3)" in run.reason
    assert "(40, 3)" in run.reason


def test_labels_are_numbered_where_nothing_names_them(tmp_path: Path) -> None:
    write_trial(tmp_path / name_of(), aucs=False)
    assert list(read(tmp_path).values) == ["label 1", "label 2", "label 3"]
    (tmp_path / name_of() / "aucs.csv").write_text("Label,AUC\na,1\n")
    assert "aucs.csv names 1 labels" in read(tmp_path).reason


def test_a_one_sided_label_has_no_number(tmp_path: Path) -> None:
    _, target = write_trial(tmp_path / name_of())
    (path,) = tmp_path.rglob("*_targets.pt")
    target[:, 1] = 0
    torch.save(torch.from_numpy(target), path)
    run = read(tmp_path)
    assert run.values["rough voice"] is None
    assert run.values["slow"] is not None


def test_other_metrics(tmp_path: Path) -> None:
    write_trial(tmp_path / name_of())
    assert set(read(tmp_path, "average_precision").values) == set(SIGNS)
    assert list(read(tmp_path, "lwlrap").values) == [""]
    assert "have no mae" in read(tmp_path, "mae").reason


class Runs:
    """What pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/harken-was-run"),))


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    write_trial(tmp_path / name_of())
    (path,) = tmp_path.rglob("*_predictions.pt")
    torch.save(Runs(), path)
    run = read(tmp_path)
    assert run.state == "broken"
    assert "holds more than a tensor, or is damaged" in run.reason
    assert "weights_only" not in run.reason
    assert not Path("/tmp/harken-was-run").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"nothing at all"])
def test_damaged_files_are_a_reason(tmp_path: Path, content: bytes) -> None:
    write_trial(tmp_path / name_of())
    (path,) = tmp_path.rglob("*_targets.pt")
    path.write_bytes(content)
    assert read(tmp_path).state == "broken"


@pytest.mark.parametrize("value", [{"a": torch.ones(3)}, torch.ones(0), torch.ones(2, 2, 2)])
def test_files_that_hold_no_table_are_a_reason(tmp_path: Path, value: Any) -> None:
    write_trial(tmp_path / name_of())
    (path,) = tmp_path.rglob("*_predictions.pt")
    torch.save(value, path)
    assert "no table of numbers" in read(tmp_path).reason


def test_other_formats_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / name_of()
    folder.mkdir()
    (folder / "x_predictions.csv").write_text("1,2\n")
    (folder / "x_targets.csv").write_text("1,2\n")
    run = read(tmp_path)
    assert run.state == "broken"
    assert "x_predictions.csv is no .pt file" in run.reason
    assert "torch.save" in run.reason


def test_a_trial_without_its_files_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / name_of()
    write_trial(folder)
    (target,) = folder.glob("*_targets.pt")
    target.unlink()
    assert read(tmp_path).reason == "no file of targets"
    for path in folder.glob("*_predictions.pt"):
        path.unlink()
    assert read(tmp_path).reason == "no file of predictions"
    assert read(tmp_path).settings["optimizer.lr"] == 0.001


def test_several_models_in_one_folder_are_several_trials(tmp_path: Path) -> None:
    stems = [f"amr_5_adamw_epoch{n}_x_clf1_Final" for n in (1, 2)]
    for stem in stems:
        write_trial(tmp_path / "experiments", stem=stem)
    runs = [read_trial(trial, None) for trial in find_trials([tmp_path])]
    assert [run.name for run in runs] == [f"experiments/{stem}" for stem in stems]
    assert [run.settings["train.epochs"] for run in runs] == [1, 2]
    assert all(run.state == "ranked" for run in runs)


def test_a_folder_of_another_name_is_ranked_without_settings(tmp_path: Path) -> None:
    write_trial(tmp_path / "mine", stem="out")
    run = read(tmp_path)
    assert run.state == "ranked"
    assert run.settings == {}
    assert "none of 001's" in run.notes[0]


def test_words_that_are_not_understood_are_told(tmp_path: Path) -> None:
    write_trial(tmp_path / f"{name_of()}_again")
    assert "'again'" in read(tmp_path).notes[0]


def test_run_folders_are_none_of_them(tmp_path: Path) -> None:
    write_run(tmp_path / "run", predictions(MULTI, 1.0), MULTI)
    assert find_trials([tmp_path]) == []


def test_trials_in_a_bucket(tmp_path: Path) -> None:
    write_trial(tmp_path / name_of())
    fs = fsspec.filesystem("memory")
    fs.put(f"{tmp_path}/", "/old/", recursive=True)
    assert read("memory://old").values == read(tmp_path).values
    fs.rm("/old", recursive=True)


def test_trials_and_runs_of_the_same_labels_are_ranked_together(tmp_path: Path) -> None:
    write_trial(tmp_path / name_of())
    old = read(tmp_path)
    mine = Run("mine", "x", values=dict.fromkeys(SIGNS, 0.5), metric="roc_auc", task="multi")
    from dataclasses import replace

    rows = rank_runs([replace(mine, split="test"), old], "test").rows
    assert [row.run.name for row in rows] == [name_of(), "mine"]
    assert [row.rank for row in rows] == [1, 2]
