"""`harken check` as a person types it: what it says, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from conftest import make_noise
from harken.cli import app, main
from harken.recipe import dump_recipe
from harken.verbs.check import check
from test_trainer import tiny_recipe

FAULTY = Path(__file__).with_name("faulty_parts.py")


def statuses(found: list[Any]) -> dict[str, str]:
    worst: dict[str, str] = {}
    for finding in found:
        known = worst.get(finding.topic, "ok")
        worst[finding.topic] = max(known, finding.status, key=("ok", "warning", "problem").index)
    return worst


def test_a_sound_recipe_passes(tiny_table: Path) -> None:
    found = check(tiny_recipe(tiny_table))
    assert set(statuses(found).values()) == {"ok"}


def says(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        app(["check", *words])
    code = stopped.value.code
    return (0 if code is None else int(code)), capsys.readouterr().out


def write(recipe: Any, folder: Path, **over: Any) -> str:
    tree = yaml.safe_load(dump_recipe(recipe))
    (folder / "recipe_under_test.yaml").write_text(yaml.safe_dump(tree | over))
    return str(folder / "recipe_under_test.yaml")


def test_typed_as_a_person_would(tiny_table: Path, tmp_path: Path) -> None:
    over = {"augment": ["faulty_wave"], "plugins": [str(FAULTY)]}
    path = write(tiny_recipe(tiny_table), tmp_path, **over)
    command = [sys.executable, "-m", "harken", "check", path, "--clips", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    line = "PROBLEM  augmentation    augment.0 (faulty_wave) changes nothing, even with p=1"
    assert line in done.stdout
    assert "1 problems" in done.stdout
    assert "(of 36)" in done.stdout


def test_json_and_overrides(tiny_table: Path, tmp_path: Path, capsys: Any) -> None:
    path = write(tiny_recipe(tiny_table), tmp_path)
    code, out = says(capsys, path, "--json")
    assert code == 0
    assert {row["status"] for row in json.loads(out)} == {"ok"}
    code, out = says(capsys, path, "train.monitor=nonsense", "--json")
    assert code == 1
    (bad,) = [row for row in json.loads(out) if row["status"] == "problem"]
    assert (bad["topic"], "no metric 'nonsense'" in bad["text"]) == ("model", True)
    code, out = says(capsys, path, "train.epochss=3")
    assert code == 1
    assert "did you mean 'epochs'" in out


def test_runs(tiny_run: Path, capsys: Any) -> None:
    code, out = says(capsys, str(tiny_run))
    assert code == 0
    assert "fold-3: metrics.json follows" in out


def test_a_run_takes_no_overrides(
    tiny_run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["harken", "check", str(tiny_run), "train.epochs=2"])
    with pytest.raises(SystemExit):
        main()
    assert "a run is checked as it is" in capsys.readouterr().err


def rewritten(table: Path, change: Any) -> Path:
    lines = table.read_text().splitlines()
    other = table.with_name("other.csv")
    other.write_text("\n".join(change(lines)) + "\n")
    return other


def test_spoiled_data(tiny_table: Path) -> None:
    folder = tiny_table.parent
    names = sorted(path.name for path in folder.glob("*.wav"))
    (folder / names[0]).write_bytes(b"nothing")
    soundfile.write(folder / names[1], np.clip(20 * make_noise(), -1, 1), 16000)
    soundfile.write(folder / names[2], 0.3 + make_noise(seed=5), 16000)
    copied = (folder / "low_0_1.wav").read_bytes()
    (folder / "high_0_3.wav").write_bytes(copied)
    recipe = tiny_recipe(tiny_table)
    found = check(recipe)
    status = statuses(found)
    assert status["bad_audio"] == "problem"
    assert status["clipped"] == status["offset"] == "warning"
    assert status["duplicates"] == "problem"
    assert any("high_0_3 (high)" in f.text and "low_0_1 (low)" in f.text for f in found)
    skips = recipe.data.model_copy(update={"on_bad_audio": "skip"})
    assert statuses(check(recipe.model_copy(update={"data": skips})))["bad_audio"] == "warning"


def test_leaks_and_shortcuts(tiny_table: Path) -> None:
    # Speaker s0's first clip is in another fold than the rest of s0, as a typing mistake would do.
    torn = rewritten(tiny_table, lambda rows: [rows[0], rows[1].replace("s0,1", "s0,2"), *rows[2:]])
    found = check(tiny_recipe(torn))
    assert any(f.status == "problem" and f.topic in ("leak", "split") for f in found)
    for path in tiny_table.parent.glob("low_*.wav"):
        soundfile.write(path, np.tile(make_noise(seed=len(path.name)), 2), 16000)
    assert any("the length alone tells 'low'" in f.text for f in check(tiny_recipe(tiny_table)))


def test_tables_and_splits_that_do_not_work(tiny_table: Path) -> None:
    recipe = tiny_recipe(tiny_table)
    gone = recipe.data.source.model_copy(update={"path": str(tiny_table.with_name("none.csv"))})
    data = recipe.data.model_copy(update={"source": gone})
    assert statuses(check(recipe.model_copy(update={"data": data}))) == {"table": "problem"}
    lone = rewritten(
        tiny_table, lambda rows: [row for row in rows if ",s0," in row or "path" in row]
    )
    found = statuses(check(tiny_recipe(lone)))
    assert found["split"] == "problem"
    assert found["bad_audio"] == "ok"
