from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from harken.errors import ConfigError
from harken.storage import read_bytes
from harken.track import Silent
from harken.trainer import StoppedError
from harken.verbs.side_by_side import share_threads, train_side_by_side
from harken.verbs.train import open_run, ready, train
from test_trainer import tiny_recipe


def test_folds_side_by_side_in_a_bucket_are_the_folds_one_by_one(
    s3_bucket: str, tiny_table: Path, tmp_path: Path
) -> None:
    """What the processes of folds upload is seen, too, by the one that sums them up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = train(tiny_recipe(tiny_table), tmp_path / "one")
        two = train(tiny_recipe(tiny_table), f"{s3_bucket}/two", jobs=2)
    finally:
        torch.set_num_threads(threads)
    assert [fold.path.name for fold in two.folds] == ["fold-1", "fold-2", "fold-3"]
    for first, second in zip(one.folds, two.folds, strict=True):
        mine, theirs = (load(read_bytes(f.path / "model.safetensors")) for f in (first, second))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert one.read_json("metrics.json") == two.read_json("metrics.json")
    assert len(two.read_table("predictions.parquet")) == 36


def test_folds_left_over_share_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert share_threads(list("abcde"), 2) == dict.fromkeys("abcd", 4) | {"e": 8}
    assert share_threads(list("abcde"), 3) == dict.fromkeys("abc", 2) | dict.fromkeys("de", 4)
    assert share_threads(list("abcd"), 2) == dict.fromkeys("abcd", 4)
    assert share_threads(list("ab"), 16) == dict.fromkeys("ab", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert share_threads(list("abc"), 2) == dict.fromkeys("abc", 1)


def test_what_stops_a_fold_is_told(tiny_table: Path, tmp_path: Path) -> None:
    weights = {"kind": "cross_entropy", "class_weights": {"lo": 2}}
    recipe = ready(tiny_recipe(tiny_table, loss=weights))
    run = open_run(recipe, tmp_path / "run", resume=False, overwrite=False)
    with pytest.raises(ConfigError, match="did you mean 'low'"):
        train_side_by_side(run, {"1": 1}, 1, Silent())


def test_folds_that_are_asked_to_end_save_and_end(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_table, train={"epochs": 2000, "batch_size": 5})
    logs = [tmp_path / "run" / f"fold-{name}" / "metrics.jsonl" for name in (1, 2)]
    assert threading.current_thread() is threading.main_thread()  # only it hears signals
    over = threading.Event()

    def ask() -> None:
        end = time.monotonic() + 300
        while not all(log.exists() for log in logs) and time.monotonic() < end:
            if over.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(StoppedError, match=r"everything is saved.*--resume"):
            train(recipe, tmp_path / "run", folds="1,2", jobs=2)
    finally:
        over.set()
        asking.join()
    assert not multiprocessing.active_children()
    assert all((log.parent / "last" / "state.safetensors").exists() for log in logs)


def test_the_process_of_a_fold_ends_where_its_parent_is_killed(
    tiny_table: Path, tmp_path: Path
) -> None:
    run, script = tmp_path / "run", tmp_path / "parent.py"
    recipe = ready(tiny_recipe(tiny_table, train={"epochs": 2000, "batch_size": 5}))
    open_run(recipe, run, resume=False, overwrite=False)
    script.write_text(
        "import sys\n"
        "from harken.checkpoint import RunFolder\n"
        "from harken.track import Silent\n"
        "from harken.verbs.side_by_side import train_side_by_side\n"
        "if __name__ == '__main__':\n"
        "    train_side_by_side(RunFolder.open(sys.argv[1]), {'1': 1}, 1, Silent())\n"
    )
    parent = subprocess.Popen([sys.executable, script, run], stderr=subprocess.PIPE)
    log = run / "fold-1" / "metrics.jsonl"
    end = time.monotonic() + 300
    while not log.exists() and time.monotonic() < end:
        assert parent.poll() is None, parent.stderr and parent.stderr.read().decode()
        time.sleep(0.05)
    parent.kill()
    parent.wait(60)
    length = -1
    while len(log.read_text()) != length and time.monotonic() < end:
        length = len(log.read_text())
        time.sleep(1.5)
    assert len(log.read_text()) == length
    assert not (run / "fold-1" / "metrics.json").exists()
