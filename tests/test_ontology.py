"""The ontology and the table of evaluated classes, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harken.errors import DataError
from harken.sources.ontology import Ontology, read_class_labels, refuse_twin_names

ENTRIES = [
    {"id": "/m/1", "name": "Human sounds", "child_ids": ["/m/2"], "restrictions": ["abstract"]},
    {"id": "/m/2", "name": "Speech, talk", "child_ids": [], "restrictions": []},
    {"id": "/m/3", "name": "Hiss"},
]


def ontology(folder: Path, entries: Any) -> Ontology:
    path = folder / "ontology.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return Ontology.read(str(path))


def test_restricted_sounds_are_no_classes(tmp_path: Path) -> None:
    found = ontology(tmp_path, ENTRIES)
    assert found.classes("unrestricted") == {"/m/2": "Speech, talk", "/m/3": "Hiss"}
    assert list(found.classes("all")) == ["/m/1", "/m/2", "/m/3"]
    assert found.children["/m/1"] == ("/m/2",)
    found.refuse_strangers(["/m/1", "/m/3"], "segments.csv", "leave it out")
    with pytest.raises(
        DataError, match=r"segments\.csv: the label id '/x' is not in ontology"
    ) as e:
        found.refuse_strangers(["/m/1", "/x", "/y"], "segments.csv", "leave it out")
    assert "nor 1 more" in str(e.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("{", "not JSON"),
        ({"id": "/m/1"}, "expected a list"),
        ([], "expected a list"),
        ([{"id": "/m/1"}], "no id or name in entry 1"),
        ([*ENTRIES, ENTRIES[0]], "the id '/m/1' is there twice in entry 4"),
    ],
)
def test_a_file_that_is_no_ontology(tmp_path: Path, entries: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ontology(tmp_path, entries)


def test_class_labels_are_in_the_order_of_their_index(tmp_path: Path) -> None:
    path = tmp_path / "class_labels.csv"
    path.write_text('index,mid,display_name\n1,/m/3,Hiss\n0,/m/2,"Speech, talk"\n')
    assert read_class_labels(str(path)) == {"/m/2": "Speech, talk", "/m/3": "Hiss"}
    path.write_text("index,mid,display_name\n0,/m/3,Hiss\n2,/m/2,Speech\n")
    with pytest.raises(DataError, match=r"expected index 1 .* found 2, /m/2, Speech"):
        read_class_labels(str(path))
    path.write_text("index,mid\n0,/m/3\n")
    with pytest.raises(DataError, match="no column 'display_name'"):
        read_class_labels(str(path))


def test_classes_of_one_name_are_refused() -> None:
    refuse_twin_names(["a", "b"], "x")
    with pytest.raises(DataError, match="two classes are called 'a'"):
        refuse_twin_names(["a", "b", "a"], "x")
