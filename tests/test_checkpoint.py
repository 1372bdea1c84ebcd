from __future__ import annotations

import errno
import json
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from harken import checkpoint
from harken.checkpoint import Progress, RunFolder
from harken.errors import RunError


def new_run(path: Path) -> RunFolder:
    run = RunFolder.create(path)
    run.write_text("recipe.yaml", "seed: 1\n")
    return run


def trained(steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    new_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"exists already.*--overwrite"):
        RunFolder.create(tmp_path / "run")
    fresh = RunFolder.create(tmp_path / "run", overwrite=True)
    assert not list(fresh.path.iterdir())


def test_overwriting_spares_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("x")
    with pytest.raises(RunError, match="no run folder"):
        RunFolder.create(tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "me.jpg").exists()


def test_opening_nothing_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        RunFolder.open(tmp_path / "none")


def test_folds_come_in_order(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for name in ("10", "2", "1"):
        new_run(run.fold(name).path)
    assert [fold.path.name for fold in run.folds] == ["fold-1", "fold-2", "fold-10"]
    assert run.fold("") == run


def test_undefined_numbers_become_null(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.write_json("x.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": ("ä", None)})
    assert run.read_json("x.json") == {"a": None, "b": [None, 1.5], "c": ["ä", None]}
    run.write_history([{"epoch": 1, "loss": float("nan")}, {"epoch": 2, "loss": 0.5}])
    lines = run.read_text("metrics.jsonl").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [None, 0.5]


def test_missing_and_damaged_files_are_one_error(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"metrics.json is missing"):
        run.read_json("metrics.json")
    run.write_text("metrics.json", "{")
    with pytest.raises(RunError, match=r"metrics.json is damaged"):
        run.read_json("metrics.json")
    with pytest.raises(RunError, match="missing"):
        run.read_table("predictions.parquet")
    with pytest.raises(RunError, match="no weights yet"):
        run.load_weights(nn.Linear(1, 1))
    (run.path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="damaged"):
        run.load_weights(nn.Linear(1, 1))


def test_tables_and_weights_come_back(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    frame = pl.DataFrame({"id": ["a", "b"], "score_x": [0.5, None]})
    run.write_table("predictions.parquet", frame)
    assert run.read_table("predictions.parquet").equals(frame)
    model, _ = trained()
    run.save_weights(model.state_dict())
    other, _ = trained(0)
    run.load_weights(other)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_weights_of_another_recipe_are_refused_by_name(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.save_weights(trained()[0].state_dict())
    with pytest.raises(RunError, match=r"another recipe: .*weight"):
        run.load_weights(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_state_comes_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    run = new_run(tmp_path / "run")
    model, optimizer = trained()
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model(torch.randn(8, 3)).sum().backward()
        optimizer.step()
    progress = Progress(
        epoch=2, batch=3, step=17, best=0.1 + 0.2, history=[{"epoch": 1, "x": 1e-17}]
    )
    average = {"0.weight": torch.rand(4, 3)}
    run.save_state(progress, model, optimizer, average)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    again = type(optimizer)(other.parameters(), lr=1.0)
    found, ema = run.load_state(other, again)
    assert found == progress
    assert torch.equal(ema["0.weight"], average["0.weight"])
    mine, theirs = optimizer.state_dict(), again.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    for index, slots in mine["state"].items():
        for name, value in slots.items():
            same = theirs["state"][index][name]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path / "run")
    model, optimizer = trained()
    run.save_state(Progress(epoch=1), model, optimizer, None)

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match=r"disk is full"):
        run.save_state(Progress(epoch=2), model, optimizer, None)
    monkeypatch.undo()
    assert run.load_state(model, optimizer)[0].epoch == 1
    assert [p.name for p in (run.path / "last").iterdir()] == ["state.safetensors"]
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match=r"disk is full"):
        run.write_text("recipe.yaml", "seed: 2\n")
    assert run.read_text("recipe.yaml") == "seed: 1\n"


def test_nothing_in_the_state_needs_harken(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    model, optimizer = trained()
    run.save_state(Progress(), model, optimizer, None)
    names = load_file(run.path / "last" / "state.safetensors")
    assert {"model/0.weight", "optimizer/0/exp_avg"} <= set(names)
