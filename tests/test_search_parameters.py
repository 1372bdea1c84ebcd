from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from harken.search.search_parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    flatten,
    is_parameter,
)


def draws(parameter: Any, count: int = 2000) -> list[Any]:
    rng = np.random.default_rng(0)
    return [parameter.draw(rng) for _ in range(count)]


def test_floats_are_drawn_evenly_over_the_range_or_its_logarithm() -> None:
    flat = draws(FloatParameter(low=0.0, high=1.0))
    assert 0.45 < np.mean(flat) < 0.55
    assert min(flat) >= 0
    assert max(flat) <= 1
    steep = draws(FloatParameter(low=1e-5, high=1e-1, log=True))
    assert 0.45 < np.mean(np.array(steep) < 1e-3) < 0.55
    assert all(value == float(f"{value:.6g}") for value in steep)


def test_steps_are_the_numbers_that_were_meant() -> None:
    parameter = FloatParameter(low=0.1, high=0.5, step=0.1)
    assert parameter.grid() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert set(draws(parameter)) == set(parameter.grid() or [])
    assert parameter.rounded(0.30000000000000004) == 0.3
    odd = FloatParameter(low=0.0, high=1.0, step=0.3)
    assert odd.grid() == [0.0, 0.3, 0.6, 0.9]
    assert odd.extremes() == [0.0, 0.9]
    assert FloatParameter(low=0.0, high=1.0).grid() is None
    assert FloatParameter(low=2.0, high=2.0).grid() == [2.0]


def test_whole_numbers() -> None:
    parameter = IntParameter(low=0, high=12, step=6)
    assert list(parameter.grid() or []) == [0, 6, 12]
    assert len(IntParameter(low=0, high=2**32).grid() or []) == 2**32 + 1  # none of them in memory
    assert set(draws(parameter)) == {0, 6, 12}
    assert IntParameter(low=1, high=12, step=5).extremes() == [1, 11]
    steep = draws(IntParameter(low=1, high=1000, log=True))
    assert {min(steep), max(steep)} <= set(range(1, 1001))
    assert 0.4 < np.mean(np.array(steep) <= 31) < 0.6


def test_choices() -> None:
    parameter = CategoricalParameter(choices=[None, True, "a", {"kind": "lstm"}, 1.5])
    assert parameter.grid() == [None, True, "a", {"kind": "lstm"}, 1.5]
    assert parameter.extremes() == parameter.choices
    assert "a" in draws(parameter, 50)


def test_numbers_that_yaml_takes_for_texts_are_numbers() -> None:
    assert CategoricalParameter(choices=["1e-4", "-2.5E3", "1e-4 Hz"]).choices == [
        1e-4,
        -2500.0,
        "1e-4 Hz",
    ]
    assert FloatParameter(low="1e-5", high=1).low == 1e-5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (FloatParameter, {"low": 2, "high": 1}, "low \\(2\\) is above high \\(1\\)"),
        (FloatParameter, {"low": 0, "high": 1, "log": True}, "above 0, not 0"),
        (FloatParameter, {"low": 1, "high": 2, "log": True, "step": 0.1}, "leave one out"),
        (FloatParameter, {"low": 1, "high": 2, "step": 0}, "greater than 0"),
        (FloatParameter, {"low": float("nan"), "high": 2}, "finite"),
        (FloatParameter, {"low": 1}, "Field required"),
        (IntParameter, {"low": 2, "high": 1}, "is above"),
        (IntParameter, {"low": -1, "high": 1, "log": True}, "above 0"),
        (IntParameter, {"low": 1, "high": 9, "log": True, "step": 2}, "leave one out"),
        (IntParameter, {"low": 1.5, "high": 9}, "valid integer"),
        (CategoricalParameter, {"choices": []}, "at least 1"),
        (CategoricalParameter, {"choices": [1, "a", 1]}, "has 1 twice"),
        (CategoricalParameter, {"choices": ["1e-3", 0.001]}, "has 0.001 twice"),
        (CategoricalParameter, {"choices": [{1, 2}]}, "cannot be written"),
        (CategoricalParameter, {"choices": [1], "chioces": 2}, "did you mean 'choices'"),
    ],
)
def test_mistakes_are_told(kind: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        kind(**given)


def test_one_and_true_differ() -> None:
    assert len(CategoricalParameter(choices=[1, True, "1"]).choices) == 3


def test_nested_words_become_paths() -> None:
    tree = {"optimizer.lr": {"kind": "float"}, "optimizer": {"lr": {"low": 1}, "sam": {"x": {}}}}
    assert list(flatten(tree, is_parameter)) == [
        ("optimizer.lr", {"kind": "float"}),
        ("optimizer.lr", {"low": 1}),
        ("optimizer.sam.x", {}),
    ]
    band = {"augment": {"0": {"low": {"kind": "float", "low": 1.0}}}}
    assert [path for path, _ in flatten(band, is_parameter)] == ["augment.0.low"]
    given: Any = {"low": 1, "high": 2, "when": {"backbone": {"kind": "lstm"}, "pooling": "mean"}}
    assert IntParameter(**given).when == {"backbone.kind": "lstm", "pooling": "mean"}
