from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harken.report.importance import FEWEST, Importance, importance_of, together

Settings = dict[str, list[Any]]


def searched(count: int, seed: int = 0) -> Settings:
    rng = np.random.default_rng(seed)
    kinds = [str(kind) for kind in rng.choice(["cnn", "bert", "timm"], count)]
    return {
        "lr": [float(10**x) for x in rng.uniform(-5, -2, count)],
        "kind": kinds,
        "depth": [{"cnn": 1, "bert": 2, "timm": 3}[kind] for kind in kinds],
        "noise": [float(x) for x in rng.random(count)],
        "flag": [bool(x) for x in rng.random(count) < 0.5],
        "alpha": [None if x < 0.4 else float(x) for x in rng.random(count)],
        "same": [7] * count,
    }


def reached(settings: Settings, kind: float = 0.0, alpha: float = 0.0) -> list[float]:
    lr = np.log10(settings["lr"])
    is_cnn = np.array([value == "cnn" for value in settings["kind"]])
    has_alpha = np.array([value is not None for value in settings["alpha"]])
    return list(0.8 - 0.05 * (lr + 3.4) ** 2 + kind * is_cnn + alpha * has_alpha)


def test_what_matters_comes_first_and_noise_has_nothing() -> None:
    settings = searched(60)
    found = importance_of(settings, reached(settings))
    names = [names for names, _ in found.falls]
    falls = dict(found.falls)
    assert names[0] == ("lr",)
    assert falls["lr",] > 0.5
    assert all(abs(fall) < 0.05 for name, fall in found.falls if name != ("lr",))
    assert found.out_of_bag_r2 is not None
    assert found.out_of_bag_r2 > 0.8
    assert found.reason == ""


def test_words_and_missing_values_matter_too() -> None:
    settings = searched(60)
    by_kind = importance_of(settings, reached(settings, kind=0.5))
    assert by_kind.falls[0][0] == ("kind", "depth")
    by_alpha = importance_of(settings, reached(settings, alpha=0.5))
    assert by_alpha.falls[0][0] == ("alpha",)


def test_luck_has_no_r2() -> None:
    settings = searched(60)
    luck = np.random.default_rng(5).standard_normal(60)
    found = importance_of(settings, list(luck))
    assert found.out_of_bag_r2 is not None
    assert found.out_of_bag_r2 < 0.1


def test_the_r2_is_scikit_learns_out_of_bag_score() -> None:
    from sklearn.ensemble import RandomForestRegressor

    settings = {"lr": searched(40)["lr"], "noise": searched(40)["noise"]}
    target = reached(searched(40))
    forest = RandomForestRegressor(100, min_samples_leaf=2, random_state=0, oob_score=True)
    score = forest.fit(np.array(list(settings.values())).T, target).oob_score_
    assert importance_of(settings, target).out_of_bag_r2 == pytest.approx(score, abs=1e-6)


def test_the_same_runs_have_the_same_importance() -> None:
    settings = searched(20)
    one, two = (importance_of(settings, reached(settings)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("count", [0, 1, FEWEST - 1])
def test_few_runs_tell_nothing(count: int) -> None:
    settings = searched(count)
    found = importance_of(settings, reached(settings) if count else [])
    assert found == Importance(reason=found.reason)
    assert f"{count} runs are too few" in found.reason


def test_equal_numbers_or_settings_tell_nothing() -> None:
    settings = searched(12)
    assert "the same number" in importance_of(settings, [0.5] * 12).reason
    assert "no setting differs" in importance_of({"a": [1] * 12}, reached(settings)).reason


def test_settings_that_cannot_be_told_apart_are_one() -> None:
    settings = searched(30)
    groups = together(settings)
    assert ("kind", "depth") in groups
    assert ("lr",) in groups
    assert ("noise",) in groups
    assert not any("same" in group for group in groups)


def test_numbers_new_in_each_run_are_one_only_in_the_same_order() -> None:
    rising = [0.1, 0.2, 0.3, 0.4]
    assert together({"a": rising, "b": [1, 2, 3, 4], "c": [1, 3, 2, 4]}) == [("a", "b"), ("c",)]
    assert together({"a": [1, 1, 2, 2], "b": [9.0, 9.0, 4.0, 4.0]}) == [("a", "b")]
    assert together({"a": [8, 8.0, 9, 9], "b": ["x", "x", "y", "y"]}) == [("a", "b")]
    assert together({"a": [None, 1, 2, 3], "b": [0, 1, 2, 3]}) == [("a", "b")]
