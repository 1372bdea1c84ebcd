"""The command line, in real processes where that matters."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from harken.cli import app, main
from harken.errors import ConfigError, HarkenError
from harken.recipe import dump_recipe
from test_trainer import tiny_recipe


def harken(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harken", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        check=False,
    )


def invoke(*words: str | Path) -> str:
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['harken', '--help']\n"
        "from harken.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'polars', 'sklearn', 'pydantic', 'soundfile'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
    for verb in ("train", "evaluate", "predict", "prepare", "report", "demo", "recipe", "list"):
        assert verb in found.stdout


class Told(NamedTuple):
    """What a command printed, and its exit status."""

    code: object
    out: str
    err: str


@pytest.fixture
def train_tiny(
    tmp_path: Path,
    tiny_table: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Told]:
    """Type `harken train` with more words, in this process."""

    def typed(*words: str) -> Told:
        path = tmp_path / "recipe.yaml"
        path.write_text(dump_recipe(tiny_recipe(tiny_table)))
        typed_words = ["train", str(path), *words, "--out", str(tmp_path / "run")]
        monkeypatch.setattr(sys, "argv", ["harken", *typed_words])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back at the end
        with pytest.raises(SystemExit) as left:
            main()
        return Told(left.value.code, *capsys.readouterr())

    return typed


@pytest.mark.parametrize("word", ["--x=1", "--train.epochs=0", "train.epoch=1"])
def test_a_mistake_is_one_line_and_no_traceback(
    word: str, tmp_path: Path, train_tiny: Callable[..., Told]
) -> None:
    told = train_tiny(word)
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("harken: ")
    assert len(told.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_warnings_are_lines(train_tiny: Callable[..., Told]) -> None:
    err = train_tiny("frontend.n_mels=700", "--dry-run").err
    told = [line for line in err.splitlines() if "mel filters" in line]
    assert len(told) == 1
    assert told[0].startswith("harken: warning: frontend: ")


def test_train_evaluate_predict_and_report(tiny_table: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(tiny_table)))
    run = tmp_path / "run"
    found = harken("train", path, "train.epochs=1", "--out", run, "--folds", "1")
    assert found.returncode == 0, found.stderr
    assert "balanced_accuracy" in found.stdout
    assert f"report: {run / 'report.html'}" in found.stdout
    assert (run / "report.html").is_file()
    with pytest.raises(HarkenError, match="--overwrite"):
        invoke("train", path, "train.epochs=1", "--out", run)
    with pytest.raises(HarkenError, match="continued or replaced, not both"):
        invoke("train", path, "train.epochs=1", "--out", run, "--resume", "--overwrite")


def test_evaluate_prints_numbers_or_json(tiny_run: Path) -> None:
    assert "balanced_accuracy" in invoke("evaluate", tiny_run)
    assert json.loads(invoke("evaluate", tiny_run, "--json"))["num_clips"] == 36
    with pytest.raises(HarkenError, match="no split 'dev'"):
        invoke("evaluate", tiny_run, "--split", "dev")


def test_predict_prints_lines_json_and_csv(tiny_run: Path) -> None:
    files = sorted((tiny_run.parent / "tiny").glob("*.wav"))[:2]
    plain = invoke("predict", tiny_run, *files, "--top", "2").splitlines()
    assert len(plain) == 2
    assert plain[0].startswith(str(files[0]))
    assert len(plain[0].split()) == 5
    rows = [json.loads(line) for line in invoke("predict", tiny_run, *files, "--json").splitlines()]
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert len(rows[0]["scores"]) == 3
    table = list(csv.DictReader(io.StringIO(invoke("predict", tiny_run, *files, "--csv"))))
    assert {"path", "decision", "score_low", "error"} <= set(table[0])
    assert float(table[0]["score_low"]) == pytest.approx(rows[0]["scores"]["low"])


def test_predict_names_bad_files_and_fails(tiny_run: Path) -> None:
    found = CliRunner().invoke(app, ["predict", str(tiny_run), "none.wav"])
    assert found.exit_code == 1
    assert "none.wav" in found.stdout
    found = CliRunner().invoke(app, ["predict", str(tiny_run), "none.wav", "--json"])
    row = json.loads(found.stdout)
    assert (row["path"], row["decision"], row["scores"]) == ("none.wav", None, {})
    assert "no such file" in row["error"]
    found = CliRunner().invoke(app, ["predict", str(tiny_run), "none.wav", "--json", "--csv"])
    assert isinstance(found.exception, ConfigError)


def test_prepare_shows_clips_and_splits(tiny_table: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(tiny_table)))
    text = invoke("prepare", path)
    assert "36 clips, single: high, low, noise" in text
    assert "fold 1: train 12, valid 12, test 12" in text


def test_a_dry_run_trains_nothing(tiny_table: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(tiny_table)))
    text = invoke("train", path, "--dry-run", "--out", tmp_path / "run")
    assert "by heart" in text
    assert not (tmp_path / "run").exists()


def test_recipes_are_shown_described_and_listed(tiny_table: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(tiny_table)))
    assert invoke("recipe", "show", path) == path.read_text()
    assert "kind: mlp" in invoke("recipe", "show", path, "backbone=mlp")
    assert json.loads(invoke("recipe", "schema"))["properties"]["frontend"]
    assert "`depth`" in invoke("recipe", "help", "backbone.ast")
    assert "timm" in invoke("list", "backbones")
