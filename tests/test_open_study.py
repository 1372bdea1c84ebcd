from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from harken.errors import ConfigError, RunError
from harken.verbs.open_study import open_study
from test_study import claimed, complete, recipe_of, study_in


def test_a_study_says_what_it_is(tmp_path: Path) -> None:
    complete(study_in(tmp_path / "s", name="mine"), 0.5)
    told = json.loads((tmp_path / "s/study.json").read_text())
    assert {k: told[k] for k in ("name", "metric", "split", "direction", "storage")} == {
        "name": "mine",
        "metric": "roc_auc",
        "split": "valid",
        "direction": "maximize",
        "storage": "study.journal",
    }
    assert len(told["recipe_sha"]) == 64
    assert study_in(tmp_path / "s").trials()[0].value == 0.5


def test_a_study_may_move_with_its_folder(tmp_path: Path) -> None:
    complete(study_in(tmp_path / "s"), 0.5)
    (tmp_path / "s").rename(tmp_path / "t")
    assert len(study_in(tmp_path / "t").trials()) == 1


@pytest.mark.parametrize("place", ["sqlite:///{}/study.db", "{}/deep/study.log"])
def test_a_study_may_be_kept_elsewhere(tmp_path: Path, place: str) -> None:
    where = place.format(tmp_path)
    complete(study_in(tmp_path / "s", where=where), 0.5)
    assert len(study_in(tmp_path / "s").trials()) == 1
    assert len(study_in(tmp_path / "s", where=where).trials()) == 1
    assert not (tmp_path / "s/study.journal").exists()
    with pytest.raises(RunError, match="is kept in"):
        study_in(tmp_path / "s", where=str(tmp_path / "other.log"))
    with pytest.raises(RunError, match=f"'s' lie in {tmp_path}/s"):
        study_in(tmp_path / "t" / "s", where=where)
    assert study_in(tmp_path / "u", where=where).trials() == []  # by its folder's name


def test_a_study_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of()
    study_in(tmp_path, recipe)
    other = recipe.model_copy(
        update={"seed": 3, "train": recipe.train.model_copy(update={"epochs": 7})}
    )
    with pytest.raises(RunError, match=r"seed: 0 there, 3 here") as caught:
        study_in(tmp_path, other)
    assert "train.epochs: 40 there, 7 here" in str(caught.value)
    with pytest.raises(RunError, match=r"search.constraints"):
        study_in(tmp_path, recipe_of(constraints="optimizer.lr < 1"))
    with pytest.raises(RunError, match=r'folds: \[""\] there, \["1"\] here'):
        study_in(tmp_path, recipe, folds=["1"])
    with pytest.raises(RunError, match='metric: "roc_auc" there, "accuracy" here'):
        open_study(recipe, tmp_path, "accuracy", True)


def test_where_and_how_may_change(tmp_path: Path) -> None:
    recipe = recipe_of()
    study_in(tmp_path, recipe)
    train = recipe.train.model_copy(update={"device": "cpu", "memory_gigabytes": 1.0})
    data = recipe.data.model_copy(update={"cache": "elsewhere"})
    study_in(tmp_path, recipe.model_copy(update={"train": train, "data": data}))


def test_what_is_no_study_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something that is no study"):
        study_in(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_study_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(RunError, match=r"study\.json is damaged"):
        study_in(tmp_path)


def test_a_folder_whose_trials_a_service_chooses_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"name": "s", "metric": "roc_auc", "storage": "Vertex AI"}
    (tmp_path / "study.json").write_text(json.dumps(about))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"Vertex AI → .*tune score"):
        study_in(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["study.json"]


def test_trials_whose_study_is_gone(tmp_path: Path) -> None:
    study_in(tmp_path)
    (tmp_path / "trial-0000").mkdir()
    (tmp_path / "study.journal").unlink()
    with pytest.raises(RunError, match=r"there are trials here, but study.journal knows of none"):
        study_in(tmp_path)


def test_another_name_is_another_study(tmp_path: Path) -> None:
    study_in(tmp_path, name="a")
    with pytest.raises(RunError, match="called 'a', not 'b'"):
        study_in(tmp_path, name="b")


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("gs://bucket/study.journal", "not gs://"),
        ("memory://study", "not memory://"),
        ("study.db", "sqlite:///study.db"),
        ("nosuch://server/db", "cannot keep a study in nosuch://server/db"),
        ("sqlite:////nowhere/at/all/study.db", "unable to open database file"),
    ],
)
def test_places_that_keep_no_study(tmp_path: Path, where: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        study_in(tmp_path / "s", where=where)


def test_a_bucket_wants_to_be_told_where(tmp_path: Path) -> None:
    bucket: Any = "memory://tune-where/s"
    with pytest.raises(ConfigError, match="a bucket cannot keep a study"):
        study_in(bucket)
    study = study_in(bucket, where=str(tmp_path / "s.log"))
    complete(study, 0.5)
    assert len(study_in(bucket).trials()) == 1


@pytest.mark.parametrize("out", ["memory://tune-beside/s", "s"])
def test_a_journal_that_is_named_lies_where_the_name_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Any
) -> None:
    """`--study study.journal` is a file where the command runs, whatever --out is."""
    monkeypatch.chdir(tmp_path)
    complete(study_in(out, where="study.journal"), 0.5)
    assert Path("study.journal").stat().st_size > 0
    assert not Path("memory:").exists()
    assert not Path("s/study.journal").exists()
    assert len(study_in(out, where="study.journal").trials()) == 1
    assert len(study_in(out).trials()) == 1


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    complete(study_in(tmp_path), 0.5)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code": 5, "worker')
    study = study_in(tmp_path)
    complete(study, 0.6)
    assert [t.value for t in study_in(tmp_path).trials()] == [0.5, 0.6]


def test_passwords_are_not_written(tmp_path: Path) -> None:
    from harken.verbs.open_study import _without_password

    assert _without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert _without_password("sqlite:///a:b@c.db") == "sqlite:///a:b@c.db"
    folder = tmp_path / "s"
    study_in(folder)
    about = json.loads((folder / "study.json").read_text())
    about["storage"] = "postgresql://me:***@host/db"
    (folder / "study.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="wants a password"):
        study_in(folder)


def test_a_database_is_one_that_optuna_reads(tmp_path: Path) -> None:
    study = study_in(tmp_path / "s", where=f"sqlite:///{tmp_path}/study.db")
    complete(study, 0.25)
    assert claimed(study).trial.number == 1
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("select value from trial_values").fetchall() == [(0.25,)]
