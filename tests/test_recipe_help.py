from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harken.errors import ConfigError
from harken.recipe import SLOTS
from harken.recipe_help import describe, list_kinds


@pytest.mark.parametrize("slot", SLOTS)
def test_every_slot_lists_its_kinds(slot: str) -> None:
    found = list_kinds(slot)
    assert [kind for kind, _ in found] == sorted(SLOTS[slot].kinds())
    assert all(text for kind, text in found if not kind.startswith("test_"))


def test_an_unknown_slot_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'backbones'"):
        list_kinds("backbone_")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("train", "`epochs`"),
        ("backbone", "### backbones: ast"),
        ("backbone.ast", "`depth`"),
        ("ast", "`depth`"),
        ("data.split", "splits: random"),
        ("audio", "`clip_seconds`"),
        ("frontend.log_mel", "`n_mels`"),
    ],
)
def test_help_describes_sections_slots_and_kinds(path: str, shown: str) -> None:
    assert shown in describe(path)


def test_help_on_nothing_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        describe("trian")


def test_the_reference_in_the_docs_is_the_code_s_own() -> None:
    written = (Path(__file__).parents[1] / "docs" / "recipe.md").read_text()
    # In a process of its own, since other tests register kinds of their own.
    code = "from harken.recipe_help import reference; print(reference(), end='')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert written == found.stdout, "run make docs"
