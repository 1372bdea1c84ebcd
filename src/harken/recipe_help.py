"""`harken list` and `harken recipe help`: what can be written in a recipe, read off the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from harken.choice import Choice, Config, nearest
from harken.errors import ConfigError
from harken.recipe import SLOTS, Recipe


def list_kinds(slot: str) -> list[tuple[str, str]]:
    """Return the kinds of a slot such as `backbones`, each with its first sentence.

    Raises:
        ConfigError: there is no such slot.
    """
    if slot not in SLOTS:
        raise ConfigError(
            f"there is nothing called {slot!r}; one of {', '.join(SLOTS)}{nearest(slot, SLOTS)}"
        )
    return [(kind, summary(member)) for kind, member in sorted(SLOTS[slot].kinds().items())]


def summary(config: type[Config]) -> str:
    """Return the first sentence of a config's text."""
    text = inspect.cleandoc(config.__doc__ or "").split("\n\n")[0]
    return " ".join(text.split())


def describe(path: str) -> str:
    """Return the documentation of a part of the recipe, as Markdown.

    Args:
        path: A section (`train`), a slot (`backbone`), a kind (`ast`) or both (`backbone.ast`).

    Raises:
        ConfigError: there is no such part.
    """
    found = dict(_parts())
    if path not in found:
        raise ConfigError(f"there is no help on {path!r}{nearest(path, found)}")
    return "\n\n".join(_section(title, config) for title, config in found[path])


Titled = list[tuple[str, type[Config]]]


def _parts() -> Iterator[tuple[str, Titled]]:
    """Yield every word that `describe` knows, with what it shows."""
    kinds: dict[str, Titled] = {}
    for name, config in _sections():
        yield name, [(name, config)]
    for plural, slot in SLOTS.items():
        members = {kind: (f"{plural}: {kind}", member) for kind, member in _sorted_kinds(slot)}
        for word in {plural, slot.__name__.lower(), *_fields_of(slot)}:
            yield word, list(members.values())
            yield from ((f"{word}.{kind}", [entry]) for kind, entry in members.items())
        for kind, entry in members.items():
            kinds.setdefault(kind, []).append(entry)
    yield from kinds.items()


def _sorted_kinds(slot: type[Choice]) -> list[tuple[str, type[Config]]]:
    return [(kind, member) for kind, member in sorted(slot.kinds().items())]


def _sections() -> Iterator[tuple[str, type[Config]]]:
    yield "recipe", Recipe
    for name, field in Recipe.model_fields.items():
        for config in (field.annotation, *get_args(field.annotation)):
            is_config = inspect.isclass(config) and issubclass(config, Config)
            if is_config and not issubclass(config, Choice):
                yield name, config


def _fields_of(slot: type[Choice]) -> Iterator[str]:
    """Yield the recipe's own words for a slot, such as `data.split`."""
    places: Titled = [("", Recipe), *((f"{n}.", c) for n, c in _sections() if c is not Recipe)]
    for prefix, config in places:
        for name, field in config.model_fields.items():
            if slot.__name__ in re.findall(r"\w+", str(field.annotation)):
                yield f"{prefix}{name}"


def _section(title: str, config: type[Config]) -> str:
    lines = [f"### {title}", "", inspect.cleandoc(config.__doc__ or ""), ""]
    rows = [_row(name, f) for name, f in config.model_fields.items() if name != "kind"]
    if rows:
        lines += ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    cells = [f"`{name}`", _type_name(field), _default(field), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _type_name(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(rule, word):g}"
        for rule in field.metadata
        for word, sign in _SIGNS.items()
        if hasattr(rule, word)
    ]
    return ", ".join([_spell(field.annotation), *limits])


def _spell(kind: Any) -> str:
    """Write a type as a reader of YAML would."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _spell(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(map(_spell, parts)))
    if origin is not None:
        inner = ", ".join(_spell(part) for part in parts if part is not Ellipsis)
        return f"list[{inner}]" if origin in (list, tuple) else f"{origin.__name__}[{inner}]"
    if kind is NoneType:
        return "null"
    return str(getattr(kind, "__name__", kind))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if isinstance(value, Choice):
        return f"`{value.model_dump()['kind']}`"
    if isinstance(value, Config):
        return "its own defaults"
    return "null" if value is None else f"`{value}`"


def reference() -> str:
    """Return the whole reference of the recipe as Markdown (`docs/recipe.md` is made by it)."""
    parts = ["# Recipe reference\n\nMade from the code by `make docs`.\n"]
    parts += [_section(name, config) for name, config in _sections()]
    for plural, slot in SLOTS.items():
        parts.append(f"## {plural}\n\n{summary(slot)}\n")
        parts += [_section(f"`{kind}`", member) for kind, member in sorted(slot.kinds().items())]
    return "\n".join(parts)
