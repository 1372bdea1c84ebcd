from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from harken.errors import ConfigError
from harken.recipe import Recipe, validate
from harken.search import Sampler
from harken.vertex.study_spec import Study, category, metric_of, study_of

SHARED = {"kind": "categorical", "choices": [300, 700, 768]}


def recipe_with(parameters: dict[str, Any], **search: Any) -> Recipe:
    tree: dict[str, Any] = {
        "data": {"source": {"kind": "folder", "path": "gs://b/clips"}},
        "heads": {"shared": 768, "bottleneck": 300},
        "search": {"parameters": parameters, "metric": "roc_auc", "sampler": "random", **search},
    }
    return validate(tree)


def study(parameters: dict[str, Any], **search: Any) -> Study:
    return study_of(recipe_with(parameters, **search))


def specs(parameters: dict[str, Any], **search: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = study(parameters, **search).spec["parameters"]
    return found


def draws(parameters: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination that the service can draw from finite specs."""
    if not parameters:
        yield {}
        return
    spec, rest = parameters[0], parameters[1:]
    for value, key, wanted in values_of(spec):
        below = [
            child["parameterSpec"]
            for child in spec.get("conditionalParameterSpecs", [])
            if wanted in child[key]["values"]
        ]
        for deeper in draws(below):
            for other in draws(rest):
                assert not deeper.keys() & other.keys(), "one parameter is drawn twice"
                yield {spec["parameterId"]: value, **deeper, **other}


def values_of(spec: dict[str, Any]) -> Iterator[tuple[Any, str, Any]]:
    if "integerValueSpec" in spec:
        ends = spec["integerValueSpec"]
        for number in range(int(ends["minValue"]), int(ends["maxValue"]) + 1):
            yield number, "parentIntValues", str(number)
    for number in spec.get("discreteValueSpec", {}).get("values", []):
        yield number, "parentDiscreteValues", number
    for text in spec.get("categoricalValueSpec", {}).get("values", []):
        yield yaml.safe_load(text), "parentCategoricalValues", text


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    texts = [sorted(json.dumps(entry, sort_keys=True) for entry in each) for each in (one, other)]
    return texts[0] == texts[1]


def test_a_float_is_a_double_with_its_scale() -> None:
    (plain,) = specs({"optimizer.lr": {"kind": "float", "low": 1e-5, "high": 0.01}})
    assert plain == {
        "parameterId": "optimizer.lr",
        "doubleValueSpec": {"minValue": 1e-5, "maxValue": 0.01},
        "scaleType": "UNIT_LINEAR_SCALE",
    }
    (log,) = specs({"optimizer.lr": {"kind": "float", "low": 1e-5, "high": 0.01, "log": True}})
    assert log["scaleType"] == "UNIT_LOG_SCALE"
    (stepped,) = specs({"heads.dropout": {"kind": "float", "low": 0.1, "high": 0.3, "step": 0.1}})
    assert stepped["discreteValueSpec"] == {"values": [0.1, 0.2, 0.3]}


def test_a_whole_number_has_its_ends_as_text() -> None:
    (layer,) = specs({"train.epochs": {"kind": "int", "low": 1, "high": 12}})
    assert layer == {
        "parameterId": "train.epochs",
        "integerValueSpec": {"minValue": "1", "maxValue": "12"},
        "scaleType": "UNIT_LINEAR_SCALE",
    }
    (log,) = specs({"train.batch_size": {"kind": "int", "low": 1, "high": 2**20, "log": True}})
    assert log["integerValueSpec"]["maxValue"] == "1048576"
    assert log["scaleType"] == "UNIT_LOG_SCALE"
    (some,) = specs({"train.epochs": {"kind": "int", "low": 10, "high": 30, "step": 10}})
    assert some["discreteValueSpec"] == {"values": [10, 20, 30]}


def test_choices_are_numbers_in_order_or_texts() -> None:
    (numbers,) = specs({"heads.bottleneck": {"kind": "categorical", "choices": [768, 300, 700]}})
    assert numbers == {
        "parameterId": "heads.bottleneck",
        "discreteValueSpec": {"values": [300, 700, 768]},
    }
    (texts,) = specs({"pooling": {"kind": "categorical", "choices": ["mean", "max"]}})
    assert texts == {"parameterId": "pooling", "categoricalValueSpec": {"values": ["mean", "max"]}}
    choices = [None, 0.5, {"kind": "mixup", "alpha": 0.4}]
    (mixed,) = specs({"mix": {"kind": "categorical", "choices": [None, *choices[2:]]}})
    names = mixed["categoricalValueSpec"]["values"]
    assert [yaml.safe_load(name) for name in names] == [None, choices[2]]
    (flags,) = specs({"train.tensorboard": {"kind": "categorical", "choices": [True, False]}})
    assert flags["categoricalValueSpec"]["values"] == ["true", "false"]
    (near,) = specs({"train.min_delta": {"kind": "categorical", "choices": [0.0, 1e-11]}})
    assert [float(name) for name in near["categoricalValueSpec"]["values"]] == [0.0, 1e-11]


@pytest.mark.parametrize("value", [None, True, "on", "1e3", "a b", 0.1, 3, {"kind": "x", "n": [1]}])
def test_a_category_reads_as_the_value_it_was(value: Any) -> None:
    assert yaml.safe_load(category(value)) == value


def test_the_older_constraint_becomes_choices_below_choices() -> None:
    """clf_bottleneck <= sd_bottleneck of the clinical wav2vec 2.0 searches."""
    parameters = {"heads.shared": SHARED, "heads.bottleneck": SHARED}
    rule = "heads.bottleneck <= heads.shared"
    (shared,) = specs(parameters, constraints=[rule], sampler="grid")
    assert shared["discreteValueSpec"] == {"values": [300, 700, 768]}
    assert [
        (child["parentDiscreteValues"]["values"], child["parameterSpec"]["discreteValueSpec"])
        for child in shared["conditionalParameterSpecs"]
    ] == [
        ([300], {"values": [300]}),
        ([700], {"values": [300, 700]}),
        ([768], {"values": [300, 700, 768]}),
    ]
    recipe = recipe_with(parameters, constraints=[rule])
    assert recipe.search is not None
    assert same(list(draws([shared])), recipe.search.grid())


BELOW: list[tuple[dict[str, Any], list[str]]] = [
    (
        {
            "heads.shared": {"kind": "categorical", "choices": [None, 300, 700]},
            "heads.bottleneck": {
                "kind": "categorical",
                "choices": [100, 500],
                "when": {"heads.shared": [300, 700]},
            },
        },
        [],
    ),
    (
        {
            "pooling": {"kind": "categorical", "choices": ["mean", "max", "attention"]},
            "train.epochs": {"kind": "int", "low": 1, "high": 3, "when": {"pooling": "mean"}},
            "train.batch_size": {
                "kind": "categorical",
                "choices": [4, 8],
                "when": {"pooling": ["mean", "max"], "train.epochs": 2},
            },
        },
        ["train.batch_size != 8 or pooling == 'mean'"],
    ),
    (
        {
            "train.epochs": {"kind": "int", "low": 1, "high": 5},
            "train.patience": {"kind": "int", "low": 1, "high": 5},
            "seed": {"kind": "int", "low": 0, "high": 2},
            "train.accumulate": {"kind": "categorical", "choices": [1, 2, 4]},
        },
        ["train.patience < train.epochs", "train.accumulate <= train.patience", "seed != 1"],
    ),
    (
        {
            "backbone": {
                "kind": "categorical",
                "choices": [{"kind": "lstm"}, {"kind": "cnn", "widths": [4, 8]}],
            },
            "backbone.dim": {
                "kind": "categorical",
                "choices": [32, 64],
                "when": {"backbone.kind": "lstm"},
            },
            "heads.bottleneck": {"kind": "categorical", "choices": [32, 64]},
        },
        ["backbone.kind != 'lstm' or heads.bottleneck <= backbone.dim"],
    ),
    (
        {
            "train.epochs": {"kind": "int", "low": 1, "high": 3, "when": {"heads.shared": 768}},
            "seed": {"kind": "int", "low": 0, "high": 3},
        },
        ["train.epochs >= 2 and heads.shared > 1"],
    ),
    (  # two that have nothing to do with each other; the recipe's own values break the first
        {
            "optimizer.lr": {"kind": "categorical", "choices": [1e-4, 1e-3]},
            "optimizer.weight_decay": {"kind": "categorical", "choices": [1e-5, 1e-4, 1e-3]},
            "heads.shared": {"kind": "categorical", "choices": [300, 700]},
            "heads.bottleneck": {"kind": "categorical", "choices": [300, 700]},
        },
        ["optimizer.weight_decay < optimizer.lr", "heads.bottleneck <= heads.shared"],
    ),
]


@pytest.mark.parametrize(("parameters", "rules"), BELOW, ids=range(len(BELOW)))
def test_the_service_can_draw_what_the_search_allows_and_nothing_else(
    parameters: dict[str, Any], rules: list[str]
) -> None:
    recipe = recipe_with(parameters, constraints=rules)
    assert recipe.search is not None
    tree = recipe.model_dump(mode="json", exclude={"search"})
    allowed = recipe.search.grid(tree)
    found = list(draws(study_of(recipe).spec["parameters"]))
    assert len(allowed) > 1
    assert same(found, allowed)


def test_the_services_own_types_take_every_form() -> None:
    vertex = pytest.importorskip("google.cloud.aiplatform_v1")
    rate = {"kind": "float", "low": 1e-5, "high": 0.01, "log": True}
    for parameters, rules in [({"optimizer.lr": rate}, []), *BELOW]:
        spec = study(parameters, constraints=rules).spec
        read = vertex.StudySpec.from_json(json.dumps(spec), ignore_unknown_fields=False)
        written = json.loads(vertex.StudySpec.to_json(read, use_integers_for_enums=False))
        assert only(written, spec) == spec


def only(written: Any, wanted: Any) -> Any:
    """Leave out of what the types write the defaults that nobody said."""
    if isinstance(wanted, dict):
        return {key: only(written[key], value) for key, value in wanted.items()}
    if isinstance(wanted, list):
        return [only(one, other) for one, other in zip(written, wanted, strict=True)]
    return written


def test_values_that_nothing_goes_with_are_left_out() -> None:
    parameters = {
        "train.epochs": {"kind": "int", "low": 1, "high": 5},
        "train.patience": {"kind": "int", "low": 3, "high": 4},
    }
    (epochs,) = specs(parameters, constraints=["train.patience < train.epochs"])
    assert epochs["integerValueSpec"] == {"minValue": "4", "maxValue": "5"}
    below = epochs["conditionalParameterSpecs"]
    assert [child["parentIntValues"] for child in below] == [{"values": ["4"]}, {"values": ["5"]}]


def test_independent_parameters_stand_side_by_side() -> None:
    parameters = {
        "heads.shared": SHARED,
        "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 0.01, "log": True},
        "heads.bottleneck": SHARED,
    }
    found = specs(parameters, constraints=["heads.bottleneck <= heads.shared"])
    assert [spec["parameterId"] for spec in found] == ["heads.shared", "optimizer.lr"]


def test_a_float_may_depend_on_a_choice_but_not_the_other_way_round() -> None:
    rate = {"kind": "float", "low": 1e-5, "high": 0.01}
    some = {"kind": "categorical", "choices": ["mean", "max"]}
    (pooling,) = specs({"pooling": some, "optimizer.lr": {**rate, "when": {"pooling": "max"}}})
    (child,) = pooling["conditionalParameterSpecs"]
    assert child["parentCategoricalValues"] == {"values": ["max"]}
    assert child["parameterSpec"]["parameterId"] == "optimizer.lr"
    stepped = {"kind": "float", "low": 0.1, "high": 0.3, "step": 0.1}
    dropout, _ = specs(
        {
            "heads.dropout": stepped,
            "train.epochs": {"kind": "int", "low": 1, "high": 9},
            "pooling": {**some, "when": {"heads.dropout": 0.3}},
        }
    )
    (child,) = dropout["conditionalParameterSpecs"]
    assert child["parentDiscreteValues"] == {"values": [0.3]}


def test_a_constraint_that_cannot_be_told_is_said_and_left_to_the_trial() -> None:
    rate = {"kind": "float", "low": 1e-5, "high": 0.01}
    told = study(
        {"optimizer.lr": rate, "optimizer.weight_decay": rate},
        constraints=["optimizer.weight_decay <= optimizer.lr"],
    )
    assert [spec["parameterId"] for spec in told.spec["parameters"]] == [
        "optimizer.lr",
        "optimizer.weight_decay",
    ]
    assert "cannot be told of 'optimizer.weight_decay <= optimizer.lr'" in told.notes[0]


def test_the_sampler_is_the_algorithm() -> None:
    epochs = {"train.epochs": {"kind": "int", "low": 1, "high": 3}}
    names = {"grid": "GRID_SEARCH", "random": "RANDOM_SEARCH", "tpe": "ALGORITHM_UNSPECIFIED"}
    for sampler, name in names.items():
        told = study(epochs, sampler=sampler)
        assert told.spec["algorithm"] == name
        assert bool(told.notes) == (sampler == "tpe")


def test_another_sampler_is_refused() -> None:
    class Guess(Sampler):
        """A plug-in's; without a kind of its own it registers nowhere."""

    recipe = recipe_with({"train.epochs": {"kind": "int", "low": 1, "high": 3}})
    assert recipe.search is not None
    guessing = recipe.search.model_copy(update={"sampler": Guess()})
    with pytest.raises(ConfigError, match="no sampler like Guess"):
        study_of(recipe.model_copy(update={"search": guessing}))


def test_the_metric_has_a_name_and_a_goal() -> None:
    epochs = {"train.epochs": {"kind": "int", "low": 1, "high": 3}}
    assert study(epochs).spec["metrics"] == [{"metricId": "roc_auc", "goal": "MAXIMIZE"}]
    assert study(epochs, metric="mae").spec["metrics"] == [{"metricId": "mae", "goal": "MINIMIZE"}]
    recipe = recipe_with(epochs, metric=None)
    train = {"monitor": "loss"}
    by_training = recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
    assert metric_of(by_training, by_training.search) == "loss"
    assert study_of(by_training).spec["metrics"][0]["goal"] == "MINIMIZE"
    train = {"monitor": "loss", "mode": "max"}
    odd = recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
    assert study_of(odd).spec["metrics"][0]["goal"] == "MAXIMIZE"
    with pytest.raises(ConfigError, match=r"search\.metric=balanced_accuracy"):
        study_of(recipe)
    with pytest.raises(ConfigError, match="did you mean 'roc_auc'"):
        study(epochs, metric="roc_acu")


def test_what_the_service_cannot_do_is_refused() -> None:
    epochs = {"train.epochs": {"kind": "int", "low": 1, "high": 3}}
    with pytest.raises(ConfigError, match=r"pruner=none"):
        study(epochs, pruner="median")
    with pytest.raises(ConfigError, match="no combination"):
        study(epochs, constraints=["train.epochs > 3"])
    with pytest.raises(ConfigError, match="no search"):
        study_of(recipe_with(epochs).model_copy(update={"search": None}))
    endless = {"kind": "int", "low": 0, "high": 20_000}
    some = {"kind": "categorical", "choices": ["mean", "max"], "when": {"seed": 0}}
    with pytest.raises(ConfigError, match="pooling depends on seed"):
        study({"seed": endless, "pooling": some})
    many = {"kind": "int", "low": 0, "high": 4000, "step": 2}
    with pytest.raises(ConfigError, match="1000 values"):
        study({"seed": many})
