from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile

from conftest import write_tiny_table
from harken.cli import main
from harken.embedder import Wanted
from harken.embeddings import parts_folder, read_embeddings
from harken.errors import ConfigError, DataError, RunError
from harken.report.page import build
from harken.verbs.embed import embed
from harken.verbs.evaluate import evaluate
from harken.verbs.probe import probe
from harken.verbs.train import train
from test_trainer import tiny_recipe
from tiny_checkpoints import tiny_checkpoint

SPLIT = {"kind": "random", "valid": 1, "test": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over one split whose network has every level but `wt`."""
    folder = tmp_path_factory.mktemp("embed")
    table = write_tiny_table(folder / "tiny")
    recipe = tiny_recipe(
        table,
        data={
            "source": {"kind": "table", "path": str(table), "group": "speaker"},
            "target": "label",
            "split": SPLIT,
        },
        heads={"shared": 6, "bottleneck": 5},
        mix=None,
        train={"epochs": 2, "batch_size": 6},
    )
    return train(recipe, folder / "run").path


def command(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harken", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        check=False,
    )


def test_a_run_s_own_clips_keep_what_is_known_of_them(run: Path, tmp_path: Path) -> None:
    made = embed(run, tmp_path / "e.parquet")
    assert (made.num_clips, made.dim) == (36, 16)
    frame = pl.read_parquet(tmp_path / "e.parquet")
    assert {"id", "path", "group", "split", "fold", "label", "age", "e0", "e15"} <= set(
        frame.columns
    )
    parted = pl.read_parquet(run / "splits.parquet")
    assert dict(frame.select("id", "split").iter_rows()) == dict(parted.iter_rows())
    settings = read_embeddings(str(tmp_path / "e.parquet")).settings
    assert settings["level"] == "pt"
    assert settings["trained"] is True
    assert settings["model"] == str(run)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_ids_and_rows_do_not_depend_on_the_batch(run: Path, tmp_path: Path, size: int) -> None:
    word = [f"train.batch_size={size}"]
    embed(run, tmp_path / "a.parquet")
    embed(run, tmp_path / "b.parquet", words=word, part_rows=7)
    one, two = (read_embeddings(str(tmp_path / f"{n}.parquet")) for n in "ab")
    assert one.frame["id"].to_list() == two.frame["id"].to_list()
    np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "dim"),
    [
        ({"wanted": Wanted("st")}, 6),
        ({"wanted": Wanted("ft")}, 5),
        ({"wanted": Wanted("ft", merge="sum")}, 5),
        ({"wanted": Wanted(pooling="max")}, 8),
        ({"columns": "list"}, 16),
        ({"file_format": "npz"}, 16),
        ({"split": "test"}, 16),
    ],
)
def test_every_option_shows(run: Path, tmp_path: Path, options: dict[str, Any], dim: int) -> None:
    embed(run, tmp_path / "plain")
    made = embed(run, tmp_path / "other", **options)
    plain, other = (read_embeddings(str(tmp_path / n)) for n in ("plain", "other"))
    assert made.dim == dim == other.vectors.shape[1]
    if "wanted" in options:
        assert plain.vectors.shape[1] == 16
        return
    kept = plain.frame["id"].is_in(other.frame["id"].implode()).to_numpy()
    np.testing.assert_allclose(plain.vectors[kept], other.vectors, atol=1e-5)
    assert len(other.frame) == (12 if "split" in options else 36)


def test_a_table_needs_only_recordings(run: Path, tmp_path: Path) -> None:
    clips = pl.read_csv(run.parent / "tiny" / "clips.csv")
    table = run.parent / "tiny" / "bare.csv"
    clips.select("path").gather_every(8).write_csv(table)
    made = embed(run, tmp_path / "on.parquet", on=table)
    assert made.num_clips == 5
    assert any("were in the run's training" in note for note in made.notes)
    own = embed(run, tmp_path / "own.parquet")
    assert own.num_clips == 36
    found, all_of_them = (read_embeddings(str(tmp_path / f"{n}.parquet")) for n in ("on", "own"))
    np.testing.assert_allclose(found.vectors, all_of_them.vectors[::8], atol=1e-5)
    assert found.frame["split"].to_list() == all_of_them.frame["split"].gather_every(8).to_list()
    files = [run.parent / "tiny" / name for name in clips["path"].gather_every(8)]
    embed(run, tmp_path / "files.npz", files=files)
    named = read_embeddings(str(tmp_path / "files.npz"))
    assert named.frame["id"].to_list() == [file.stem for file in files]
    np.testing.assert_allclose(named.vectors, found.vectors, atol=1e-5)


def test_bad_recordings_stop_or_are_listed(run: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("not audio")
    good = run.parent / "tiny" / "low_0_0.wav"
    with pytest.raises(DataError, match=r"bad\.wav"):
        embed(run, tmp_path / "e.parquet", files=[bad, good])
    words = ["data.on_bad_audio=skip"]
    made = embed(run, tmp_path / "e.parquet", files=[bad, good], words=words)
    assert made.num_clips == 1
    assert [clip.id for clip in made.quarantined] == ["bad"]
    listed = json.loads((tmp_path / "e.quarantine.json").read_text())
    assert listed[0]["path"] == str(bad)
    embed(run, tmp_path / "e.parquet", files=[good], overwrite=True)
    assert not (tmp_path / "e.quarantine.json").exists()


def test_a_finished_table_is_left_alone_and_another_is_not_replaced(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.parquet"
    embed(run, out)
    before = out.stat().st_mtime_ns
    again = embed(run, out)
    assert again.dim is None
    assert again.notes == ["there already"]
    assert out.stat().st_mtime_ns == before
    with pytest.raises(RunError, match="made by other settings"):
        embed(run, out, wanted=Wanted("st"))
    embed(run, out, wanted=Wanted("st"), overwrite=True)
    assert read_embeddings(str(out)).vectors.shape == (36, 6)


def test_folds_have_networks_of_their_own(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the folds are 1, 2, 3 → --fold 1"):
        embed(tiny_run, tmp_path / "e.parquet")
    with pytest.raises(ConfigError, match="no fold '9'"):
        embed(tiny_run, tmp_path / "e.parquet", fold="9")
    for fold in "12":
        embed(tiny_run, tmp_path / f"{fold}.parquet", fold=fold)
    one, two = (read_embeddings(str(tmp_path / f"{n}.parquet")) for n in "12")
    assert not np.allclose(one.vectors, two.vectors)
    assert one.frame["split"].to_list() != two.frame["split"].to_list()
    embed(tiny_run / "fold-1", tmp_path / "direct.parquet")
    direct = read_embeddings(str(tmp_path / "direct.parquet"))
    np.testing.assert_array_equal(direct.vectors, one.vectors)


def test_side_information_reaches_the_network(tiny_table: Path, tmp_path: Path) -> None:
    entry = {"kind": "film", "covariate": "age"}
    recipe = tiny_recipe(tiny_table, covariates=[entry], mix=None, heads={"shared": 4})
    part = train(recipe, tmp_path / "run", folds="1").folds[0].path
    embed(part, tmp_path / "own.parquet")
    frame = pl.read_csv(tiny_table)
    older = tiny_table.with_name("older.csv")
    frame.with_columns(age=pl.col("age") + 30).write_csv(older)
    embed(part, tmp_path / "older.parquet", on=older)
    one, two = (read_embeddings(str(tmp_path / f"{n}.parquet")) for n in ("own", "older"))
    assert not np.allclose(one.vectors, two.vectors, atol=1e-4)
    frame.drop("age").write_csv(older)
    with pytest.raises(DataError, match="age"):
        embed(part, tmp_path / "none.parquet", on=older)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": "1"}, "no folds"),
        ({"split": "dev"}, "no dev clips"),
        ({"split": "test", "files": ["a.wav"]}, "the run's own clips"),
        ({"on": "a.csv", "files": ["a.wav"]}, "not both"),
        ({"columns": "lists"}, "vector or list"),
        ({"words": ["audio.sample_rate=8000"]}, "belongs to the trained network"),
        ({"words": ["backbone.dropout=0"]}, "belongs to the trained network"),
        ({"wanted": Wanted("wt")}, "backbone.weighted=softmax"),
    ],
)
def test_contradictions_are_one_error(
    run: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        embed(run, tmp_path / "e.parquet", **options)
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "w2v", "wav2vec2")


def test_a_bare_checkpoint_reads_a_table_without_labels(checkpoint: Path, tmp_path: Path) -> None:
    table = write_tiny_table(tmp_path / "tiny")
    pl.read_csv(table).select("path", "speaker").write_csv(table)
    embed(checkpoint, tmp_path / "last.parquet", on=table)
    embed(checkpoint, tmp_path / "first.parquet", on=table, wanted=Wanted(layer=0))
    words = ["data.source.group=speaker", "audio.clip_seconds=0.3", "train.batch_size=5"]
    embed(checkpoint, tmp_path / "short.parquet", on=table, words=words)
    last, first, short = (
        read_embeddings(str(tmp_path / f"{n}.parquet")) for n in ("last", "first", "short")
    )
    assert last.vectors.shape == (36, 32)
    assert not np.allclose(last.vectors, first.vectors)
    assert not np.allclose(last.vectors, short.vectors)
    assert "group" in short.frame.columns
    assert last.settings["trained"] is False
    with pytest.raises(ConfigError, match="which clips"):
        embed(checkpoint, tmp_path / "e.parquet")
    with pytest.raises(ConfigError, match="no clips of its own"):
        embed(checkpoint, tmp_path / "e.parquet", on=table, split="test")
    with pytest.raises(RunError, match="neither a run"):
        embed(tmp_path, tmp_path / "e.parquet", on=table)
    with pytest.raises(ConfigError):
        embed("nobody/no-such-encoder", tmp_path / "e.parquet", on=table)


def test_a_recording_that_the_network_cannot_read_is_named(
    checkpoint: Path, run: Path, tmp_path: Path
) -> None:
    clip, short = run.parent / "tiny" / "low_0_0.wav", tmp_path / "short.wav"
    soundfile.write(short, np.full(150, 0.1), 8000)
    with pytest.raises(DataError, match=f"{short}: 0.0187 s are shorter than the 0.025 s"):
        embed(checkpoint, tmp_path / "e.parquet", files=[clip, short])


def test_a_killed_process_goes_on_where_it_stood(tiny_run: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle; the second run computes the rest, and the table is the same."""
    table = write_tiny_table(tmp_path / "many", num_speakers=30)
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, time\n"
        "import harken.verbs.embed as verb\n"
        "real = verb.embed_clips\n"
        "def slowly(*a):\n"
        "    open('calls.txt', 'a').write('x')\n"
        "    time.sleep(float(sys.argv[1]))\n"
        "    return real(*a)\n"
        "verb.embed_clips = slowly\n"
        "verb.embed('RUN', 'e.parquet', on='many/clips.csv', part_rows=20)\n".replace(
            "RUN", str(tiny_run / "fold-1")
        )
    )
    out = tmp_path / "e.parquet"
    start = [sys.executable, str(slow)]
    process = subprocess.Popen([*start, "0.3"], cwd=tmp_path)
    end = time.monotonic() + 60
    while len(list(parts_folder(str(out)).glob("part-*"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not out.exists()
    finished = len(list(parts_folder(str(out)).glob("part-*")))
    assert 3 <= finished < 18
    before = len((tmp_path / "calls.txt").read_text())
    assert subprocess.run([*start, "0"], cwd=tmp_path, check=False).returncode == 0
    assert len((tmp_path / "calls.txt").read_text()) - before == 18 - finished
    assert not parts_folder(str(out)).exists()
    embed(tiny_run / "fold-1", tmp_path / "whole.parquet", on=table, part_rows=20)
    assert pl.read_parquet(out).equals(pl.read_parquet(tmp_path / "whole.parquet"))


def test_what_a_person_types(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.npz"
    clip = run.parent / "tiny" / "low_0_0.wav"
    found = command("embed", str(run), str(clip), "--level", "ft", "--merge=sum", f"--out={out}")
    assert found.returncode == 0, found.stderr
    assert f"1 clips × 5: {out}" in found.stdout


def test_a_mistake_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["harken", "embed", str(run), "--level", "wt", "--out", str(tmp_path / "w.parquet")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("harken: --level: level wt is the learned weighted sum")
    assert len(said.splitlines()) == 1


# --- harken probe ---


def test_a_run_is_probed_fold_by_fold_with_its_own_networks(tiny_run: Path, tmp_path: Path) -> None:
    folder = probe(tiny_run, tmp_path / "probe")
    assert [fold.path.name for fold in folder.folds] == ["fold-1", "fold-2", "fold-3"]
    for mine, theirs in zip(folder.folds, sorted(tiny_run.glob("fold-*")), strict=True):
        parted = pl.read_parquet(theirs / "splits.parquet")
        assert dict(mine.read_table("splits.parquet").iter_rows()) == dict(parted.iter_rows())
        told = mine.read_json("probe.json")
        assert told["embeddings"]["fold"] == mine.path.name.removeprefix("fold-")
        assert told["C"] in [row["C"] for row in told["tried"]]
        test = mine.read_table("predictions.parquet").filter(pl.col("split") == "test")
        wanted = parted.filter(pl.col("split") == "test")["id"].to_list()
        assert test["id"].to_list() == wanted
    metrics = folder.read_json("metrics.json")
    assert metrics["pooled"]["num_clips"] == 36
    assert metrics["pooled"]["metrics"]["accuracy"]["low"] is not None
    assert metrics["pooled"]["metrics"]["balanced_accuracy"]["value"] > 0.8
    assert (folder.path / "per_class.csv").exists()
    first = tiny_run / "fold-1" / "embeddings" / "pt.parquet"
    before = first.stat().st_mtime_ns
    probe(tiny_run, tmp_path / "other", model="knn")
    assert first.stat().st_mtime_ns == before


def test_a_probe_has_a_report(tiny_run: Path, tmp_path: Path) -> None:
    folder = probe(tiny_run, tmp_path / "probe", model="ridge", words=["evaluate.num_resamples=0"])
    assert build(folder.path).is_file()
    with pytest.raises(RunError, match="this is a probe"):
        evaluate(folder.path)


def test_a_run_is_probed_for_another_column(run: Path, tmp_path: Path) -> None:
    folder = probe(
        run,
        tmp_path / "probe",
        target=["age"],
        model="ridge",
        words=["data.target.task=regression", "evaluate.num_resamples=10"],
    )
    assert "mae" in folder.read_json("metrics.json")["test"]["metrics"]
    assert folder.labels().names == ("age",)


@pytest.fixture(scope="module")
def bare(checkpoint: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bare") / "e.parquet"
    words = ["data.source.group=speaker"]
    embed(checkpoint, out, on=run.parent / "tiny" / "clips.csv", words=words)
    return out


def test_a_table_of_embeddings_is_a_recipe_of_its_own(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probe"
    words = ["data.split={kind: kfold, folds: 3, valid: 1}", "evaluate.num_resamples=50"]
    typed = ["harken", "probe", str(bare), "--target", "label", *words, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "36 clips, 3 groups" in capsys.readouterr().out
    again = probe(bare, tmp_path / "again", target=["label"], words=words)
    assert (out / "fold-3" / "probe.json").is_file()
    one = pl.read_parquet(out / "predictions.parquet")
    assert one.equals(again.read_table("predictions.parquet"))


def test_a_recipe_s_folds_are_those_of_training(bare: Path, tiny_run: Path, tmp_path: Path) -> None:
    recipe = tiny_run / "recipe.yaml"
    mine = probe(recipe, tmp_path / "recipe", embeddings=bare, words=["evaluate.num_resamples=0"])
    run_s = probe(tiny_run, tmp_path / "run", embeddings=bare, words=["evaluate.num_resamples=0"])
    for one, two in zip(mine.folds, run_s.folds, strict=True):
        parts = [dict(each.read_table("splits.parquet").iter_rows()) for each in (one, two)]
        assert parts[0] == parts[1]
        scores = [each.read_table("predictions.parquet")["score_low"] for each in (one, two)]
        assert scores[0].to_list() == pytest.approx(scores[1].to_list())


def test_test_clips_that_trained_the_network_are_refused(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "e.parquet"
    embed(run, table)
    folder = probe(table, tmp_path / "own", target=["label"], words=["evaluate.num_resamples=0"])
    parted = pl.read_parquet(run / "splits.parquet")
    assert dict(folder.read_table("splits.parquet").iter_rows()) == dict(parted.iter_rows())
    words = ["data.split={kind: kfold, folds: 3, valid: 1}", "data.source.group=group"]
    with pytest.raises(DataError, match="trained the network that made these embeddings"):
        probe(table, tmp_path / "leak", target=["label"], words=words)


def test_test_labels_change_nothing_but_the_numbers(bare: Path, tmp_path: Path) -> None:
    """Scrambling the labels of test clips leaves the probe and its scores as they are."""
    words = ["data.split={kind: fold, valid: 1}", "evaluate.num_resamples=0"]
    wrong = tmp_path / "wrong.parquet"
    frame = pl.read_parquet(bare)
    first = pl.col("fold") == 1
    scrambled = pl.when(first).then(pl.col("label").reverse()).otherwise(pl.col("label"))
    frame.with_columns(scrambled.alias("label")).write_parquet(wrong)
    one, two = (
        probe(table, tmp_path / name, target=["label"], words=words, model="logistic")
        for table, name in ((bare, "one"), (wrong, "two"))
    )
    tables = [
        each.folds[0].read_table("predictions.parquet").filter(pl.col("split") == "test")
        for each in (one, two)
    ]
    assert tables[0]["score_low"].to_list() == tables[1]["score_low"].to_list()
    assert tables[0]["target"].to_list() != tables[1]["target"].to_list()


@pytest.mark.parametrize(
    ("subject", "options", "message"),
    [
        ("bare", {}, "say what to learn"),
        ("bare", {"target": ["lable"]}, "did you mean 'label'"),
        ("bare", {"target": ["label"], "model": "svm"}, "no probe 'svm'"),
        ("bare", {"target": ["label"], "wanted": Wanted("st")}, "when embeddings are made"),
        ("run", {"words": ["data.split.kind=kfold"]}, "belongs to the run"),
        ("recipe", {}, "--embeddings FILE"),
        ("absent.parquet", {"target": ["label"]}, "no such table"),
        ("absent.npz", {"target": ["label"]}, "holds no labels"),
    ],
)
def test_what_cannot_be_probed_is_one_error(
    bare: Path, run: Path, tmp_path: Path, subject: str, options: dict[str, Any], message: str
) -> None:
    known = {"bare": bare, "run": run, "recipe": run / "recipe.yaml"}
    known = {"recipe": tmp_path / "recipe.yaml"} | known
    with pytest.raises((ConfigError, DataError), match=message):
        probe(known.get(subject, tmp_path / subject), tmp_path / "out", **options)


def test_what_is_no_table_and_what_is_not_finite_is_named(
    bare: Path, run: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.parquet"
    text.write_text("id,e0\na,1\n")
    with pytest.raises(RunError, match="no table of embeddings"):
        probe(text, tmp_path / "out", target=["label"])
    odd = tmp_path / "odd.parquet"
    lost = pl.when(pl.col("id") == "low_0_2").then(None).otherwise(pl.col("e3"))
    pl.read_parquet(bare).with_columns(lost.alias("e3")).write_parquet(odd)
    with pytest.raises(DataError, match=r"clips.csv:\d+: the embedding of this clip is not finite"):
        probe(run, tmp_path / "out", embeddings=odd)


def test_a_probe_does_not_replace_the_run_that_it_is_of(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (run / "model.safetensors").read_bytes()
    monkeypatch.chdir(run.parent)
    for out in (run, run.name, run.parent):
        with pytest.raises(ConfigError, match="the run itself, which has to stay"):
            probe(str(run), out, overwrite=True)
    assert (run / "model.safetensors").read_bytes() == weights


def test_clips_without_an_embedding_are_an_error_or_told(
    bare: Path, tiny_run: Path, tmp_path: Path
) -> None:
    some = tmp_path / "some.parquet"
    pl.read_parquet(bare).filter(pl.col("id") != "low_0_1").write_parquet(some)
    with pytest.raises(DataError, match="1 clips have no embedding, 'low_0_1' first"):
        probe(tiny_run, tmp_path / "probe", embeddings=some)
    words = ["data.on_bad_audio=skip", "evaluate.num_resamples=0"]
    folder = probe(tiny_run, tmp_path / "probe", embeddings=some, words=words)
    assert len(folder.folds[0].read_table("splits.parquet")) == 35
    notes = folder.folds[0].read_json("metrics.json")["test"]["notes"]
    assert any("left out" in note for note in notes)
