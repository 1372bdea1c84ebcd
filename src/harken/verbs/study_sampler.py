"""Which combination a trial tries next: a grid's, a draw, or what optuna's TPE thinks promising.

Every pick is a function of the recipe's seed, the trial's number and the trials finished before, so
one process alone always picks the same, and several never draw alike.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from harken.errors import ConfigError, import_extra
from harken.search import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    Search,
    TpeSampler,
    Value,
)
from harken.seeds import derive, generator

PROMISING, DRAWN = 30, 10_000
"""Picks tried until one meets the constraints: by the sampler, then at random."""


class NextValues:
    """Picks combinations.

    Args:
        search: The search.
        tree: The recipe's own settings.
        seed: Its seed.
        grid: All combinations, where they are tried in order.
    """

    def __init__(
        self,
        search: Search,
        tree: Mapping[str, Any],
        seed: int,
        grid: list[dict[str, Value]] | None = None,
    ) -> None:
        self.search, self.tree, self.seed, self.grid = search, tree, seed, grid

    def pick(self, study: Any, trial: Any) -> dict[str, Value]:
        """Return the combination of a trial.

        Args:
            study: optuna's study.
            trial: optuna's (frozen) trial.

        Raises:
            ConfigError: none of many picks meets the constraints.
        """
        if self.grid is not None:
            return self.grid[int(trial.number)]
        if isinstance(self.search.sampler, TpeSampler):
            for values in (self._promising(study, trial, attempt) for attempt in range(PROMISING)):
                if self.search.satisfied(values, self.tree):
                    return values
        rng = generator(self.seed, "tune", trial.number)
        for _ in range(DRAWN):
            values = self.search.draw(self.tree, rng)
            if self.search.satisfied(values, self.tree):
                return values
        if self.search.is_finite and (every := self.search.grid(self.tree)):
            return every[int(rng.integers(len(every)))]
        raise ConfigError(
            f"none of {DRAWN:,} combinations meets {' and '.join(self.search.constraints)}",
            where="search.constraints",
            fix="loosen them, or narrow the ranges of search.parameters",
        )

    def _promising(self, study: Any, trial: Any, attempt: int) -> dict[str, Value]:
        optuna = import_extra("optuna", "tune")
        assert isinstance(self.search.sampler, TpeSampler), "only TPE thinks"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Older versions call constant_liar an experiment.
            tpe = optuna.samplers.TPESampler(
                n_startup_trials=self.search.sampler.startup_trials,
                seed=derive(self.seed, "tune", trial.number, attempt) % 2**32,
                constant_liar=True,
            )

        def by(path: str, parameter: Parameter) -> Value:
            space = distribution(parameter)
            if space.single():
                return (parameter.grid() or [parameter.extremes()[0]])[0]
            label = tpe.sample_independent(study, trial, path, space)
            return from_label(parameter, label)

        return self.search.pick(self.tree, by)


class Given:
    """optuna's sampler of what has been picked already: see `NextValues`."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def before_trial(self, study: Any, trial: Any) -> None:
        """Do nothing."""

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        """Do nothing."""

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        """Return nothing: every value is asked for by itself."""
        return {}

    def sample_relative(self, study: Any, trial: Any, space: Any) -> dict[str, Any]:
        """Return nothing: every value is asked for by itself."""
        return {}

    def sample_independent(self, study: Any, trial: Any, name: str, space: Any) -> Any:
        """Return what has been picked."""
        return self.values[name]


def suggest(trial: Any, path: str, parameter: Parameter) -> None:
    """Have optuna note the value that its sampler `Given` holds for a trial."""
    space = distribution(parameter)
    if isinstance(parameter, CategoricalParameter):
        trial.suggest_categorical(path, space.choices)
        return
    say = trial.suggest_int if isinstance(parameter, IntParameter) else trial.suggest_float
    say(path, space.low, space.high, step=space.step, log=space.log)


def distribution(parameter: Parameter) -> Any:
    """Return optuna's description of a parameter."""
    spaces = import_extra("optuna.distributions", "tune")
    if isinstance(parameter, CategoricalParameter):
        return spaces.CategoricalDistribution(_labels(parameter))
    low, high = parameter.extremes()
    if isinstance(parameter, IntParameter):
        return spaces.IntDistribution(low, high, log=parameter.log, step=parameter.step)
    assert isinstance(parameter, FloatParameter), "there are three kinds"
    step = None if low == high else parameter.step
    return spaces.FloatDistribution(low, high, log=parameter.log, step=step)


def _labels(parameter: CategoricalParameter) -> list[Value]:
    """Return the choices as optuna may keep them: plain values as they are, others as JSON."""
    plain = all(isinstance(c, str | int | float | None) for c in parameter.choices)
    if plain and len(set(parameter.choices)) == len(parameter.choices):
        return list(parameter.choices)
    return [json.dumps(choice) for choice in parameter.choices]


def to_label(search: Search, path: str, value: Value) -> Value:
    """Return how optuna keeps a parameter's value."""
    parameter = search.parameters[path]
    if not isinstance(parameter, CategoricalParameter):
        return value
    texts = [json.dumps(choice, sort_keys=True) for choice in parameter.choices]
    return _labels(parameter)[texts.index(json.dumps(value, sort_keys=True))]


def from_label(parameter: Parameter, label: Value) -> Value:
    """Return a parameter's value as the recipe writes it; see `to_label`."""
    if isinstance(parameter, CategoricalParameter):
        return parameter.choices[_labels(parameter).index(label)]
    return parameter.rounded(label) if isinstance(parameter, FloatParameter) else label
