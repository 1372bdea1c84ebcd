"""How one tree of settings is laid on another, and `a.b.c=value` words in and out of such trees."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from harken.errors import ConfigError

TARGET = "target"
"""The key whose bare values are not kinds but columns of a table."""


def merge(tree: Any, over: Any, name: str = "") -> Any:
    """Lay `over` on `tree`: mappings merge key by key, anything else replaces.

    A mapping laid on a bare kind turns it into `{kind: …}` first, and another `kind` drops what
    belonged to the old one. Bare columns become `{columns: …}` so.

    Args:
        tree: What is there.
        over: What is laid on it.
        name: The key that both stand under.
    """
    if not isinstance(over, Mapping):
        return over
    if name == TARGET and isinstance(tree, str | list):
        tree = {"columns": tree}
    if isinstance(tree, str):
        tree = {"kind": tree}
    if isinstance(tree, list) and over and all(re.fullmatch(r"\d+", str(k)) for k in over):
        return _merge_list(tree, over)
    if not isinstance(tree, Mapping) or over.get("kind", tree.get("kind")) != tree.get("kind"):
        tree = {}
    merged = dict(tree)
    for key, value in over.items():
        merged[key] = merge(merged.get(key), value, str(key))
    return merged


def _merge_list(items: list[Any], over: Mapping[Any, Any]) -> list[Any]:
    merged = list(items)
    for key, value in over.items():
        if int(key) >= len(merged):
            raise ConfigError(f"there is no item {key}: the list has {len(merged)} items")
        merged[int(key)] = merge(merged[int(key)], value)
    return merged


def parse_word(word: str, tree: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Turn `a.b.c=value` (or `--a.b.c=value`) into a nested mapping; the value is read as YAML."""
    path, equals, text = word.removeprefix("--").partition("=")
    if not equals or not path:
        raise ConfigError(
            f"cannot read the override {word!r}", fix="write it as key.path=value, without spaces"
        )
    return nest(path, read_value(text))


def read_value(text: str) -> Any:
    """Return what a text means in YAML, or itself where it is none."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: something like a date, of a 13th month
        return text


def nest(path: str, value: Any) -> dict[str, Any]:
    """Return a mapping that holds a value at a path such as `a.b.c`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def write_word(path: str, value: Any) -> str:
    """Return the word that `parse_word` reads as this value at this path."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return f"{path}={text.removesuffix(chr(10)).removesuffix('...').strip()}"


class _Absent:
    """What `find` returns for a path that a tree does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def find(tree: Any, path: str) -> Any:
    """Return what a tree of settings holds at a path, or `ABSENT`.

    A bare kind, such as `pooling: mean`, has a `kind` too.
    """
    for key in path.split("."):
        if isinstance(tree, str) and key == "kind":
            continue
        if isinstance(tree, Mapping) and key in tree:
            tree = tree[key]
        elif isinstance(tree, list | tuple) and key.isdigit() and int(key) < len(tree):
            tree = tree[int(key)]
        else:
            return ABSENT
    return tree
