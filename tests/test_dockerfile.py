"""The Dockerfile is read, not built: there need be no docker where tests run."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from harken.cli import app
from harken.vertex.spec import Machine

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    lines = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    parted = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, _, rest in parted]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def arguments() -> dict[str, str]:
    return dict(rest.split("=", 1) for rest in of("ARG"))


def copied() -> dict[str, str]:
    """Return what is copied, each with the place in the working folder."""
    found = {}
    for rest in of("COPY"):
        *sources, target = rest.split()
        found |= dict.fromkeys(sources, target)
    return found


def sent(name: str) -> bool:
    """Whether .dockerignore lets a file reach the builder; its last matching line decides."""
    verdict = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and line[0] != "#" and (fnmatch(name, pattern) or pattern in name.split("/")):
            verdict = line.startswith("!")
    return verdict


def extras() -> list[str]:
    return arguments()["EXTRAS"].split(",")


def requirements(names: list[str]) -> list[Requirement]:
    """Return what the project and some of its extras need, extras of its own followed."""
    told = [Requirement(text) for text in PROJECT["dependencies"]] if not names else []
    for name in names:
        for text in PROJECT["optional-dependencies"][name]:
            need = Requirement(text)
            own = need.name == PROJECT["name"]
            told += requirements(sorted(need.extras)) if own else [need]
    return told


def test_it_starts_from_a_python_that_the_project_takes() -> None:
    assert of("FROM") == ["${BASE}"]
    found = re.fullmatch(r"python:(\d+\.\d+)-slim", arguments()["BASE"])
    assert found is not None
    assert found[1] in SpecifierSet(PROJECT["requires-python"])
    order = [word for word, _ in instructions()]
    assert order.index("ARG") < order.index("FROM") < order.index("COPY")
    # An argument from before FROM is unknown after it.
    after = instructions()[order.index("FROM") :]
    assert any(rest.startswith("EXTRAS=") for word, rest in after if word == "ARG")


def test_it_copies_what_it_installs_and_nothing_else() -> None:
    needed = {"pyproject.toml", "constraints.txt", PROJECT["readme"], *PROJECT["license-files"]}
    assert needed | {"src"} == set(copied())
    assert copied()["src"] == "./src"
    assert all((ROOT / name).exists() and sent(name) for name in copied())
    for name in (".git", "tests", "docs", "runs", ".venv", "src/harken/__pycache__/x.pyc"):
        assert not sent(name)
    (wheel,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]["packages"]
    assert wheel.startswith("src/")


def test_it_installs_the_project_with_extras_that_exist() -> None:
    (install,) = [rest for rest in of("RUN") if "pip install" in rest]
    words = shlex.split(install)
    assert words[:4] == ["python", "-m", "pip", "install"]
    assert words[-1] == ".[${EXTRAS}]"
    assert words[words.index("--constraint") + 1] == "constraints.txt"
    assert set(extras()) <= set(PROJECT["optional-dependencies"])
    assert {"gcs", "hf", "timm", "report"} <= set(extras())
    assert not {"vertex", "tune", "dev", "all"} & set(extras())
    order = [f"{word} {rest}" for word, rest in instructions()]
    assert order.index("COPY src ./src") < order.index(f"RUN {install}")


def test_the_constraints_agree_with_the_project() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    parted = [line.partition("==") for line in lines if not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, equals, version in parted if equals}
    assert pinned
    for need in requirements([]) + requirements(extras()):
        version = pinned.get(canonicalize_name(need.name))
        assert version is None or version in need.specifier, need


def test_soundfile_finds_its_library() -> None:
    (install,) = [rest for rest in of("RUN") if "apt-get" in rest]
    assert "libsndfile1" in install.split()
    assert install.index("apt-get update") < install.index("apt-get install")
    assert "rm -rf /var/lib/apt/lists/*" in install


def test_the_entry_point_is_the_command_line() -> None:
    (entry,) = [json.loads(rest) for rest in of("ENTRYPOINT")]
    assert entry == ["harken"]
    module, _, function = PROJECT["scripts"][entry[0]].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert not of("CMD")
    container = Machine("i").job_spec(["train"])["workerPoolSpecs"][0]["containerSpec"]
    assert "command" not in container  # it would replace the entry point
    commands = {
        command.callback.__name__ for command in app.registered_commands if command.callback
    }
    assert container["args"][0] in commands


def test_it_names_no_address() -> None:
    text = (ROOT / "Dockerfile").read_text() + (ROOT / ".dockerignore").read_text()
    assert not re.search(r"https?://|index-url|trusted-host", text)


@pytest.mark.parametrize("word", ["PYTHONUNBUFFERED"])
def test_logs_are_not_held_back(word: str) -> None:
    assert f"{word}=1" in of("ENV")
