"""The recipe's `search`: which settings are tried, what limits them, and who picks them.

Nothing here trains or needs optuna: `harken tune` does, and other services that run trials (Vertex
AI) read the same spaces. A combination is a mapping from recipe path to value; it holds the
parameters that are active in it and no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from statistics import median
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from harken.choice import Choice, Config
from harken.errors import ConfigError
from harken.overrides import ABSENT, find, merge, nest, write_word
from harken.search.constraints import Constraint, read_constraint
from harken.search.search_parameters import (
    Parameter,
    Value,
    flatten,
    is_parameter,
)

Values = Mapping[str, Value]

LARGEST_GRID = 100_000
"""Combinations that a grid may have; a larger one is a mistake, or wants another sampler."""


class Sampler(Choice):
    """Who picks the next combination."""


class TpeSampler(Sampler):
    """Look where earlier trials were good (Parzen estimators in a tree, Bergstra et al. 2011)."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: int = Field(10, ge=1)
    """Trials drawn at random before there is enough to learn from."""


class RandomSampler(Sampler):
    """Draw each combination by itself."""

    kind: Literal["random"] = "random"


class GridSampler(Sampler):
    """Try every combination once, in order; the last parameter changes fastest."""

    kind: Literal["grid"] = "grid"


class Pruner(Choice):
    """Whether trials that do badly are broken off."""

    def gives_up(self, epoch: int, value: float, others: Sequence[float], more: bool) -> bool:
        """Return whether a trial is not worth going on with.

        Args:
            epoch: Epochs of the trial that are done, over all its folds.
            value: Its metric by now.
            others: The metric of each complete trial after as many epochs.
            more: Whether more of the metric is better.
        """
        raise NotImplementedError


class NoPruner(Pruner):
    """Every trial trains to its end."""

    kind: Literal["none"] = "none"

    def gives_up(self, epoch: int, value: float, others: Sequence[float], more: bool) -> bool:
        """Never; see `Pruner.gives_up`."""
        return False


class MedianPruner(Pruner):
    """Break off a trial that is worse than the median of complete ones after as many epochs.

    What is compared is the best validation metric so far; over folds, the mean of their bests.
    """

    kind: Literal["median"] = "median"
    warmup_epochs: int = Field(5, ge=0)
    """Epochs that every trial may train, counted over its folds."""
    startup_trials: int = Field(5, ge=1)
    """Trials that have to be complete before any is broken off."""

    def gives_up(self, epoch: int, value: float, others: Sequence[float], more: bool) -> bool:
        """Compare with the median; see `Pruner.gives_up`."""
        if epoch <= self.warmup_epochs or len(others) < self.startup_trials:
            return False
        return value < median(others) if more else value > median(others)


