from __future__ import annotations

from typing import Any

import pytest

from harken.overrides import ABSENT, find, merge, nest, parse_word, write_word


@pytest.mark.parametrize(
    "value",
    [
        *(1e-5, 3.0, 0.1, 7, -2, True, None, "mean", "1e-5", "null", "a b: c", "", "gs://b/a#1"),
        {"kind": "lstm", "dim": 64, "rate": 1e-12},
        [1, 2.5, None],
        {},
        "ä" * 200,
    ],
)
def test_a_word_is_read_as_it_was_meant(value: Any) -> None:
    word = write_word("a.b", value)
    assert "\n" not in word
    assert parse_word(word) == {"a": {"b": value}}
    assert repr(parse_word(word)) == repr({"a": {"b": value}})


def test_what_lies_at_a_path() -> None:
    tree = {"pooling": "mean", "heads": {"shared": None}, "augment": [{"kind": "gain", "p": 0.5}]}
    assert find(tree, "pooling.kind") == "mean"
    assert find(tree, "heads.shared") is None
    assert find(tree, "augment.0.p") == 0.5
    for path in ("heads.width", "augment.1.p", "augment.p", "pooling.dim", "heads.shared.x"):
        assert find(tree, path) is ABSENT
    assert repr(ABSENT) == "absent"


def test_merging_lays_one_tree_on_another() -> None:
    tree = {"backbone": {"kind": "cnn", "dropout": 0.1}, "seed": 1}
    assert merge(tree, nest("backbone.dropout", 0.2))["backbone"]["dropout"] == 0.2
    assert merge(tree, nest("backbone", {"kind": "mlp"})) == {
        "backbone": {"kind": "mlp"},
        "seed": 1,
    }
    assert tree["seed"] == 1


def test_a_date_that_is_none_is_text() -> None:
    """A recording's name often holds one."""
    assert parse_word("data.source.path=2024-13-45") == nest("data.source.path", "2024-13-45")
    assert parse_word("a=[") == {"a": "["}
