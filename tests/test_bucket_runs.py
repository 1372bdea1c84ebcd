"""Run folders in buckets: the same runs as in folders, whatever is killed and whenever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file

import harken
from bucket_servers import FaultProxy, make_bucket, point_at
from conftest import write_tiny_table
from harken import storage
from harken.checkpoint import RunFolder
from harken.errors import HarkenError, RunError
from harken.recipe import Recipe, dump_recipe
from harken.report.page import build
from harken.storage import Url
from harken.verbs.embed import embed
from harken.verbs.evaluate import evaluate
from harken.verbs.train import train
from test_cli import invoke
from test_trainer import tiny_recipe

STATE = "last/state.safetensors"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The arithmetic of processes with OMP_NUM_THREADS=1."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that this process writes without being asked: cache, temporary files, working folder."""
    disk = tmp_path / "disk"
    for name in ("cache", "tmp", "cwd"):
        (disk / name).mkdir(parents=True)
    monkeypatch.setenv("HARKEN_CACHE", str(disk / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
    monkeypatch.chdir(disk / "cwd")
    return disk


def short(table: Path, **over: Any) -> Recipe:
    return tiny_recipe(table, train={"epochs": 2, "batch_size": 12, "ema": 0.9, **over}, mix=None)


def files(folder: object) -> dict[str, bytes]:
    """What a run folder holds, by name, without what tells times."""
    base = str(folder)
    names = [name[len(base) + 1 :] for name in storage.list_files(base)]
    return {
        name: storage.read_bytes(storage.join(base, name))
        for name in names
        if not name.endswith(("environment.json", "metrics.jsonl", STATE))
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny/clips.csv` and a run on it, `run`."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARKEN_CACHE", str(folder / "cache"))
        train(short(write_tiny_table(folder / "tiny")), folder / "run", folds="1")
    return folder


def test_a_run_in_a_bucket_is_the_run_of_a_folder(bucket: str, here: Path, own_disk: Path) -> None:
    local, url = here / "run", f"{bucket}/runs/a"
    run = train(short(here / "tiny/clips.csv"), url, folds="1")
    assert run.path == Url(url)
    assert files(url) == files(local)
    assert run.folds[0].has_state
    left = [str(p.relative_to(own_disk)) for p in own_disk.rglob("*") if p.is_file()]
    assert [name for name in left if not name.startswith(("cache/pcm", "cache/audio"))] == []
    clip = str(here / "tiny/low_0_0.wav")
    assert harken.load(url).predict([clip]).equals(harken.load(local).predict([clip]))
    assert evaluate(url)["metrics"] == evaluate(local)["metrics"]
    assert build(url) == Url(f"{url}/report.html")
    assert b"balanced accuracy" in storage.read_bytes(f"{url}/report.html").lower()
    embed(url, f"{url}/e.parquet", fold="1", part_rows=10)
    embed(local, here / "e.parquet", fold="1", overwrite=True)
    made = pl.read_parquet(storage.local_copy(f"{url}/e.parquet"))
    assert made.equals(pl.read_parquet(here / "e.parquet"))


def upload(folder: Path, url: str) -> None:
    for file in storage.list_files(folder):
        content = Path(file).read_bytes()
        storage.write_atomic(storage.join(url, Path(file).relative_to(folder).as_posix()), content)


class Killed(BaseException):
    """What a process that is killed does not survive."""


class Mortal(dict[str, Any]):
    """What memory:// holds; dies at the n-th file that is written."""

    left = -1

    def __setitem__(self, name: str, value: Any) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().__setitem__(name, value)


def test_killed_at_any_upload_it_resumes_to_the_same_bits(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Mortal()
    monkeypatch.setattr(MemoryFileSystem, "store", store)
    recipe, expected = short(here / "tiny/clips.csv"), files(here / "run")
    for number in range(3, 60, 4):
        url, store.left = f"memory://b/{number}", number
        try:
            train(recipe, url, folds="1")
            break
        except Killed:
            store.left = -1
        assert files(train(recipe, url, folds="1", resume=True).path) == expected
    else:
        raise AssertionError("it never came to the end")
    assert number > 20


def test_a_run_that_is_half_removed_is_still_a_run(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://half/run"
    upload(here / "run", url)
    removed: list[str] = []

    def remove(store: MemoryFileSystem, path: str) -> None:
        if len(removed) == 15:
            raise Killed
        removed.append(path)
        store.store.pop(path)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "rm_file", remove)
        with pytest.raises(Killed):
            RunFolder.create(url, overwrite=True)
    assert {"/half/run/fold-1/recipe.yaml", "/half/run/environment.json"} <= set(removed)
    RunFolder.create(url, overwrite=True)
    assert not storage.exists(url)


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "harken", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


class DeadlyProxy(FaultProxy):
    """Kills a process in the middle of one of its uploads."""

    process: subprocess.Popen[bytes]
    uploads_left = 20

    def next_fault(self, method: str, path: str) -> Any:
        if method in ("POST", "PUT") and "/upload" in path:
            self.uploads_left -= 1
            if self.uploads_left == 0:
                self.process.send_signal(signal.SIGKILL)
                self.cut_uploads(match=path)
        return super().next_fault(method, path)


@pytest.mark.usefixtures("one_thread")
def test_a_process_killed_in_an_upload_resumes_to_the_same_bits(
    gcs_address: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = short(here / "tiny/clips.csv", epochs=6, checkpoint_minutes=0.0001)
    bucket = make_bucket("gs", gcs_address)
    with DeadlyProxy(gcs_address) as proxy:
        point_at(monkeypatch, "gs", proxy.url)
        storage.write_atomic(f"{bucket}/recipe.yaml", dump_recipe(recipe))
        words = ["train", f"{bucket}/recipe.yaml", "--out", f"{bucket}/run", "--folds", "1"]
        proxy.process = start(*words)
        proxy.process.wait(300)
    point_at(monkeypatch, "gs", gcs_address)
    assert proxy.process.returncode == -signal.SIGKILL
    run = RunFolder.open(f"{bucket}/run")
    assert run.folds[0].has_state
    assert not run.folds[0].has("metrics.json")
    invoke(*words, "--resume")
    whole = train(recipe, tmp_path / "whole", folds="1")
    assert files(run.path / "fold-1") == files(whole.path / "fold-1")


def test_what_is_there_is_not_overwritten(bucket: str, here: Path) -> None:
    recipe, url = short(here / "tiny/clips.csv"), f"{bucket}/runs/a"
    with pytest.raises(RunError, match="there is no run here"):
        train(recipe, url, resume=True)
    upload(here / "run", url)
    with pytest.raises(RunError, match="exists already"):
        train(recipe, url)
    with pytest.raises(RunError, match="made by another recipe"):
        train(short(here / "tiny/clips.csv", epochs=3), url, resume=True)
    with pytest.raises(RunError, match="no run folder, so it is not overwritten"):
        train(recipe, f"{bucket}/runs", overwrite=True)
    with pytest.raises(RunError, match="no run folder, so it is not overwritten"):
        train(recipe, f"{url}/recipe.yaml", overwrite=True)
    assert files(url) == files(here / "run")
    assert storage.entries(RunFolder.create(url, overwrite=True).path) == []


@pytest.mark.parametrize("kind", ["gcs_bucket", "s3_bucket"])
def test_a_bucket_that_is_missing_is_one_error(
    kind: str, here: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(kind) + "-none"
    for verb in (
        lambda: train(short(here / "tiny/clips.csv"), f"{url}/run"),
        lambda: RunFolder.open(f"{url}/run"),
        lambda: harken.load(f"{url}/run"),
    ):
        with pytest.raises(HarkenError) as caught:
            verb()
        assert url in str(caught.value)


def test_files_of_a_run_in_a_bucket(bucket: str) -> None:
    run = RunFolder.create(f"{bucket}/run")
    run.write_json("a.json", {"x": float("nan")})
    assert run.read_json("a.json") == {"x": None}
    run.write_table("t.parquet", pl.DataFrame({"a": [1]}))
    assert run.read_table("t.parquet")["a"].to_list() == [1]
    run.write_text("b.json", "{")
    with pytest.raises(RunError, match=r"b\.json is damaged"):
        run.read_json("b.json")
    for read in (run.read_json, run.read_table, run.read_text):
        with pytest.raises(RunError, match=r"c\.x is missing from this run"):
            read("c.x")
    assert run.folds == []
    assert not run.has_state
    with pytest.raises(RunError, match="no weights yet"):
        run.load_weights(torch.nn.Linear(1, 1))
    run.write_text("model.safetensors", "no tensors")
    with pytest.raises(RunError, match="weights are damaged"):
        run.load_weights(torch.nn.Linear(1, 1))
    model = torch.nn.Linear(2, 1)
    run.save_weights(model.state_dict())
    kept = load_file(storage.local_copy(run.path / "model.safetensors"))
    assert torch.equal(kept["weight"], model.weight)
    with pytest.raises(RunError, match="of another recipe"):
        run.load_weights(torch.nn.Linear(3, 1))
