from __future__ import annotations

from typing import Any

import optuna
import pytest

from harken.errors import ConfigError
from harken.search import Search, TpeSampler
from harken.search.search_parameters import CategoricalParameter, FloatParameter, IntParameter
from harken.verbs.study_sampler import (
    Given,
    NextValues,
    distribution,
    from_label,
    suggest,
    to_label,
)

LR = {"kind": "float", "low": 1e-5, "high": 1e-1, "log": True}


def search_of(parameters: dict[str, Any], **over: Any) -> Search:
    return Search.model_validate({"parameters": parameters, **over})


def picks(search: Search, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Let a sampler pick one trial after another; a trial is the better the nearer x is to 3."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given: Any = Given()
    study = optuna.create_study(sampler=given)
    found = []
    for number in range(count):
        trial = study.ask()
        frozen = study.get_trials(deepcopy=False)[number]
        values = NextValues(search, {}, seed).pick(study, frozen)
        given.values = {path: to_label(search, path, v) for path, v in values.items()}
        for path in values:
            suggest(trial, path, search.parameters[path])
        study.tell(trial, abs(values.get("x", 0) - 3))
        found.append(values)
    assert [set(t.params) for t in study.trials] == [set(values) for values in found]
    return found


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_the_same_seed_picks_the_same(kind: str) -> None:
    search = search_of({"x": LR, "y": {"kind": "int", "low": 0, "high": 100}}, sampler=kind)
    one = picks(search, 14)
    assert picks(search, 14) == one
    assert picks(search, 14, seed=1) != one
    assert len({values["x"] for values in one}) == 14


def test_tpe_learns_after_its_first_trials() -> None:
    parameters = {"x": {"kind": "float", "low": -10, "high": 10}}
    tpe = search_of(parameters, sampler={"kind": "tpe", "startup_trials": 5})
    late = picks(search_of(parameters, sampler={"kind": "tpe", "startup_trials": 40}), 40)
    soon = picks(tpe, 40)
    assert soon[:5] == late[:5]
    assert soon[5:] != late[5:]
    near = [sum(abs(v["x"] - 3) < 2 for v in each[20:]) for each in (soon, late)]
    assert near[0] > near[1]


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_picks_meet_constraints_and_conditions(kind: str) -> None:
    widths = {"kind": "categorical", "choices": [1, 2, 3, 4]}
    search = search_of(
        {"a": widths, "b": widths, "x": {**LR, "when": {"a": [3, 4]}}},
        constraints=["b < a"],
        sampler=kind,
    )
    found = picks(search, 20)
    assert all(values["b"] < values["a"] for values in found)
    assert all(("x" in values) == (values["a"] > 2) for values in found)


def test_a_needle_in_a_finite_space_is_found() -> None:
    wide = {"kind": "int", "low": 1, "high": 120}
    search = search_of({"a": wide, "b": wide}, constraints="a == 7 and b == 8", sampler="random")
    assert picks(search, 1) == [{"a": 7, "b": 8}]


def test_the_impossible_is_given_up() -> None:
    search = search_of({"x": LR}, constraints="x > 1")
    with pytest.raises(ConfigError, match=r"none of 10,000 combinations meets x > 1"):
        picks(search, 1)


def test_values_survive_optuna() -> None:
    choices = [None, True, "a", {"kind": "lstm"}, 1.5, 1]
    search = search_of({"p": {"kind": "categorical", "choices": choices}})
    parameter = search.parameters["p"]
    labels = [to_label(search, "p", choice) for choice in choices]
    assert labels == list(distribution(parameter).choices)
    assert [repr(from_label(parameter, label)) for label in labels] == list(map(repr, choices))
    plain = CategoricalParameter(choices=["a", 2, None])
    assert list(distribution(plain).choices) == ["a", 2, None]


def test_spaces_are_what_optuna_calls_them() -> None:
    found = distribution(FloatParameter(low=1e-5, high=1e-1, log=True))
    assert (found.low, found.high, found.log) == (1e-5, 1e-1, True)
    stepped = FloatParameter(low=0.0, high=1.0, step=0.3)
    assert distribution(stepped).high == 0.9
    assert from_label(stepped, 0.6000000001) == 0.6
    assert distribution(IntParameter(low=0, high=12, step=5)).high == 10
    assert distribution(FloatParameter(low=1.0, high=1.0)).single()
    assert TpeSampler().startup_trials == 10


def test_a_parameter_of_one_value_is_that_value() -> None:
    one = {"kind": "categorical", "choices": ["only"]}
    search = search_of({"p": one, "q": {"kind": "float", "low": 2, "high": 2}})
    assert picks(search, 2) == [{"p": "only", "q": 2.0}] * 2
