from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from harken.standings import (
    Run,
    as_words,
    combined,
    distance_to_average,
    distance_to_best,
    number_text,
    rank_runs,
    setting_text,
)


def run(name: str, values: dict[str, float | None] | None = None, **more: Any) -> Run:
    told: dict[str, Any] = {"metric": "roc_auc", "task": "multi", "split": "valid", "clips": "a"}
    return Run(name, f"runs/{name}", values=values or {}, **told | more)


def by_hand(values: list[list[float]], lower: bool) -> list[tuple[float, float, float]]:
    """Sum, distance to the average and to the best, in loops, as 001's inventory writes them."""
    found = []
    for mine in values:
        total = average = best = 0.0
        for label in range(len(mine)):
            column = [row[label] for row in values]
            total += mine[label]
            average += abs(mine[label] - sum(column) / len(column))
            best += abs(mine[label] - (min(column) if lower else max(column)))
        found.append((total, average, best))
    return found


@pytest.mark.parametrize("metric", ["roc_auc", "mae"])
def test_numbers_are_those_of_plain_loops(metric: str) -> None:
    values = np.random.default_rng(0).random((7, 3)).round(3).tolist()
    runs = [
        run(f"r{i}", dict(zip("abc", row, strict=True)), metric=metric)
        for i, row in enumerate(values)
    ]
    standings = rank_runs(runs, "valid")
    lower = metric == "mae"
    expected = by_hand(values, lower)
    order = sorted(range(7), key=lambda i: expected[i][0] * (1 if lower else -1))
    assert [row.run.name for row in standings.rows] == [f"r{i}" for i in order]
    assert [row.rank for row in standings.rows] == [1, 2, 3, 4, 5, 6, 7]
    for row, i in zip(standings.rows, order, strict=True):
        assert (row.combined, row.dist_avg, row.dist_max) == pytest.approx(expected[i])
        assert row.mean == pytest.approx(expected[i][0] / 3)


def test_distances_of_arrays() -> None:
    values = np.array([[0.5, 0.9], [0.7, 0.8], [0.6, 0.4]])
    assert distance_to_average(values) == pytest.approx([0.1 + 0.2, 0.1 + 0.1, 0.0 + 0.3])
    assert distance_to_best(values) == pytest.approx([0.2, 0.1, 0.1 + 0.5])
    assert distance_to_best(values, lower_is_better=True) == pytest.approx([0.5, 0.2 + 0.4, 0.1])
    assert combined([0.5, 0.25]) == 0.75


def test_equal_sums_share_a_rank() -> None:
    values = [{"a": 0.1, "b": 0.2}, {"a": 0.2, "b": 0.1}, {"a": 0.1, "b": 0.1}]
    standings = rank_runs([run(f"r{i}", v) for i, v in enumerate(values)], "valid")
    assert [row.rank for row in standings.rows] == [1, 1, 3]


def test_a_run_that_lacks_a_number_is_not_compared_and_counts_in_no_mean() -> None:
    runs = [
        run("one", {"a": 0.9, "b": 0.8}),
        run("two", {"a": 0.7, "b": 0.6}),
        run("odd", {"a": 0.1, "b": None}),
    ]
    standings = rank_runs(runs, "valid")
    *ranked, odd = standings.rows
    assert [row.dist_avg for row in ranked] == pytest.approx([0.2, 0.2])
    assert odd.run.state == "not compared"
    assert "undefined for b" in odd.run.reason
    assert (odd.rank, odd.combined, odd.mean, odd.dist_avg, odd.dist_max) == (None,) * 5
    frame = standings.frame()
    assert frame["roc_auc_a"].to_list() == [0.9, 0.7, 0.1]
    assert frame["roc_auc_b"].to_list() == [0.8, 0.6, None]
    assert "undefined for b" in frame["note"][2]


def test_a_label_that_most_runs_lack_counts_for_nobody() -> None:
    runs = [run(f"r{i}", {"a": 0.5 + i / 10, "b": 0.9 if i == 0 else None}) for i in range(3)]
    standings = rank_runs(runs, "valid")
    assert standings.labels == ("a",)
    assert standings.others == ("b",)
    assert [row.combined for row in standings.rows] == pytest.approx([0.7, 0.6, 0.5])
    assert any("undefined for b in most runs" in note for note in standings.notes)
    assert standings.frame()["roc_auc_b"].to_list() == [None, None, 0.9]


def test_nothing_is_ranked_by_numbers_that_nobody_has() -> None:
    standings = rank_runs([run("x", {"a": None})], "valid")
    assert standings.ranked == ()
    assert "undefined for a" in standings.rows[0].run.reason


