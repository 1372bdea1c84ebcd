from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from harken.cli.app import app
from harken.errors import ConfigError, DataError, HarkenError, RunError
from harken.recipe import Recipe
from harken.verbs.score import score
from harken.verbs.train import train
from many_runs import AGE, MULTI, PAIR, predictions, write_run
from test_legacy_names import name_of
from test_legacy_scores import write_trial
from test_trainer import tiny_recipe


def command(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["tune", "score", *words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve runs that differ in two settings, and one of each kind that cannot be ranked."""
    tmp_path = tmp_path_factory.mktemp("made")
    for i in range(12):
        words = [f"optimizer.lr={10.0 ** -(2 + i % 4):.1e}", f"train.batch_size={8 * (1 + i % 3)}"]
        frames = [predictions(PAIR, 0.3 + 0.1 * i, seed=i, split=s) for s in ("valid", "test")]
        write_run(tmp_path / "runs" / f"r{i:02d}", pl.concat(frames), PAIR, words)
    write_run(tmp_path / "runs" / "new", None)
    write_run(tmp_path / "runs" / "age", predictions(AGE, 1.0), AGE)
    write_run(tmp_path / "runs" / "bad", predictions(PAIR, 1.0))
    (tmp_path / "runs" / "bad" / "predictions.parquet").write_bytes(b"PAR1")
    told = {"study": "s", "number": 3, "values": {}, "state": "pruned", "error": None}
    write_run(tmp_path / "runs" / "cut", None, trial=told)
    return tmp_path / "runs"


@pytest.fixture
def search(made: Path, tmp_path: Path) -> Path:
    """The same, to be written into."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture(scope="module")
def ranked(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The same, ranked: the folder, the exit status and what was told."""
    runs = Path(shutil.copytree(made, tmp_path_factory.mktemp("ranked") / "runs"))
    return runs, *command(str(runs))


def test_tables_and_page_are_written_and_agree(ranked: tuple[Path, int, str]) -> None:
    search, code, told = ranked
    files = [search / "scores" / n for n in ("scores.csv", "scores.parquet", "search.html")]
    assert code == 0
    assert f"scores: {', '.join(map(str, files))}" in told
    frame = pl.read_parquet(search / "scores" / "scores.parquet")
    written = pl.read_csv(search / "scores" / "scores.csv")
    assert written.columns == frame.columns
    assert written["roc_auc_rough"].to_list() == pytest.approx(frame["roc_auc_rough"].to_list())
    assert frame["rank"].to_list() == [*range(1, 13), None, None, None, None]
    assert frame.columns[:6] == [
        "rank", "run", "study", "trial", "optimizer.lr", "train.batch_size"
    ]  # fmt: skip
    text = (search / "scores" / "search.html").read_text()
    assert all(name in text for name in frame["run"])
    assert sorted((search / "scores").iterdir()) == files


def test_numbers_are_those_of_the_predictions(ranked: tuple[Path, int, str]) -> None:
    frame = pl.read_parquet(ranked[0] / "scores" / "scores.parquet").drop_nulls("rank")
    for row in frame.iter_rows(named=True):
        seen = pl.read_parquet(f"{row['path']}/predictions.parquet")
        seen = seen.filter(pl.col("split") == "valid")
        area = roc_auc_score(seen["target"] == "rough", seen["score_rough"])
        assert row["roc_auc_rough"] == pytest.approx(area)
    assert frame["roc_auc_rough"].is_sorted(descending=True)


def test_what_is_not_ranked_is_listed_with_reasons(ranked: tuple[Path, int, str]) -> None:
    told = ranked[2]
    assert "4 not ranked:" in told
    assert "age  not compared: other labels: it has age, height (regression)" in told
    assert "bad  broken: predictions.parquet is damaged" in told
    assert "cut  pruned: the search stopped it early" in told
    assert "new  unfinished: no predictions.parquet" in told


def test_the_command_tells_the_ten_best_with_their_settings(
    ranked: tuple[Path, int, str],
) -> None:
    told = ranked[2]
    assert "   1  r07  roc_auc 0.9327  optimizer.lr=1e-5  train.batch_size=16\n" in told
    assert "  10  " in told
    assert "  11  " not in told
    assert "… and 2 more" in told
    assert "note:" not in told


def test_ranking_by_test_clips_says_what_it_is(search: Path, ranked: tuple[Path, int, str]) -> None:
    valid = pl.read_parquet(ranked[0] / "scores" / "scores.parquet")
    code, told = command(str(search), "--split", "test", "--out", str(search / "t"))
    assert code == 0
    assert "note: ranked by test clips" in told
    frame = pl.read_parquet(search / "t" / "scores.parquet")
    assert frame["split"][0] == "test"
    assert frame["mean"][0] != valid["mean"][0]
    assert "chosen on test" in (search / "t" / "search.html").read_text()


def test_the_metric_can_be_chosen(search: Path) -> None:
    assert command(str(search), "--metric", "balanced_accuracy")[0] == 0
    frame = pl.read_parquet(search / "scores" / "scores.parquet")
    assert "balanced_accuracy" in frame.columns
    assert "roc_auc_rough" not in frame.columns


def test_a_search_by_another_metric_is_told(tmp_path: Path) -> None:
    told = {"study": "s", "number": 0, "values": {}, "state": "complete", "metric": "accuracy"}
    for i in range(2):
        write_run(tmp_path / f"r{i}", predictions(PAIR, 1.0, seed=i), trial=told)
    assert "note: the search compared accuracy" in command(str(tmp_path))[1]
    assert "--metric accuracy ranks as it did" in command(str(tmp_path))[1]
    assert "note:" not in command(str(tmp_path), "--metric", "accuracy")[1]


def test_errors_are_ranked_the_least_first(tmp_path: Path) -> None:
    for i in range(3):
        write_run(tmp_path / f"r{i}", predictions(AGE, float(i), seed=5), AGE)
    for metric in (None, "r2"):
        frame = score(tmp_path, metric=metric).standings.frame()
        assert frame["run"].to_list() == ["r2", "r1", "r0"]
    rows = score(tmp_path).standings
    assert rows.metric == "mae"
    assert rows.rows[0].dist_max == 0.0
    assert rows.frame()["mae_age"].is_sorted()


def test_old_searches_need_their_own_word(tmp_path: Path) -> None:
    write_trial(tmp_path / name_of(lr=0.001))
    write_trial(tmp_path / name_of(lr=1e-05), seed=1)
    with pytest.raises(RunError, match="--legacy"):
        score(tmp_path)
    code, told = command(str(tmp_path), "--legacy")
    assert code == 0
    assert "note: 001 kept the predictions of its test clips only" in told
    assert "optimizer.lr=1e-5" in told


def test_old_searches_and_runs_are_ranked_together_by_test_clips(tmp_path: Path) -> None:
    write_trial(tmp_path / "old" / name_of())
    frames = [predictions(MULTI, 9.0, split=split) for split in ("valid", "test")]
    write_run(tmp_path / "new" / "run", pl.concat(frames), MULTI)
    apart = score([tmp_path / "old", tmp_path / "new"], legacy=True, out=tmp_path / "s")
    assert [row.run.state for row in apart.standings.rows] == ["ranked", "not compared"]
    both = score([tmp_path / "old", tmp_path / "new"], legacy=True, split="test", out=tmp_path)
    assert [row.rank for row in both.standings.rows] == [1, 2]
    assert both.standings.rows[0].run.path == str(tmp_path / "new" / "run")
    without = score([tmp_path / "old", tmp_path / "new"], split="test", out=tmp_path / "n")
    assert len(without.standings.rows) == 1


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://searches/one"
    fs = fsspec.filesystem("memory")
    if fs.exists("/searches"):
        fs.rm("/searches", recursive=True)


def test_a_bucket_is_ranked_and_takes_the_tables(
    search: Path, ranked: tuple[Path, int, str], memory: str
) -> None:
    fsspec.filesystem("memory").put(f"{search}/", "/searches/one/", recursive=True)
    here = pl.read_parquet(ranked[0] / "scores" / "scores.parquet")
    scored = score(memory, out=f"{memory}/scores")
    assert scored.files[0] == f"{memory}/scores/scores.csv"
    there = scored.standings.frame()
    assert there.drop("path").equals(here.drop("path"))
    with fsspec.open(scored.files[1]) as file:
        assert pl.read_parquet(file.read()).equals(there)
    with fsspec.open(scored.files[2], "rt") as file:
        assert "harken search" in file.read()


def test_ranking_imports_no_torch(search: Path) -> None:
    code = (
        "import sys; from harken.verbs.score import score\n"
        f"score({str(search)!r}); print({{'torch'}} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_bucket_and_several_folders_need_to_know_where_to_write(
    search: Path, memory: str
) -> None:
    for places in ([memory], [str(search), str(search / "r00")]):
        with pytest.raises(ConfigError, match="--out"):
            command(*places)
    assert command(str(search), str(search / "r00"), "--out", str(search / "s"))[0] == 0


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["--split", "train"], ConfigError, "no split 'train' to rank by"),
        (["--split", "dev"], ConfigError, "valid or test"),
        (["--metric", "roc_acu"], ConfigError, "did you mean 'roc_auc'"),
    ],
)
def test_words_that_mean_nothing(
    search: Path, words: list[str], error: type[HarkenError], told: str
) -> None:
    with pytest.raises(error, match=told):
        command(str(search), *words)


def test_places_without_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        score(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no run folder here"):
        score(tmp_path)


def test_where_nothing_can_be_ranked_the_files_say_why(tmp_path: Path) -> None:
    write_run(tmp_path / "one", None)
    code, told = command(str(tmp_path))
    assert code == 1
    assert "one  unfinished" in told
    assert pl.read_csv(tmp_path / "scores" / "scores.csv")["state"].to_list() == ["unfinished"]
    assert "No run could be ranked" in (tmp_path / "scores" / "search.html").read_text()


def test_a_second_ranking_replaces_the_first_and_finds_no_run_in_it(search: Path) -> None:
    for name in ("r07", "bad"):
        (search.parent / "few").mkdir(exist_ok=True)
        shutil.move(search / name, search.parent / "few" / name)
    first = score(search.parent / "few").standings.frame()
    assert first.height == 2
    assert score(search.parent / "few").standings.frame().equals(first)


def test_without_jinja_the_tables_are_written(
    search: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr("harken.errors.importlib.import_module", refuse)
    code, told = command(str(search))
    assert code == 0
    assert "no page:" in told
    assert "harken[report]" in told
    assert not (search / "scores" / "search.html").exists()


# --- runs that harken trained ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny runs that differ in rate and widths; one of them over two folds."""
    from conftest import write_tiny_table

    folder = tmp_path_factory.mktemp("trained")
    table = write_tiny_table(folder / "tiny")

    def made(lr: float) -> Recipe:
        data = tiny_recipe(table).model_dump()["data"]
        data["split"] = {"kind": "random", "valid": 0.4, "test": 0.3}
        data["source"]["group"] = None
        return tiny_recipe(
            table,
            data=data,
            optimizer={"kind": "adamw", "lr": lr},
            backbone={"kind": "cnn", "widths": [8, 8]},
            train={"epochs": 1, "batch_size": 6},
        )

    for lr in (0.1, 0.001):
        train(made(lr), folder / "runs" / f"lr{lr}")
    several = tiny_recipe(table, train={"epochs": 1, "batch_size": 6})
    train(several, folder / "runs" / "folds", folds="1,2")
    return folder / "runs"


def test_trained_runs_are_ranked_by_what_they_predicted(trained: Path) -> None:
    standings = score(trained, out=trained.parent / "s").standings
    assert {row.run.state for row in standings.rows} == {"ranked"}
    assert {"optimizer.lr", "backbone.widths"} <= set(standings.settings)
    assert standings.labels == ("high", "low", "noise")
    for row in standings.rows:
        folds = sorted(Path(row.run.path).glob("fold-*")) or [Path(row.run.path)]
        for label in standings.labels:
            areas = []
            for part in folds:
                frame = pl.read_parquet(part / "predictions.parquet")
                frame = frame.filter(pl.col("split") == "valid")
                areas.append(roc_auc_score(frame["target"] == label, frame[f"score_{label}"]))
            assert row.run.values[label] == pytest.approx(sum(areas) / len(areas))
    assert any("different sets of clips" in note for note in standings.notes)


def test_a_run_keeps_its_own_interval(trained: Path) -> None:
    rows = score(trained, out=trained.parent / "s").standings.rows
    runs = {row.run.name: (row.run.low, row.run.high, row.mean) for row in rows}
    low, high, mean = runs["lr0.1"]
    assert low is not None
    assert high is not None
    assert mean is not None
    assert low <= mean <= high
    assert runs["folds"][:2] == (None, None)


def test_a_bucket_server_is_ranked(
    made: Path, ranked: tuple[Path, int, str], gcs_bucket: str
) -> None:
    from harken import storage

    for file in storage.list_files(made):
        target = f"{gcs_bucket}/runs/{Path(file).relative_to(made)}"
        storage.write_atomic(target, storage.read_bytes(file))
    scored = score(f"{gcs_bucket}/runs", out=f"{gcs_bucket}/scores")
    here = pl.read_parquet(ranked[0] / "scores" / "scores.parquet")
    assert scored.standings.frame().drop("path").equals(here.drop("path"))
    assert [place.name for place in storage.entries(f"{gcs_bucket}/scores")] == [
        "scores.csv", "scores.parquet", "search.html"
    ]  # fmt: skip
