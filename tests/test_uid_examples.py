"""The clinical examples, as typed, on a UID tree of spoken digits with two classifiers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from harken import embed, evaluate, load
from harken.checkpoint import RunFolder
from harken.embedder import Wanted
from tiny_checkpoints import tiny_checkpoint
from uid_trees import UidTree, write_uid_tree

ROOT = Path(__file__).parents[1]
SHORT = ["train.epochs=2", "evaluate.num_resamples=20", "audio.clip_seconds=0.5"]
NARROW = ["heads.shared=16", "heads.bottleneck=8"]


def harken(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harken", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained(name: str, tree: UidTree, out: Path, *words: str) -> RunFolder:
    places = [
        f"data.source.path={tree.audio}",
        f"data.source.table={tree.splits}",
        f"data.target.label_file={tree.label_file}",
    ]
    recipe = str(ROOT / "examples" / f"{name}.yaml")
    harken("train", recipe, *places, *SHORT, *NARROW, *words, "--out", str(out))
    return RunFolder.open(out)


def judge(run: RunFolder, tree: UidTree) -> None:
    labels = run.labels()
    assert labels.groups == (("even", "small"), ("round", "has_i"))
    metrics = run.read_json("metrics.json")["test"]
    assert [row["label"] for row in metrics["per_class"]] == list(labels.names)
    predictions = run.read_table("predictions.parquet").filter(pl.col("split") == "test")
    assert set(predictions["group"]) == set(tree.speakers[-2:])
    assert [c for c in predictions.columns if c.startswith("score_")] == [
        f"score_{name}" for name in labels.names
    ]


def test_uid_timm(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path / "tree", takes=1)
    run = trained("uid_timm", tree, tmp_path / "run", "backbone.name=mobilenetv3_small_050")
    judge(run, tree)


@pytest.mark.realdata
def test_uid_wav2vec2_on_spoken_digits(fsdd: Path, tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path / "tree", fsdd, takes=1)
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", "wav2vec2")
    run = trained("uid_wav2vec2", tree, tmp_path / "run", f"backbone.checkpoint={checkpoint}")
    judge(run, tree)
    weights = run.read_json("network.json")["layer_weights"]
    assert sum(weights) == pytest.approx(1.0, abs=1e-5)
    shown = " ".join(f"{weight:.3f}" for weight in weights)
    assert shown in (run.path / "report.html").read_text()
    # Nothing of the run needs the checkpoint or the label file any more.
    checkpoint.rename(tmp_path / "gone")
    tree.label_file.unlink()
    clip = next(tree.audio.rglob("waveform.wav"))
    table = load(run.path).predict([clip])
    assert {f"score_{name}" for name in run.labels().names} <= set(table.columns)
    assert evaluate(run.path, on=str(tree.table))["num_clips"] == len(tree.uids)
    embed(str(run.path), tmp_path / "wt.parquet", wanted=Wanted(level="wt"))
    assert pl.read_parquet(tmp_path / "wt.parquet").height == len(tree.uids)
