from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harken.errors import ConfigError
from harken.recipe import dump_recipe
from harken.verbs.side_by_side import share_threads
from harken.verbs.train import train
from test_trainer import tiny_recipe


def test_folds_side_by_side_are_the_folds_one_by_one(tiny_table: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = train(tiny_recipe(tiny_table), tmp_path / "one")
        two = train(tiny_recipe(tiny_table), tmp_path / "two", jobs=2)
    finally:
        torch.set_num_threads(threads)
    assert [fold.path.name for fold in two.folds] == ["fold-1", "fold-2", "fold-3"]
    for first, second in zip(one.folds, two.folds, strict=True):
        mine, theirs = (load_file(f.path / "model.safetensors") for f in (first, second))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert one.read_json("metrics.json") == two.read_json("metrics.json")


def test_folds_left_over_share_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert share_threads(list("abcde"), 2) == dict.fromkeys("abcd", 4) | {"e": 8}
    assert share_threads(list("abcde"), 3) == dict.fromkeys("abc", 2) | dict.fromkeys("de", 4)
    assert share_threads(list("abcd"), 2) == dict.fromkeys("abcd", 4)
    assert share_threads(list("ab"), 16) == dict.fromkeys("ab", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert share_threads(list("abc"), 2) == dict.fromkeys("abc", 1)


def test_folds_side_by_side_meet_in_a_bucket(s3_bucket: str, tiny_table: Path) -> None:
    """What the processes of folds upload is seen by the one that sums them up."""
    recipe = tiny_recipe(tiny_table, train={"epochs": 1, "batch_size": 12}, mix=None)
    run = train(recipe, f"{s3_bucket}/run", folds="1,3", jobs=2)
    assert [fold.path.name for fold in run.folds] == ["fold-1", "fold-3"]
    assert [fold["name"] for fold in run.read_json("metrics.json")["folds"]] == ["1", "3"]
    assert len(run.read_table("predictions.parquet")) == 24


def test_what_stops_a_fold_is_told(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_table, train={"epochs": 1, "monitor": "acuracy"})
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        train(recipe, tmp_path / "run", jobs=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_of_folds_end_with_their_parent(
    tiny_table: Path, tmp_path: Path, number: signal.Signals
) -> None:
    path, run = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(dump_recipe(tiny_recipe(tiny_table, train={"epochs": 2000, "batch_size": 5})))
    words = ["train", str(path), "--out", str(run), "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "harken", *words],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    logs = [run / f"fold-{name}" / "metrics.jsonl" for name in (1, 2)]
    end = time.monotonic() + 120
    while not all(log.exists() for log in logs) and time.monotonic() < end:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) != 0
    time.sleep(1)
    lengths = [len(log.read_text()) for log in logs]
    time.sleep(1.5)
    assert [len(log.read_text()) for log in logs] == lengths
    if number == signal.SIGTERM:
        assert process.stderr
        assert b"--resume" in process.stderr.read()