class Search(Config):
    """A search over settings, which `harken tune` runs; training by itself leaves it alone."""

    parameters: dict[str, Parameter] = Field(min_length=1)
    """The settings to try: from a path of the recipe, such as `optimizer.lr`, to where its values
    come from; `harken list parameters` names the kinds."""
    constraints: tuple[str, ...] = ()
    """Conditions that every combination meets, such as `heads.bottleneck <= heads.shared`:
    comparisons of paths, numbers and 'texts', joined by `and`, `or` and `not`. An order holds where
    one side is null."""
    metric: str | None = None
    """The metric of validation clips that is made best; null takes `train.monitor`, or the task's
    own."""
    sampler: Sampler = TpeSampler()
    """Who picks the next combination."""
    pruner: Pruner = NoPruner()
    """Whether trials that do badly are broken off."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _named_by_paths(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        found: dict[str, Any] = {}
        for path, entry in flatten(value, is_parameter):
            found[path] = merge(found.get(path), entry)
        return {path: entry for path, entry in found.items() if entry is not None}

    @field_validator("constraints", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("constraints", mode="after")
    @classmethod
    def _can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                read_constraint(text)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _depends_on_no_circle(self) -> Self:
        self.order()
        if isinstance(self.sampler, GridSampler):
            endless = [path for path, one in self.parameters.items() if one.grid() is None]
            if endless:
                raise ValueError(
                    f"a grid cannot count the values of {endless[0]}; give it a step, or "
                    "{kind: categorical, choices: […]}"
                )
        return self

    # --- what a combination is ---

    def order(self) -> list[str]:
        """Return the parameters' paths, each after those on which it depends.

        Raises:
            ValueError: some depend on each other in a circle.
        """
        return list(_order(tuple((path, tuple(p.when)) for path, p in self.parameters.items())))

    def applied(self, values: Values, recipe_tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe's tree with a combination laid on it, `search` left out.

        Raises:
            ConfigError: a path leads to an item that a list does not have.
        """
        tree = {key: value for key, value in recipe_tree.items() if key != "search"}
        for path in self.order():
            if path in values:
                tree = merge(tree, nest(path, values[path]))
        return tree

    def words(self, values: Values) -> list[str]:
        """Return a combination as overrides of the recipe, such as `optimizer.lr=0.001`."""
        return [write_word(path, values[path]) for path in self.order() if path in values]

    def active(self, values: Values, recipe_tree: Mapping[str, Any]) -> dict[str, bool]:
        """Return for each parameter whether it is to be drawn, given the values of others."""
        tree = self.applied(values, recipe_tree)
        return {path: self._is_active(path, tree) for path in self.parameters}

    def _is_active(self, path: str, tree: Mapping[str, Any]) -> bool:
        return all(
            _matches(find(tree, name), wanted)
            for name, wanted in self.parameters[path].when.items()
        )

    def rules(self) -> list[Constraint]:
        """Return the constraints, parsed."""
        return [read_constraint(text) for text in self.constraints]

    def satisfied(self, values: Values, recipe_tree: Mapping[str, Any]) -> bool:
        """Return whether a combination meets every constraint.

        Raises:
            ConfigError: a constraint names what is not there, or orders what has no order.
        """
        return not self.constraints or self._holds(self.applied(values, recipe_tree))

    def _holds(self, tree: Mapping[str, Any]) -> bool:
        return all(rule.holds(lambda path: self._look_up(path, tree)) for rule in self.rules())

    def _look_up(self, path: str, tree: Mapping[str, Any]) -> Value:
        found = find(tree, path)
        if found is not ABSENT:
            return found
        if path in self.parameters:
            return None
        raise ConfigError(
            f"a constraint names {path}, which is not said in every combination",
            where="search.constraints",
            fix=f"say {path} in the choices, or guard it: backbone.kind != 'cnn' or {path} …",
        )

    # --- many of them ---

    def pick(
        self, recipe_tree: Mapping[str, Any], by: Callable[[str, Parameter], Value]
    ) -> dict[str, Value]:
        """Return a combination whose active values `by` picks one after another."""
        tree = {key: value for key, value in recipe_tree.items() if key != "search"}
        values = {}
        for path in self.order():
            if self._is_active(path, tree):
                values[path] = by(path, self.parameters[path])
                tree = merge(tree, nest(path, values[path]))
        return values

    def draw(self, recipe_tree: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Value]:
        """Return a combination drawn evenly, whether it meets the constraints or not."""
        return self.pick(recipe_tree, lambda path, parameter: parameter.draw(rng))

    @property
    def is_finite(self) -> bool:
        """Whether all combinations can be counted."""
        counts = [parameter.grid() for parameter in self.parameters.values()]
        known = [len(values) for values in counts if values is not None]
        return len(known) == len(counts) and math.prod(known) <= LARGEST_GRID

    def grid(self, recipe_tree: Mapping[str, Any] | None = None) -> list[dict[str, Value]]:
        """Return every combination that the constraints allow, in order.

        Conditional parameters are in it only where they are active.

        Args:
            recipe_tree: The recipe's own settings, which conditions and constraints may name.

        Raises:
            ConfigError: there are more than `LARGEST_GRID`, or they cannot be counted.
        """
        found = list(islice(self.combinations(recipe_tree or {}), LARGEST_GRID + 1))
        if len(found) > LARGEST_GRID:
            raise ConfigError(
                f"a grid of more than {LARGEST_GRID:,} combinations",
                where="search.parameters",
                fix="larger steps, fewer choices, or search.sampler=tpe",
            )
        return found

    def combinations(self, recipe_tree: Mapping[str, Any]) -> Iterator[dict[str, Value]]:
        """Yield what `grid` lists, one by one."""
        tree = {key: value for key, value in recipe_tree.items() if key != "search"}
        for values, applied in self._branches(tree, {}, self.order()):
            if self._holds(applied):
                yield values

    def _branches(
        self, tree: Mapping[str, Any], values: dict[str, Value], left: list[str]
    ) -> Iterator[tuple[dict[str, Value], Mapping[str, Any]]]:
        if not left:
            yield values, tree
            return
        path, rest = left[0], left[1:]
        if not self._is_active(path, tree):
            yield from self._branches(tree, values, rest)
            return
        for value in self.parameters[path].grid() or []:
            yield from self._branches(merge(tree, nest(path, value)), {**values, path: value}, rest)


@lru_cache(maxsize=256)
def _order(parameters: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[str, ...]:
    """Sort paths, each after those that its `when` names and those that it lies below."""
    left, done = dict(parameters), list[str]()
    while left:
        ready = [p for p, named in left.items() if not any(_needs(p, named, q) for q in left)]
        if not ready:
            raise ValueError(_why_none_is_first(left))
        done.append(ready[0])
        del left[ready[0]]
    return tuple(done)


def _why_none_is_first(left: Mapping[str, tuple[str, ...]]) -> str:
    for path, names in left.items():
        for name in names:
            if path.startswith(f"{name}."):
                return (
                    f"the `when` of {path} names {name}, in which it lies; name a setting beside "
                    f"it, such as {name}.kind"
                )
            if _needs(path, (name,), path):
                return f"the `when` of {path} names {name}, which it sets itself"
    return f"the `when` of {', '.join(left)} depend on each other in a circle"


def _needs(path: str, named: tuple[str, ...], other: str) -> bool:
    """Whether `path` is to be settled after `other`."""
    below = path != other and path.startswith(f"{other}.")
    return below or any(
        name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.")
        for name in named
    )


def _matches(found: Value, wanted: Value) -> bool:
    if isinstance(found, Mapping) and isinstance(wanted, str):
        found = found.get("kind")
    several = isinstance(wanted, list) and not isinstance(found, list)
    return found in wanted if several else bool(found == wanted)