def test_other_labels_and_tasks_are_not_compared() -> None:
    runs = [
        run("one", {"a": 0.9}),
        run("two", {"a": 0.8}),
        run("others", {"x": 0.99}),
        run("values", {"a": 0.1}, task="regression", metric="mae"),
    ]
    rows = rank_runs(runs, "valid").rows
    assert [row.run.name for row in rows if row.rank] == ["one", "two"]
    assert "it has x (multi), most runs have a (multi)" in rows[2].run.reason
    assert "(regression)" in rows[3].run.reason


def test_test_clips_are_not_compared_with_validation_clips() -> None:
    runs = [run("mine", {"a": 0.6}), run("old", {"a": 0.9}, split="test", is_whole=False)]
    rows = rank_runs(runs, "valid").rows
    assert [row.rank for row in rows] == [1, None]
    assert "--split test" in rows[1].run.reason
    alone = rank_runs([run("old", {"a": 0.9}, split="test")], "valid").rows
    assert alone[0].rank == 1


def test_states_without_numbers_come_last_in_order() -> None:
    runs = [
        run("b", state="broken", reason="damaged"),
        run("u", state="unfinished"),
        run("f", state="failed"),
        run("p", state="pruned"),
        run("ok", {"a": 0.5}),
    ]
    rows = rank_runs(runs, "valid").rows
    assert [row.run.name for row in rows] == ["ok", "p", "f", "u", "b"]
    assert rank_runs(runs, "valid").frame()["state"].to_list() == [
        "ranked", "pruned", "failed", "unfinished", "broken"
    ]  # fmt: skip


def test_settings_that_differ_become_columns_the_searched_ones_first() -> None:
    settings = [
        {"seed": 0, "mix": None, "optimizer.lr": 1e-3, "heads.dropout": 0, "train.epochs": 5},
        {"seed": 1, "mix.kind": "mixup", "optimizer.lr": 1e-4, "heads.dropout": 0.0},
    ]
    runs = [
        run(f"r{i}", {"a": 0.5}, settings=told, searched=("optimizer", "mix"))
        for i, told in enumerate(settings)
    ]
    standings = rank_runs(runs, "valid")
    assert standings.settings == ("optimizer.lr", "mix.kind", "seed", "train.epochs")
    frame = standings.frame()
    assert frame["optimizer.lr"].to_list() == [1e-3, 1e-4]
    assert frame["mix.kind"].to_list() == [None, "mixup"]
    assert frame.columns[:4] == ["rank", "run", "optimizer.lr", "mix.kind"]


def test_what_is_known_in_part_only_differs_where_it_is_known() -> None:
    whole = [run(f"w{i}", {"a": 0.5}, settings={"x": 1, "y": 2}) for i in range(2)]
    part = run("p", {"a": 0.5}, settings={"x": 3}, is_whole=False)
    assert rank_runs([*whole, part], "valid").settings == ("x",)


def test_columns_have_one_type_each() -> None:
    cells: list[list[Any]] = [[1, 2.5], [8, "all"], [True, False], [True, 1], [None, 3], ["a", "b"]]
    settings = [{f"s{i}": pair[k] for i, pair in enumerate(cells)} for k in range(2)]
    runs = [run(f"r{k}", {"a": 0.5}, settings=settings[k]) for k in range(2)]
    frame = rank_runs(runs, "valid").frame()
    types = [frame[f"s{i}"].dtype for i in range(6)]
    assert types == [pl.Float64, pl.String, pl.Boolean, pl.String, pl.Int64, pl.String]
    assert frame["s1"].to_list() == ["8", "all"]
    assert frame["s3"].to_list() == ["true", "1"]


def test_trials_of_a_study_have_their_numbers() -> None:
    runs = [run("t3", {"a": 0.4}, study="first", trial=3), run("x", {"a": 0.5})]
    frame = rank_runs(runs, "valid").frame()
    assert frame["study"].to_list() == [None, "first"]
    assert frame["trial"].to_list() == [None, 3]
    assert "study" not in rank_runs(runs[1:], "valid").frame().columns


def test_other_clips_are_told() -> None:
    runs = [run("one", {"a": 0.9}), run("two", {"a": 0.8}, clips="b")]
    assert any("2 different sets of clips" in note for note in rank_runs(runs, "valid").notes)
    assert rank_runs(runs[:1], "valid").notes == ()


def test_numbers_and_settings_as_people_read_them() -> None:
    assert [number_text(v) for v in (300.0, 0.0003, 1e-5, 2.5e-7, 1e12, -0.5)] == [
        "300", "0.0003", "1e-5", "2.5e-7", "1e12", "-0.5"
    ]  # fmt: skip
    assert [setting_text(v) for v in (None, True, 8, 0.123456, "all")] == [
        "–", "true", "8", "0.1235", "all"
    ]  # fmt: skip
    assert [as_words(v) for v in (None, False, 1.0, "a")] == ["null", "false", "1.0", "a"]
    assert math.isclose(float(number_text(1e-5)), 1e-5)
