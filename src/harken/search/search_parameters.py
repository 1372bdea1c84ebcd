"""The slot `search.parameters`: where the values of a setting come from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from harken.choice import Choice

Value = Any
"""What a setting may hold: a number, a text, a boolean, null, or a whole slot, `{kind: …}`."""

_WRITTEN_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class Parameter(Choice):
    """Where the values of one setting come from."""

    when: dict[str, Any] = Field(default_factory=dict)
    """Settings on which this one depends: it is drawn only where each path has the value given, or
    one of a list of them; elsewhere the recipe's own value stays."""

    @field_validator("when", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return dict(flatten(value)) if isinstance(value, Mapping) else value

    def grid(self) -> Sequence[Value] | None:
        """Return all values in order, or None where they cannot be counted."""
        raise NotImplementedError

    def extremes(self) -> list[Value]:
        """Return the values that a recipe must be able to hold."""
        raise NotImplementedError

    def draw(self, rng: np.random.Generator) -> Value:
        """Return a value, evenly over the space (over its logarithm with `log`)."""
        values = self.grid()
        assert values is not None, "a space without a grid draws by itself"
        return values[int(rng.integers(len(values)))]


class FloatParameter(Parameter):
    """Numbers from `low` to `high`."""

    kind: Literal["float"] = "float"
    low: float = Field(allow_inf_nan=False)
    """The smallest value."""
    high: float = Field(allow_inf_nan=False)
    """The largest value."""
    log: bool = False
    """Draw evenly over the logarithm, as learning rates want it."""
    step: float | None = Field(None, gt=0)
    """Only `low`, `low + step`, … up to `high`; a grid needs it. Null: any number."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step is not None)
        return self

    def grid(self) -> Sequence[Value] | None:
        """Return the steps, if there are any; see `Parameter.grid`."""
        if self.low == self.high:
            return [self.low]
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        # Twelve digits make 0.1 + 2 × 0.1 the 0.3 that was meant.
        return [float(f"{self.low + number * self.step:.12g}") for number in range(count)]

    def extremes(self) -> list[Value]:
        """Return both ends; see `Parameter.extremes`."""
        return [self.low, (self.grid() or [self.high])[-1]]

    def draw(self, rng: np.random.Generator) -> Value:
        """Return a number; see `Parameter.draw`."""
        if self.grid() is not None:
            return super().draw(rng)
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = float(rng.uniform(self.low, self.high))
        return self.rounded(drawn)

    def rounded(self, value: float) -> float:
        """Return a value as a person would write it: a step, or six digits."""
        steps = self.grid()
        if steps is not None:
            return float(min(steps, key=lambda step: abs(step - value)))
        return min(max(float(f"{value:.6g}"), self.low), self.high)


class IntParameter(Parameter):
    """Whole numbers from `low` to `high`."""

    kind: Literal["int"] = "int"
    low: int
    """The smallest value."""
    high: int
    """The largest value."""
    log: bool = False
    """Draw evenly over the logarithm, as widths want it."""
    step: int = Field(1, ge=1)
    """Only `low`, `low + step`, … up to `high`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step != 1)
        return self

    def grid(self) -> Sequence[Value] | None:
        """Return the numbers, of which there may be billions; see `Parameter.grid`."""
        return range(self.low, self.high + 1, self.step)

    def extremes(self) -> list[Value]:
        """Return both ends; see `Parameter.extremes`."""
        return [self.low, range(self.low, self.high + 1, self.step)[-1]]

    def draw(self, rng: np.random.Generator) -> Value:
        """Return a whole number; see `Parameter.draw`."""
        if not self.log:
            numbers = range(self.low, self.high + 1, self.step)
            return numbers[int(rng.integers(len(numbers)))]
        drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return min(max(round(drawn), self.low), self.high)


class CategoricalParameter(Parameter):
    """Some values: numbers, texts, booleans, null, or whole slots, `{kind: lstm, dim: 64}`."""

    kind: Literal["categorical"] = "categorical"
    choices: list[Any] = Field(min_length=1)
    """The values, in the order of a grid."""

    @field_validator("choices", mode="after")
    @classmethod
    def _differ(cls, choices: list[Any]) -> list[Any]:
        choices = [_number_as_meant(choice) for choice in choices]
        texts = []
        for choice in choices:
            try:
                texts.append(json.dumps(choice, sort_keys=True, allow_nan=False))
            except (TypeError, ValueError):
                raise ValueError(f"{choice!r} cannot be written into a recipe") from None
        twice = [text for number, text in enumerate(texts) if text in texts[:number]]
        if twice:
            raise ValueError(f"choices has {twice[0]} twice")
        return choices

    def grid(self) -> Sequence[Value] | None:
        """Return the choices; see `Parameter.grid`."""
        return list(self.choices)

    def extremes(self) -> list[Value]:
        """Return the choices, each of which has to be possible; see `Parameter.extremes`."""
        return list(self.choices)


def is_parameter(entry: Mapping[Any, Any]) -> bool:
    """Whether a mapping describes a parameter, or changes one, and does not hold some."""
    fields = {name for kind in Parameter.kinds().values() for name in kind.model_fields}
    plain = (key == "when" or not isinstance(value, Mapping) for key, value in entry.items())
    return bool(entry) and ("kind" in entry or set(entry) <= fields) and all(plain)


def flatten(
    tree: Mapping[Any, Any],
    is_leaf: Callable[[Mapping[Any, Any]], bool] = lambda entry: False,
    above: str = "",
) -> Iterator[tuple[str, Any]]:
    """Yield the paths of a tree with what lies there; words nest what files write with dots."""
    for key, entry in tree.items():
        path = f"{above}{key}"
        if isinstance(entry, Mapping) and entry and not is_leaf(entry):
            yield from flatten(entry, is_leaf, f"{path}.")
        else:
            yield path, entry


def _check_range(low: float, high: float, log: bool, stepped: bool) -> None:
    if low > high:
        raise ValueError(f"low ({low:g}) is above high ({high:g})")
    if log and low <= 0:
        raise ValueError(f"log wants low above 0, not {low:g}")
    if log and stepped:
        raise ValueError("log and step do not go together; leave one out")


def _number_as_meant(choice: Any) -> Any:
    """Read `1e-4`, which YAML 1.1 takes for a text because it has no point."""
    if isinstance(choice, str) and _WRITTEN_NUMBER.fullmatch(choice):
        return float(choice)
    return choice
