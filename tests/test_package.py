from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import harken

ROOT = Path(__file__).parents[1]


def test_the_public_names_are_these() -> None:
    assert harken.__all__ == [
        "Classifier",
        "HarkenError",
        "Manifest",
        "Predictor",
        "Recipe",
        "embed",
        "evaluate",
        "load",
        "prepare",
        "read_recipe",
        "train",
    ]
    for name in harken.__all__:
        assert getattr(harken, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = harken.nothing


def test_a_verb_stays_a_function_after_its_module_is_imported() -> None:
    import harken.verbs.train

    assert callable(harken.train)


def test_importing_harken_imports_nothing_heavy() -> None:
    code = "import harken, sys; print({'torch', 'numpy', 'polars'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert harken.__version__ == project["version"] == metadata.version("harken")


def test_the_constraints_pin_every_dependency_and_name_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_]+", line) for line in lines)
    pinned = {re.sub(r"[._-]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        each for extra in project["optional-dependencies"].values() for each in extra
    ]
    names = {re.sub(r"[._-]+", "-", re.split(r"[\[>=<]", each)[0]).lower() for each in wanted}
    assert names - {"harken"} <= pinned


def test_nothing_is_pickled_or_unpickled() -> None:
    banned = re.compile(
        r"^[^#]*(import pickle\b|torch\.load\((?!.*weights_only=True)|weights_only=False"
        r"|allow_pickle=True|yaml\.load\(|\bexec\()"
    )
    for file in (ROOT / "src").rglob("*.py"):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            assert not banned.search(line), f"{file}:{number}"
