"""What a trial of a tuning service is: its number, the values that it was given, and its recipe.

The service starts the container with the job's arguments and one `--path=value` for each parameter
of the trial, in an order of its own, and writes every number as a double: `300.0` for 300.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harken.errors import ConfigError
from harken.overrides import parse_word
from harken.recipe import Recipe, read_recipe, validate
from harken.search import IntParameter, Parameter, Search, Value
from harken.storage import Location
from harken.vertex.study_spec import are_numbers, category, metric_of

_SAME = 1e-9  # the relative difference between two writings of one number


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        recipe: The recipe to train, its values filled in and its search left out.
        values: The values by recipe path.
        metric: What it reports; None takes what training monitors.
        broken: The constraints that the values break; such a trial is not trained.
    """

    recipe: Recipe
    values: Mapping[str, Value]
    metric: str | None
    broken: tuple[str, ...]


def read_trial(files: Sequence[Location], words: Sequence[str]) -> Trial:
    """Read the recipe of a trial.

    Args:
        files: Recipe files; the first has the search.
        words: Overrides, among them the values that the service drew.

    Raises:
        ConfigError: the recipe cannot be used, or a value is none of the search's.
    """
    base = read_recipe(files)
    search = base.search
    if search is None:
        return Trial(read_recipe(files, words), {}, None, ())
    drawn, others = {}, []
    for word in words:
        path, _, text = word.removeprefix("--").partition("=")
        if path in search.parameters:
            drawn[path] = meant(path, search.parameters[path], text)
        else:
            others.append(word)
    base = read_recipe(files, others) if others else base
    tree = base.model_dump(mode="json", exclude={"search"})
    recipe = validate(search.applied(drawn, tree), where=", ".join(map(str, files)))
    return Trial(recipe, drawn, metric_of(base, search), _broken(search, drawn, tree))


def meant(path: str, parameter: Parameter, text: str) -> Value:
    """Return the value of a parameter that the service writes as `text`.

    Raises:
        ConfigError: it is none of the parameter's values.
    """
    if not are_numbers(parameter):
        return _named(path, parameter, text)
    try:
        number = float(text)
    except ValueError:
        raise _not_in_the_search(path, text) from None
    ends = parameter.extremes()
    low, high = min(ends), max(ends)
    if isinstance(parameter, IntParameter):
        if low <= number <= high and (number - low) % parameter.step == 0:
            return round(number)
        raise _not_in_the_search(path, text)
    values, near = parameter.grid(), _SAME * max(abs(low), abs(high))
    if values is None and low - near <= number <= high + near:
        return min(max(number, low), high)
    for value in values or []:
        if abs(value - number) <= _SAME * max(abs(value), abs(number)):
            return value
    raise _not_in_the_search(path, text)


def _named(path: str, parameter: Parameter, text: str) -> Value:
    values = parameter.grid() or []
    for value in values:
        if category(value) == text:
            return value
    read: Any = next(iter(parse_word(f"value={text}").values()))
    for value in values:
        # True equals 1, which is another choice.
        if value == read and isinstance(value, bool) == isinstance(read, bool):
            return value
    raise _not_in_the_search(path, text)


def _not_in_the_search(path: str, text: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is none of the values of its search", where=f"search.parameters.{path}"
    )


def _broken(
    search: Search, values: Mapping[str, Value], tree: Mapping[str, Any]
) -> tuple[str, ...]:
    each = {text: search.model_copy(update={"constraints": (text,)}) for text in search.constraints}
    return tuple(text for text, only in each.items() if not only.satisfied(values, tree))
