"""Metrics by subgroup and by speaker, from predictions to the files of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
from sklearn.metrics import balanced_accuracy_score
from typer.testing import CliRunner

from conftest import make_noise, make_tone
from harken.checkpoint import RunFolder
from harken.cli import app
from harken.errors import DataError
from harken.labels import Labels
from harken.predictor import load
from harken.recipe import Recipe, validate
from harken.thresholds import decide
from harken.verbs.evaluate import evaluate
from harken.verbs.explain import explain
from harken.verbs.fold_summary import summarise_folds
from harken.verbs.measure import arrays_of, limits_of, one_row_a_clip, summarise_predictions
from harken.verbs.train import train

TWO = Labels("single", ("ssd", "td"), ("label",), positive="ssd")


def write_children(folder: Path, num_children: int = 12, takes: int = 2) -> Path:
    """Clips of children of 3 to 8 years who say three words; every other child has a disorder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for child in range(num_children):
        ill = child % 2
        for word, pitch in (("cup", 300.0), ("bee", 500.0), ("zoo", 800.0)):
            for take in range(takes):
                name = f"{child}_{word}_{take}.wav"
                wave = make_tone(0.3, 8000, pitch * (1.6 if ill else 1.0))
                hiss = make_noise(0.3, 8000, seed=100 * child + 10 * take + len(rows))
                soundfile.write(folder / name, wave + 0.5 * hiss, 8000)
                part = "test" if child < 4 else "train"
                label = "ssd" if ill else "td"
                rows.append(
                    [name, label, f"k{child}", 3 + child // 2, word, "fm"[child % 3 % 2], part]
                )
    table = folder / "children.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "child", "age", "word", "sex", "part"])
        writer.writerows(rows)
    return table


def children_recipe(table: Path, **over: Any) -> Recipe:
    tree: dict[str, Any] = {
        "data": {
            "source": {"kind": "table", "path": str(table), "group": "child"},
            "target": {"columns": "label", "positive": "ssd"},
            "split": {"kind": "kfold", "folds": 2, "test_column": "part"},
        },
        "audio": {"sample_rate": 8000, "clip_seconds": 0.3},
        "frontend": {"kind": "log_mel", "n_mels": 16, "normalize": "dataset"},
        "backbone": {"kind": "cnn", "widths": [4, 8]},
        "optimizer": {"kind": "adamw", "lr": 0.01},
        "train": {"epochs": 2, "batch_size": 8},
        "calibrate": {
            "thresholds": {"kind": "youden", "by": {"column": "age", "bins": [0, 5, 99]}}
        },
        "evaluate": {
            "num_resamples": 30,
            "by": ["word", {"column": "age", "bins": [0, 5, 99], "min_clips": 2}, "sex"],
            "vote": "group",
        },
    }
    return validate(tree | over)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("children")
    table = write_children(folder / "clips")
    return train(children_recipe(table), folder / "run")


def test_every_fold_judges_the_same_held_out_clips_and_its_own_part(run: RunFolder) -> None:
    first, second = (fold.read_table("splits.parquet") for fold in run.folds)
    for name in ("test", "valid"):
        one, two = (set(part.filter(pl.col("split") == name)["id"]) for part in (first, second))
        assert (one == two) == (name == "test")
        assert name == "test" or not one & two
    summary = run.read_json("metrics.json")
    for fold, told in zip(run.folds, summary["folds"], strict=True):
        own = fold.read_json("metrics.json")
        for split in ("valid", "test"):
            assert told[split]["accuracy"] == own[split]["metrics"]["accuracy"]["value"]
    for split, mean in (("test", summary["mean"]), ("valid", summary["valid"]["mean"])):
        values = [told[split]["log_loss"] for told in summary["folds"]]
        assert mean["log_loss"] == pytest.approx(np.mean(values))
    assert summary["valid"]["std"]["log_loss"] is not None


def test_clips_that_all_folds_judge_count_once(run: RunFolder) -> None:
    summary = run.read_json("metrics.json")
    pooled = run.read_table("predictions.parquet")
    frames = [
        f.read_table("predictions.parquet").filter(pl.col("split") == "test") for f in run.folds
    ]
    assert len(pooled) == len(frames[0]) == summary["pooled"]["num_clips"] == 24
    assert pooled["id"].is_unique().all()
    mean = (frames[0]["score_ssd"] + frames[1]["score_ssd"]) / 2
    assert pooled["score_ssd"].to_numpy() == pytest.approx(mean.to_numpy())
    limit = (frames[0]["threshold_ssd"] + frames[1]["threshold_ssd"]) / 2
    assert pooled["threshold_ssd"].to_numpy() == pytest.approx(limit.to_numpy())
    said = np.where(mean >= limit, "ssd", "td").tolist()
    assert pooled["decision"].to_list() == said
    assert "the 2 folds share their test clips" in " ".join(summary["pooled"]["notes"])
    rest = summary["valid"]["pooled"]
    assert rest["num_clips"] == 48
    assert "these clips chose the epochs and thresholds" in " ".join(rest["notes"])


def test_subgroups_are_in_the_metrics_and_beside(run: RunFolder) -> None:
    for part in (run, run.folds[0]):
        metrics = part.read_json("metrics.json")
        told = metrics.get("pooled") or metrics["test"]
        frame = part.read_table("predictions.parquet").filter(pl.col("split") == "test")
        assert set(told["by"]) == {"word", "age", "sex"}
        assert [g["group"] for g in told["by"]["age"]["groups"]] == ["0 to <5"]
        rows = told["by"]["word"]["groups"]
        assert [g["group"] for g in rows] == ["bee", "cup", "zoo"]
        for row in rows:
            own = frame.filter(pl.col("word") == row["group"])
            assert row["num_groups"] == own["group"].n_unique() == 4
            expected = balanced_accuracy_score(own["target"], own["decision"])
            assert row["metrics"]["balanced_accuracy"]["value"] == pytest.approx(expected)
        table = pl.read_csv(part.path / "by_group.csv")
        assert table["column"].to_list().count("word") == 3
        assert {"clips_ssd", "right_td", "sensitivity_low", "note"} <= set(table.columns)


def test_each_child_is_decided_once(run: RunFolder) -> None:
    told = run.read_json("metrics.json")["pooled"]["vote"]
    votes = run.read_table("votes.parquet")
    frame = run.read_table("predictions.parquet")
    assert told["voter"] == "group"
    assert told["num_voters"] == len(votes) == 4
    assert votes["clips"].to_list() == [6] * 4
    means = frame.group_by("group", maintain_order=True).agg(
        pl.col("score_ssd", "threshold_ssd").mean()
    )
    assert votes["score_ssd"].to_numpy() == pytest.approx(means["score_ssd"].to_numpy())
    said = np.where(means["score_ssd"] >= means["threshold_ssd"], "ssd", "td").tolist()
    assert votes["decision"].to_list() == said
    expected = balanced_accuracy_score(votes["target"], votes["decision"])
    assert told["metrics"]["balanced_accuracy"]["value"] == pytest.approx(expected)
    assert {"sensitivity", "specificity", "roc_auc"} <= set(told["metrics"])
    assert (run.folds[0].path / "votes.parquet").is_file()


def test_thresholds_by_age_decide_everywhere_alike(run: RunFolder, tmp_path: Path) -> None:
    fold = run.folds[0]
    told = fold.read_json("calibration.json")
    assert told["rule"]["by"] == {"column": "age", "bins": [0.0, 5.0, 99.0]}
    frame = fold.read_table("predictions.parquet")
    for row in frame.iter_rows(named=True):
        band = "0 to <5" if row["age"] < 5 else "5 to 99"
        limit = (told["subgroups"].get(band) or told["thresholds"])[0]
        assert row["threshold_ssd"] == pytest.approx(limit)
        assert row["decision"] == ("ssd" if row["score_ssd"] >= limit else "td")
    again = evaluate(run)
    pooled = run.read_json("metrics.json")["pooled"]
    assert again["metrics"]["accuracy"]["value"] == pooled["metrics"]["accuracy"]["value"]
    assert again["num_clips"] == 24
    table = run.path.parent / "clips" / "new.csv"
    pl.read_csv(run.path.parent / "clips" / "children.csv").head(24).drop("sex").write_csv(table)
    metrics = evaluate(run, on=table)
    assert "nothing is said by sex: these clips lack it" in metrics["notes"]
    assert metrics["vote"]["num_voters"] == 4
    new = RunFolder(run.path / "evaluations" / "new")
    expected = run.read_table("predictions.parquet")["decision"].to_list()
    assert new.read_table("predictions.parquet")["decision"].to_list() == expected
    assert new.has("by_group.csv")
    assert new.has("votes.parquet")
    pl.read_csv(table).drop("age").write_csv(table)
    with pytest.raises(DataError, match="no column 'age'"):
        evaluate(run, on=table)


def test_files_are_predicted_with_what_is_known_of_them(run: RunFolder) -> None:
    predictor = load(run.path)
    clip = run.path.parent / "clips" / "5_cup_0.wav"
    with pytest.raises(DataError, match="needs to know age of a clip → --with age=…"):
        predictor.predict([clip])
    row = predictor.predict([clip], covariates={"age": 4}).row(0, named=True)
    limits = np.mean(
        [(c.subgroups.get("0 to <5") or c.thresholds)[0] for c in predictor.calibrations]  # type: ignore[index]
    )
    assert row["decision"] == ("ssd" if row["score_ssd"] >= limits else "td")
    words = ["predict", str(run.path), str(clip), "--with", "age=4", "--json"]
    done = CliRunner().invoke(app, words)
    assert json.loads(done.stdout)["decision"] == row["decision"], done.output
    with pytest.raises(DataError, match="'age' must be a number, and this is 'four'"):
        predictor.predict([clip], covariates={"age": "four"})


def test_an_explanation_decides_as_a_prediction_does(run: RunFolder, tmp_path: Path) -> None:
    clip = run.path.parent / "clips" / "5_cup_0.wav"
    told = {"age": 4}
    expected = load(run.folds[0].path).predict([clip], covariates=told)["decision"][0]
    method = "integrated_gradients"
    (made,) = explain(run.path, [clip], method, out=tmp_path, words=["points=2"], covariates=told)
    assert made.explanation.decision == expected
    with pytest.raises(DataError, match="no column 'age'"):
        explain(run.path, [clip], method, out=tmp_path, words=["points=2"])


def over(table: Path, **sections: Any) -> Recipe:
    return children_recipe(table, train={"epochs": 1}, **sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"evaluate": {"by": "wrod"}}, "no column 'wrod', did you mean 'word'"),
        ({"evaluate": {"by": {"column": "age", "bins": [4, 9]}}}, "age 3 lies outside the bins"),
        ({"evaluate": {"by": {"column": "word", "bins": [4, 9]}}}, "must be a number"),
        ({"evaluate": {"vote": "chidl"}}, "no column 'chidl', did you mean 'child'"),
        ({"calibrate": {"thresholds": {"kind": "f1", "by": "wrod"}}}, "did you mean 'word'"),
        ({"calibrate": {"thresholds": {"kind": "formula", "age": "sex"}}}, "must be a number"),
        (
            {"calibrate": {"thresholds": {"kind": "formula", "difficulty": "hangul"}}},
            "has no Hangul syllable",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    table = write_children(tmp_path / "clips", 6, 1)
    with pytest.raises(DataError, match=message):
        train(over(table, **sections), tmp_path / "run")
    assert not (tmp_path / "run" / "fold-1" / "model.safetensors").exists()


def predictions(rows: int = 40, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    truth, ill = rng.integers(0, 2, rows), rng.random(rows)
    return pl.DataFrame(
        {
            "id": [f"c{i}" for i in range(rows)],
            "fold": ["1"] * rows,
            "target": ["ssd" if t else "td" for t in truth],
            "decision": ["ssd" if s >= 0.4 else "td" for s in ill],
            "score_ssd": ill,
            "score_td": 1 - ill,
            "threshold_ssd": [0.4] * rows,
            "loss": rng.random(rows),
            "word": rng.choice(["cup", "bee"], rows),
            "table_target": rng.choice(["x", "y"], rows),
            "speaker": [f"s{i % 5}" for i in range(rows)],
        }
    )


def recipe_with(tmp_path: Path, **told: Any) -> Recipe:
    evaluation = {"num_resamples": 20, **told}
    return children_recipe(tmp_path / "none.csv", evaluate=evaluation)


def test_asking_for_nothing_adds_nothing(tmp_path: Path) -> None:
    found = summarise_predictions(recipe_with(tmp_path), TWO, predictions())
    assert not {"by", "vote"} & set(found)


def test_a_column_of_the_table_is_found_under_its_other_name(tmp_path: Path) -> None:
    found = summarise_predictions(recipe_with(tmp_path, by=["target"]), TWO, predictions())
    assert [g["group"] for g in found["by"]["target"]["groups"]] == ["x", "y"]


def test_votes_need_targets_and_voters(tmp_path: Path) -> None:
    frame = predictions()
    alone = recipe_with(tmp_path, vote="speaker")
    found = summarise_predictions(alone, TWO, frame)["vote"]
    assert "speakers have clips of several classes" in found["notes"][0]
    assert found["num_voters"] == 5
    assert "vote" not in summarise_predictions(recipe_with(tmp_path, vote="nobody"), TWO, frame)
    tied = pl.DataFrame({"target": ["ssd", "td"] * 20})
    found = summarise_predictions(alone, TWO, frame.with_columns(tied, speaker=pl.lit("s")))["vote"]
    assert found["metrics"] == {}
    assert found["notes"][-1] == "no speaker has a target"


def test_one_row_a_clip_leaves_single_rows_alone() -> None:
    frame = predictions()
    assert one_row_a_clip(TWO, frame) is frame
    other = predictions(seed=1).with_columns(fold=pl.lit("2"), target=frame["target"])
    both = one_row_a_clip(TWO, pl.concat([frame, other]))
    assert both.columns == frame.columns
    target, score, decision = arrays_of(TWO, both)
    assert score[:, 0] == pytest.approx(((frame["score_ssd"] + other["score_ssd"]) / 2).to_numpy())
    assert (target.argmax(1) == (frame["target"] == "td").to_numpy()).all()
    assert decision is not None
    assert (decision == decide(TWO, score, limits_of(TWO, both))).all()
    assert limits_of(TWO, frame.drop("threshold_ssd")) is None


def test_a_summary_over_folds_can_be_written_again(run: RunFolder) -> None:
    before = run.read_json("metrics.json")
    recipe = validate(before and children_recipe(run.path / "x.csv").model_dump(mode="json"))
    assert summarise_folds(run, recipe)["mean"] == before["mean"]
