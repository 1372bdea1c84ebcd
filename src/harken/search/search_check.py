"""What can be wrong with a search, told when its recipe is read and not in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
from pydantic import ValidationError

from harken.choice import nearest
from harken.errors import ConfigError
from harken.overrides import ABSENT, find
from harken.search.search import Search, Values
from harken.search.search_parameters import Value
from harken.seeds import generator

Tree = Mapping[str, Any]

Complete = Callable[[Tree], Tree]
"""Validates a recipe's tree and returns it with every default filled in."""

Mistake = tuple[tuple[str, ...], str]
"""Where something is wrong, and what."""

TRIES = 200
"""Combinations drawn to find one that shows a value to be possible."""
MOST_DRAWS = 10_000
"""Combinations drawn before constraints on an endless space count as impossible."""


def mistakes_in(search: Search, recipe_tree: Tree, complete: Complete) -> list[Mistake]:
    """Return everything that is wrong with a search of a recipe.

    Args:
        search: The search.
        recipe_tree: The recipe's own settings, every default filled in.
        complete: See `Complete`; raises `ValidationError` or `ConfigError`.
    """
    return _Check(search, recipe_tree, complete).all()


class _Check:
    def __init__(self, search: Search, recipe_tree: Tree, complete: Complete) -> None:
        self.search, self.recipe_tree, self.complete = search, recipe_tree, complete
        self.trees: list[Tree] = [recipe_tree]
        self.mistakes: list[Mistake] = []

    def all(self) -> list[Mistake]:
        for path in self.search.order():
            # A path that does not exist would be told once for each value.
            for value in self.search.parameters[path].extremes():
                if not self._try(path, value):
                    break
        if not self.mistakes:
            self._check_names()
        if not self.mistakes:
            self._check_constraints()
        return self.mistakes

    # --- every value is possible somewhere ---

    def _try(self, path: str, value: Value) -> bool:
        """Look for a combination in which a parameter may have a value; say so if there is none."""
        first: list[Mistake] = []
        for values in islice(self._around(path, value), 20):
            found = self._wrong_with(path, values)
            if not found:
                return True
            first = first or found
        self.mistakes += first or self._never_drawn(path)
        return False

    def _never_drawn(self, path: str) -> list[Mistake]:
        where, names = ("parameters", path, "when"), self.search.parameters[path].when
        unknown: list[Mistake] = [
            (where, self._unknown(name)) for name in names if not self._is_there(name)
        ]
        unsaid = [mistake for name in names for mistake in self._unsaid(path, name)]
        return unknown or unsaid or [(where, "nothing that is drawn meets this condition")]

    def _around(self, path: str, value: Value) -> Iterator[dict[str, Value]]:
        """Yield combinations with one value given: the recipe's own, then others at random."""
        alone = {path: value}
        if self.search.active({}, self.recipe_tree)[path]:
            yield alone
        rng = generator(0, "search", path)
        for _ in range(TRIES):
            values = self._drawn(path, value, rng)
            if path in values and self._allowed(values):
                yield values

    def _drawn(self, path: str, value: Value, rng: np.random.Generator) -> dict[str, Value]:
        return self.search.pick(
            self.recipe_tree,
            lambda name, parameter: value if name == path else parameter.draw(rng),
        )

    def _allowed(self, values: Values) -> bool:
        try:
            return self.search.satisfied(values, self.recipe_tree)
        except ConfigError:
            return True  # Told by the check of constraints.

    def _wrong_with(self, path: str, values: Values) -> list[Mistake]:
        try:
            self.trees.append(self.complete(self.search.applied(values, self.recipe_tree)))
        except ValidationError as error:
            lines = error.errors(include_url=False)
            told = [f"{'.'.join(map(str, line['loc']))}: {line['msg']}" for line in lines]
        except ConfigError as error:
            told = [str(error)]
        else:
            return []
        return [(("parameters", path), f"with {self._words(path, values)}: {t}") for t in told]

    def _words(self, path: str, values: Values) -> str:
        return " ".join(self.search.words({path: values[path]}))

    # --- names and constraints ---

    def _check_names(self) -> None:
        """Refuse paths in conditions and constraints that no combination has."""
        named: list[tuple[tuple[str, ...], str]] = [
            (("parameters", path, "when"), name)
            for path, parameter in self.search.parameters.items()
            for name in parameter.when
        ]
        named += [(("constraints",), name) for rule in self.search.rules() for name in rule.paths]
        for where, name in named:
            if not self._is_there(name):
                self.mistakes.append((where, self._unknown(name)))
        for path, parameter in self.search.parameters.items():
            for name in parameter.when:
                self.mistakes += self._unsaid(path, name)

    def _is_there(self, name: str) -> bool:
        named = name in self.search.parameters
        return named or any(find(tree, name) is not ABSENT for tree in self.trees)

    def _unknown(self, name: str) -> str:
        known = chain(self.search.parameters, *(_paths(tree) for tree in self.trees))
        return f"the recipe has no {name}{nearest(name, dict.fromkeys(known))}"

    def _unsaid(self, path: str, name: str) -> list[Mistake]:
        """Refuse a condition on what a choice leaves to its default, which drawing does not see."""
        rng = generator(0, "search", path, name)
        for values in (self.search.draw(self.recipe_tree, rng) for _ in range(20)):
            tree = self.search.applied(values, self.recipe_tree)
            if name in self.search.parameters or find(tree, name) is not ABSENT:
                continue
            try:
                whole = self.complete(tree)
            except (ValidationError, ConfigError):
                continue
            if find(whole, name) is not ABSENT:
                above = next((p for p in values if name.startswith(f"{p}.")), name)
                text = f"{name} decides here, but a choice of {above} does not say it"
                return [(("parameters", path, "when"), text)]
        return []

    def _check_constraints(self) -> None:
        """Refuse constraints that nothing meets, or that cannot be told."""
        search, tree = self.search, self.recipe_tree
        if not search.constraints:
            return
        try:
            if search.is_finite:
                possible = next(search.combinations(tree), None) is not None
                looked = "no combination"
            else:
                rng = generator(0, "search", "constraints")
                draws = (search.draw(tree, rng) for _ in range(MOST_DRAWS))
                possible = any(search.satisfied(values, tree) for values in draws)
                looked = f"none of {MOST_DRAWS:,} combinations drawn at random"
        except ConfigError as error:
            self.mistakes.append((("constraints",), f"{error.message}; {error.fix}"))
            return
        if not possible:
            rules = " and ".join(search.constraints)
            self.mistakes.append((("constraints",), f"impossible: {looked} meets {rules}"))


def _paths(tree: Any, above: str = "") -> Iterator[str]:
    """Yield every path of a tree, to find the nearest to a mistyped one."""
    if isinstance(tree, Mapping):
        for key, entry in tree.items():
            yield f"{above}{key}"
            yield from _paths(entry, f"{above}{key}.")
