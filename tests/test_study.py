from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harken.recipe import Recipe, validate
from harken.verbs.open_study import open_study
from harken.verbs.study import Claim, Study, tree_of

TREE = {"data": {"source": {"kind": "table", "path": "x.csv"}, "target": "label"}}
LR = {"kind": "float", "low": 1e-5, "high": 1e-1, "log": True}
WIDTH = {"kind": "categorical", "choices": [8, 16]}


def recipe_of(parameters: Any = None, **over: Any) -> Recipe:
    search = {"parameters": parameters or {"optimizer.lr": LR, "heads.bottleneck": WIDTH}, **over}
    return validate({**TREE, "search": search})


def study_in(folder: Path, recipe: Recipe | None = None, more: bool = True, **over: Any) -> Study:
    return open_study(recipe or recipe_of(), folder, "roc_auc", more, **over)


def claimed(study: Study, limit: int = 99) -> Claim:
    found = study.claim(limit)
    assert found is not None
    return found


def complete(study: Study, value: float) -> None:
    claim = claimed(study)
    study.finish(claim, replace(claim.trial, state="complete", value=value))


def test_trials_are_numbered_and_told(tmp_path: Path) -> None:
    study = study_in(tmp_path / "s")
    for value in (0.5, 0.7, 0.7):
        complete(study, value)
    claim = claimed(study)
    study.finish(claim, replace(claim.trial, state="failed", error="no luck"))
    claim = claimed(study)
    study.finish(claim, replace(claim.trial, state="pruned"))
    trials = study_in(tmp_path / "s").trials()
    assert [t.number for t in trials] == [0, 1, 2, 3, 4]
    assert [t.state for t in trials] == ["complete"] * 3 + ["failed", "pruned"]
    assert [t.value for t in trials] == [0.5, 0.7, 0.7, None, None]
    assert [t.error for t in trials] == [None] * 3 + ["no luck", None]
    assert trials[3].name == "trial-0003"
    assert all(set(t.values) == {"optimizer.lr", "heads.bottleneck"} for t in trials)


def test_the_best_is_the_largest_or_the_smallest_and_the_first_of_equals(tmp_path: Path) -> None:
    up, down = study_in(tmp_path / "up"), study_in(tmp_path / "down", more=False)
    assert up.best() is None
    for study in (up, down):
        for value in (0.5, 0.7, 0.7, 0.5):
            complete(study, value)
    assert [study.best().number for study in (up, down)] == [1, 0]  # type: ignore[union-attr]


def test_the_limit_counts_all_trials_of_the_study(tmp_path: Path) -> None:
    one, other = study_in(tmp_path), study_in(tmp_path)
    complete(one, 0.5)
    busy = claimed(one, 2)
    assert other.claim(2) is None
    one.finish(busy, replace(busy.trial, state="failed"))
    assert other.claim(2) is None
    assert claimed(other, 3).trial.number == 2


def test_what_a_process_left_is_taken_up_with_its_values(tmp_path: Path) -> None:
    one, other = study_in(tmp_path), study_in(tmp_path)
    complete(one, 0.5)
    left = claimed(one)
    assert left.is_new
    assert claimed(other).trial.number == 2
    left.lock.give_back()  # as the system does when a process ends
    again = claimed(other, 2)
    assert (again.trial, again.is_new) == (left.trial, False)
    other.finish(again, replace(again.trial, state="complete", value=0.6))
    assert [t.state for t in other.trials()] == ["complete", "complete", "running"]


def test_a_process_that_ended_before_it_drew_loses_nothing(tmp_path: Path) -> None:
    study = study_in(tmp_path / "a")
    number = study.handle.ask().number
    claim = claimed(study)
    assert (claim.trial.number, claim.is_new) == (number, True)
    whole = claimed(study_in(tmp_path / "b"))
    assert claim.trial.values == whole.trial.values


def test_trials_of_another_machine_are_left_alone_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, journal = recipe_of(), str(tmp_path / "j.log")
    study = study_in("memory://tune-hosts/s", recipe, where=journal)  # type: ignore[arg-type]
    left = claimed(study)
    left.lock.give_back()
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert claimed(study).trial.number == 1
    monkeypatch.undo()
    assert claimed(study).trial.number == 0


def test_a_grid_is_walked_once_in_order(tmp_path: Path) -> None:
    parameters = {"heads.shared": WIDTH, "heads.bottleneck": WIDTH}
    recipe = recipe_of(parameters, constraints="heads.bottleneck <= heads.shared", sampler="grid")
    one, other = study_in(tmp_path, recipe), study_in(tmp_path, recipe)
    found = [claimed(study).trial.values for study in (one, other, one)]
    assert found == recipe.search.grid(tree_of(recipe))  # type: ignore[union-attr]
    assert one.claim(99) is None


def test_reports_are_compared_by_epoch(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    for base in (0.1, 0.2):
        claim = claimed(study)
        for epoch in (1, 2, 3):
            study.report(claim, epoch, base * epoch)
        study.finish(claim, replace(claim.trial, state="complete", value=base))
    pruned = claimed(study)
    study.report(pruned, 1, 9.0)
    study.finish(pruned, replace(pruned.trial, state="pruned"))
    claim = claimed(study)
    assert study.report(claim, 2, 0.0) == [0.2, 0.4]
    assert study.report(claim, 9, 0.0) == pytest.approx([0.3, 0.6])
    assert study.report(claim, 9, 5.0) == pytest.approx([0.3, 0.6])
    claim.lock.give_back()
    assert claimed(study).steps == {2, 9}


def test_whole_slots_are_kept_as_they_are(tmp_path: Path) -> None:
    choices = [{"kind": "mlp", "hidden": [4]}, "cnn", {"kind": "mlp", "hidden": [8, 4]}]
    recipe = recipe_of({"backbone": {"kind": "categorical", "choices": choices}}, sampler="grid")
    study = study_in(tmp_path, recipe)
    for value in (0.1, 0.2, 0.3):
        complete(study, value)
    assert [t.values["backbone"] for t in study_in(tmp_path, recipe).trials()] == choices
