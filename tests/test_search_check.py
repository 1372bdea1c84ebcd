from __future__ import annotations

from typing import Any

import pytest

from harken.errors import ConfigError
from harken.recipe import validate
from test_search import DATA, LR, WIDTHS, categorical


def mistakes(parameters: Any, recipe: Any = None, **over: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validate({**DATA, **(recipe or {}), "search": {"parameters": parameters, **over}})
    return str(caught.value)


def test_unknown_paths_get_the_nearest_name() -> None:
    told = mistakes({"optimizer.lrr": LR, "trian.epochs": categorical(1, 2)})
    assert "2 mistakes" in told
    assert "search.parameters.optimizer.lrr: with optimizer.lrr=1.0e-05" in told
    assert "did you mean 'lr'" in told
    assert "search.parameters.trian.epochs" in told
    assert "did you mean 'train'" in told


def test_every_extreme_is_a_valid_setting() -> None:
    told = mistakes(
        {
            "optimizer.lr": {"kind": "float", "low": -1, "high": 1},
            "heads.dropout": {"kind": "float", "low": 0, "high": 1},
            "pooling": categorical("mean", "men"),
            "train.epochs": {"kind": "int", "low": 0, "high": 2},
        }
    )
    assert "4 mistakes" in told
    assert "with optimizer.lr=-1.0: optimizer.lr: Input should be greater than 0" in told
    assert "with heads.dropout=1.0: heads.dropout: Input should be less than 1" in told
    assert "with pooling=men" in told
    assert "with train.epochs=0" in told


def test_ranges_and_kinds_are_told_together() -> None:
    told = mistakes(
        {"optimizer.lr": {"kind": "float", "low": 2, "high": 1}, "seed": {"kind": "itn"}}
    )
    assert "low (2) is above high (1)" in told
    assert "did you mean 'int'" in told


def test_a_value_that_others_make_possible_is_possible() -> None:
    parameters = {
        "heads.layer_norm": categorical(True, False),
        "heads.bottleneck": categorical(None, 8),
    }
    rule = "heads.layer_norm == false or heads.bottleneck != null"
    assert validate({**DATA, "search": {"parameters": parameters, "constraints": rule}})
    alone = mistakes({"heads.layer_norm": categorical(True, False)})
    assert "layer_norm does nothing without a bottleneck" in alone


def test_a_key_of_another_kind_wants_its_condition() -> None:
    depth = {"kind": "int", "low": 1, "high": 2}
    slot = {"backbone": categorical("cnn", "ast")}
    assert "with backbone.depth=1: backbone.depth: unknown key" in mistakes(
        {"backbone.depth": depth}
    )
    depth["when"] = {"backbone.kind": "ast"}  # type: ignore[assignment]
    assert validate({**DATA, "search": {"parameters": {**slot, "backbone.depth": depth}}})


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ({"heads.botleneck": 3}, "did you mean 'heads.bottleneck'"),
        ({"heads.bottleneck": 3}, "nothing that is drawn meets this condition"),
        ({"optimizer.lr": 3}, "names optimizer.lr, which it sets itself"),
        (
            {"optimizer": "adamw"},
            "in which it lies; name a setting beside it, such as optimizer.kind",
        ),
    ],
)
def test_conditions_that_never_hold(when: dict[str, Any], told: str) -> None:
    assert told in mistakes({"optimizer.lr": {**LR, "when": when}})


def test_a_condition_that_only_some_combinations_know() -> None:
    parameters = {
        "backbone": categorical("cnn", "ast"),
        "heads.dropout": {"kind": "float", "low": 0, "high": 0.5, "when": {"backbone.depth": 12}},
    }
    assert "a choice of backbone does not say it" in mistakes(parameters)
    parameters["backbone"] = categorical({"kind": "ast", "depth": 12}, "ast")
    assert "backbone.depth decides here, but a choice of backbone does not say it" in mistakes(
        parameters
    )


def test_circles() -> None:
    told = mistakes(
        {
            "heads.shared": {**WIDTHS, "when": {"heads.bottleneck": 300}},
            "heads.bottleneck": {**WIDTHS, "when": {"heads.shared": 300}},
        }
    )
    assert "depend on each other in a circle" in told


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("heads.bottleneck > heads.shared and heads.shared > 700", "no combination meets"),
        (
            "heads.botleneck > 3",
            "the recipe has no heads.botleneck, did you mean 'heads.bottleneck'",
        ),
        ("heads.bottleneck >", "cannot read"),
        ("heads.bottleneck > 'many'", "cannot be told"),
        ("backbone.depth > 3", "the recipe has no backbone.depth"),
    ],
)
def test_constraints_that_cannot_be_met_or_told(rule: str, told: str) -> None:
    text = mistakes({"heads.bottleneck": WIDTHS, "heads.shared": WIDTHS}, constraints=[rule])
    assert told in text
    assert "search.constraints" in text


def test_an_endless_space_is_searched_for_a_while() -> None:
    told = mistakes({"optimizer.lr": LR}, constraints=["optimizer.lr > 1"])
    assert "impossible: none of 10,000 combinations drawn at random meets optimizer.lr > 1" in told


def test_a_constraint_on_a_default_of_a_choice() -> None:
    parameters = {"backbone": categorical("cnn", "ast"), "heads.shared": WIDTHS}
    told = mistakes(parameters, constraints="backbone.dim <= heads.shared")
    assert "not said in every combination" in told
    parameters["backbone"] = categorical("cnn", {"kind": "ast", "dim": 400, "num_heads": 4})
    rule = "backbone.kind == 'cnn' or backbone.dim <= heads.shared"
    assert validate({**DATA, "search": {"parameters": parameters, "constraints": rule}})


def test_a_grid_wants_to_count() -> None:
    assert "a grid cannot count the values of optimizer.lr" in mistakes(
        {"optimizer.lr": LR}, sampler="grid"
    )


def test_a_search_of_nothing() -> None:
    assert "at least 1" in mistakes({})
    assert "should be a valid dictionary" in mistakes([1])


def test_items_of_lists_have_paths_too() -> None:
    gain = {"augment": [{"kind": "gain"}]}
    rate = {"kind": "float", "low": 0, "high": 1}
    assert validate({**DATA, **gain, "search": {"parameters": {"augment.0.p": rate}}})
    assert "there is no item 1" in mistakes({"augment.1.p": rate}, gain)
