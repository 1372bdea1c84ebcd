"""A recipe's search as the `StudySpec` of Vertex AI.

The service draws one parameter by itself or below a value of another (a conditional parameter), and
knows nothing of constraints. So parameters that depend on each other, by `when` or by a constraint,
become a tree: below each value of the first come the others with what that value leaves them. What
is drawn from the tree is exactly what the search allows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from harken.errors import ConfigError
from harken.metrics import LOWER_IS_BETTER, higher_is_better
from harken.overrides import write_word
from harken.recipe import Recipe
from harken.search import (
    FloatParameter,
    GridSampler,
    IntParameter,
    NoPruner,
    Parameter,
    RandomSampler,
    Sampler,
    Search,
    TpeSampler,
    Value,
)

Spec = dict[str, Any]

LARGEST_TREE = 10_000
"""Combinations that a tree of parameters may have."""
_BELOW = "conditionalParameterSpecs"
_MOST_VALUES = 1000  # of a discrete parameter
_CLOSEST = 1e-10  # that two discrete values may be


@dataclass(frozen=True)
class Study:
    """A search as the service is told of it.

    Attributes:
        spec: The `StudySpec`.
        metric: The metric that trials report, its `metricId`.
        notes: What the service does otherwise than `harken tune`.
    """

    spec: Spec
    metric: str
    notes: tuple[str, ...]


def study_of(recipe: Recipe) -> Study:
    """Return the `StudySpec` of a recipe's search.

    Raises:
        ConfigError: there is none, or the service cannot carry it out.
    """
    search = recipe.search
    if search is None:
        raise ConfigError(
            "this recipe has no search, so there is nothing to tune",
            where="search",
            fix="harken vertex job, or search.parameters.optimizer.lr={kind: float, …}",
        )
    if not isinstance(search.pruner, NoPruner):
        raise ConfigError(
            "a trial on Vertex AI reports one number at its end, so none can be broken off",
            where="search.pruner",
            fix="search.pruner=none",
        )
    metric = metric_of(recipe, search)
    tree = _Tree(search, recipe.model_dump(mode="json", exclude={"search"}))
    parameters = tree.specs()
    goal = "MAXIMIZE" if _more_is_better(recipe, metric) else "MINIMIZE"
    spec: Spec = {
        "algorithm": _algorithm(search.sampler),
        "metrics": [{"metricId": metric, "goal": goal}],
        "parameters": parameters,
    }
    return Study(spec, metric, (*_sampler_notes(search.sampler), *tree.notes))


def metric_of(recipe: Recipe, search: Search | None) -> str:
    """Return the metric that a trial's one number is of.

    Raises:
        ConfigError: neither the search nor the training names one, or there is none of that name.
    """
    metric = (search and search.metric) or recipe.train.monitor
    if metric is None:
        raise ConfigError(
            "the service must know what the trials report before any clip is read",
            where="search.metric",
            fix="search.metric=balanced_accuracy, average_precision, roc_auc, mae …",
        )
    try:
        higher_is_better(metric)
    except ConfigError as error:
        raise ConfigError(error.message, where="search.metric", fix=error.fix) from None
    return metric


def _more_is_better(recipe: Recipe, metric: str) -> bool:
    train = recipe.train
    if train.mode is not None and train.monitor == metric:
        return train.mode == "max"
    return metric not in LOWER_IS_BETTER


def _algorithm(sampler: Sampler) -> str:
    names: dict[type[Sampler], str] = {
        TpeSampler: "ALGORITHM_UNSPECIFIED",
        RandomSampler: "RANDOM_SEARCH",
        GridSampler: "GRID_SEARCH",
    }
    if type(sampler) not in names:
        raise ConfigError(
            f"Vertex AI has no sampler like {type(sampler).__name__}",
            where="search.sampler",
            fix="tpe (there: its own Bayesian search), random or grid",
        )
    return names[type(sampler)]


def _sampler_notes(sampler: Sampler) -> list[str]:
    if not isinstance(sampler, TpeSampler):
        return []
    return ["search.sampler tpe: Vertex AI searches by its own Bayesian method instead"]


class _Tree:
    """Builds the parameters' specs, deciding one parameter after another."""

    def __init__(self, search: Search, recipe_tree: Mapping[str, Any]) -> None:
        self.search, self.recipe_tree = search, recipe_tree
        self.order = search.order()
        self.notes: list[str] = []
        self.rules = {text: paths for text, paths in self._rules() if self._can_show(text, paths)}

    def specs(self) -> list[Spec]:
        """Return the specs of the parameters that stand at the top.

        Raises:
            ConfigError: no combination is possible, or the service cannot express one.
        """
        built = self._build({}, self.order)
        if built is None:
            raise ConfigError(
                "no combination meets the constraints", where="search.constraints", fix="loosen one"
            )
        return built

    # --- which constraints the tree shows ---

    def _rules(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for rule in self.search.rules():
            touched = (p for p in self.order if any(_related(p, name) for name in rule.paths))
            yield rule.text, tuple(touched)

    def _can_show(self, text: str, paths: Sequence[str]) -> bool:
        grids = [_values(self.search.parameters[path]) for path in paths]
        sizes = [len(values) for values in grids if values is not None]
        if len(sizes) == len(grids) and math.prod(sizes) <= LARGEST_TREE:
            return True
        self.notes.append(
            f"Vertex AI cannot be told of {text!r}: a trial that breaks it ends at once without a "
            "number, and the service calls it infeasible"
        )
        return False

    def _holds(self, values: Mapping[str, Value], open_paths: frozenset[str]) -> bool:
        """Whether each constraint holds that concerns no parameter that is yet to be decided."""
        decided = [text for text, paths in self.rules.items() if not open_paths & set(paths)]
        only = self.search.model_copy(update={"constraints": tuple(decided)})
        return only.satisfied(values, self.recipe_tree)

    # --- the tree ---

    def _build(
        self,
        values: Mapping[str, Value],
        left: Sequence[str],
        elsewhere: frozenset[str] = frozenset(),
    ) -> list[Spec] | None:
        """Return the specs of the parameters left, or None where no value is left to one.

        Those `elsewhere` have nothing to do with them and are decided in another part of the tree.
        """
        left = self._without_inactive(values, left)
        if not self._holds(values, elsewhere.union(left)):
            return None
        specs = []
        for group in self._groups(left):
            spec = self._root(values, group, elsewhere.union(left).difference(group))
            if spec is None:
                return None
            specs.append(spec)
        return specs

    def _without_inactive(self, values: Mapping[str, Value], left: Sequence[str]) -> list[str]:
        """Leave out what is not drawn, once everything that decides this is known."""
        kept = list(left)
        for path in left:
            waiting = any(self._decides(other, path) for other in kept if other != path)
            if not waiting and not self.search.active(values, self.recipe_tree)[path]:
                kept.remove(path)
        return kept

    def _decides(self, other: str, path: str) -> bool:
        """Whether the value of one parameter decides if, or where, another is drawn."""
        when = self.search.parameters[path].when
        return path.startswith(f"{other}.") or any(_related(other, name) for name in when)

    def _groups(self, left: Sequence[str]) -> list[list[str]]:
        """Part the parameters left into groups that have nothing to do with each other."""
        groups: list[list[str]] = []
        for path in left:
            tied = [group for group in groups if any(self._tied(path, other) for other in group)]
            groups = [group for group in groups if group not in tied]
            groups.append([*(other for group in tied for other in group), path])
        place = {path: number for number, path in enumerate(left)}
        groups = [sorted(group, key=place.__getitem__) for group in groups]
        return sorted(groups, key=lambda group: place[group[0]])

    def _tied(self, one: str, other: str) -> bool:
        together = any({one, other} <= set(paths) for paths in self.rules.values())
        return together or self._decides(one, other) or self._decides(other, one)

    def _root(
        self, values: Mapping[str, Value], group: Sequence[str], elsewhere: frozenset[str]
    ) -> Spec | None:
        """Return the spec of a group's first parameter with the others below its values."""
        path, rest = group[0], group[1:]
        parameter = self.search.parameters[path]
        known = _values(parameter)
        alone = not any(path in paths for paths in self.rules.values()) and not rest
        if known is None or alone:
            if rest:
                raise ConfigError(
                    f"{rest[0]} depends on {path}, whose values cannot be counted",
                    where=f"search.parameters.{path}",
                    fix="give it a step, or {kind: categorical, choices: […]}",
                )
            return _spec(path, parameter, known)
        below = {n: self._build({**values, path: v}, rest, elsewhere) for n, v in enumerate(known)}
        possible = {number: specs for number, specs in below.items() if specs is not None}
        if not possible:
            return None
        spec = _spec(path, parameter, [known[number] for number in possible])
        children = _conditional(spec, {n: known[n] for n in possible}, possible)
        return spec | ({_BELOW: children} if children else {})


def _conditional(
    parent: Spec, values: Mapping[int, Value], below: Mapping[int, list[Spec]]
) -> list[Spec]:
    """Return the specs below a parent, each with the parent's values that it stands below."""
    found: dict[str, tuple[Spec, list[Value]]] = {}
    for number, specs in below.items():
        for spec in specs:
            found.setdefault(json.dumps(spec), (spec, []))[1].append(values[number])
    return [{**_condition(parent, under), "parameterSpec": spec} for spec, under in found.values()]


def _condition(parent: Spec, values: Sequence[Value]) -> Spec:
    if "integerValueSpec" in parent:
        return {"parentIntValues": {"values": [str(value) for value in values]}}
    if "discreteValueSpec" in parent:
        return {"parentDiscreteValues": {"values": sorted(values)}}
    return {"parentCategoricalValues": {"values": [category(value) for value in values]}}


def _spec(path: str, parameter: Parameter, values: Sequence[Value] | None) -> Spec:
    """Return the `ParameterSpec` of a parameter, of all its values or of some."""
    if isinstance(parameter, FloatParameter) and values is None:
        ends: Spec = {"minValue": parameter.low, "maxValue": parameter.high}
        return {"parameterId": path, "doubleValueSpec": ends, "scaleType": _scale(parameter.log)}
    if isinstance(parameter, IntParameter) and _is_run(parameter, values):
        low, high = (parameter.low, parameter.high) if values is None else (values[0], values[-1])
        ends = {"minValue": str(low), "maxValue": str(high)}
        return {"parameterId": path, "integerValueSpec": ends, "scaleType": _scale(parameter.log)}
    if values is None or len(values) > _MOST_VALUES:
        raise ConfigError(
            f"Vertex AI takes a range, or {_MOST_VALUES} values told one by one",
            where=f"search.parameters.{path}",
            fix="a larger step, or none",
        )
    if are_numbers(parameter):
        return {"parameterId": path, "discreteValueSpec": {"values": sorted(values)}}
    texts = [category(value) for value in values]
    return {"parameterId": path, "categoricalValueSpec": {"values": texts}}


def are_numbers(parameter: Parameter) -> bool:
    """Whether the service takes a parameter's values for numbers, and not for names."""
    values = _values(parameter)
    if values is None:
        return True
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return False
    ordered = sorted(values)
    return all(b - a > _CLOSEST for a, b in pairwise(ordered))


def category(value: Value) -> str:
    """Return a value that is no number as the service's name for it, to be read as YAML."""
    return write_word("value", value).partition("=")[2]


def _values(parameter: Parameter) -> list[Value] | None:
    """Return a parameter's values; None where there are too many to be told one by one."""
    if isinstance(parameter, IntParameter):
        numbers = range(parameter.low, parameter.high + 1, parameter.step)
        return None if len(numbers) > LARGEST_TREE else list(numbers)
    values = parameter.grid()
    return None if values is None else list(values)


def _is_run(parameter: Parameter, values: Sequence[Value] | None) -> bool:
    """Whether whole numbers follow each other without a gap."""
    if not isinstance(parameter, IntParameter):
        return False
    if values is None:
        return parameter.step == 1
    return bool(values[-1] - values[0] + 1 == len(values))


def _scale(log: bool) -> str:
    return "UNIT_LOG_SCALE" if log else "UNIT_LINEAR_SCALE"


def _related(path: str, name: str) -> bool:
    """Whether one path is the other or lies below it."""
    return path == name or path.startswith(f"{name}.") or name.startswith(f"{path}.")
