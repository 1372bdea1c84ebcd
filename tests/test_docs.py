"""The commands and files that README and docs show are run, in order, as a person would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import make_noise, make_tone
from harken.cli import app
from harken.recipe import read_recipe, validate

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {"demo": ["train.epochs=1"], "train": ["train.epochs=1", "evaluate.num_resamples=20"]}
"""Overrides that shorten what is run; the commands are otherwise the documents' own."""


def fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def commands(page: Path) -> list[str]:
    lines = "\n".join(fences(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("harken ")]


def run(command: str, *, alone: bool) -> tuple[int, str]:
    """Run a command here, which saves seconds of imports, or `alone` in a process of its own."""
    words = shlex.split(command)[1:]
    words += QUICK.get(words[0], []) if "--dry-run" not in words else []
    if alone:
        typed = [sys.executable, "-m", "harken", *words]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(typed, capture_output=True, text=True, env=env, check=False)
        return done.returncode, done.stdout + done.stderr
    found = CliRunner().invoke(app, words)
    return found.exit_code, f"{found.output}\n{found.exception}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: clips/, clips.csv, and the files that pages show."""
    import soundfile

    folder = tmp_path_factory.mktemp("desk")
    (folder / "clips").mkdir()
    rows = ["path,label,speaker"]
    for number in range(24):
        name = {0: "a", 1: "b"}.get(number, f"c{number}")
        wave = 0.1 * make_noise(1.0, seed=number) + make_tone(1.0, frequency=300 * (1 + number % 2))
        soundfile.write(folder / "clips" / f"{name}.wav", wave, 16000)
        rows.append(f"clips/{name}.wav,{'high' if number % 2 else 'low'},s{number // 4}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    for page in PAGES:
        for language in ("yaml", "python"):
            for text in fences(page, language):
                if named := re.match(r"# ([\w/]+\.(?:yaml|py))\n", text):
                    (folder / named[1]).write_text(text)
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_works(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    # Components of one's own would stay in this process.
    plugs_in = any(re.match(r"# \S+\.py\n", text) for text in fences(page, "python"))
    for command in commands(page):
        if "shared/data" in command:
            continue  # test_examples.py runs these on the real recordings
        status, said = run(command, alone=plugs_in)
        assert status == 0, f"{command}\n{said}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_recipe_in_the_docs_is_valid(desk: Path) -> None:
    for path in desk.glob("*.yaml"):
        assert read_recipe([path])


def test_examples_in_docstrings_are_valid() -> None:
    """`{kind: …}` blocks in docstrings of front-ends are recipes of front-ends."""
    import yaml

    from harken.recipe import SLOTS

    found = 0
    for member in SLOTS["frontends"].kinds().values():
        for text in re.findall(r"^\s+(\{kind: .*?\})$", member.__doc__ or "", re.M | re.S):
            data = {"source": {"kind": "folder", "path": "."}}
            assert validate({"data": data, "frontend": yaml.safe_load(text)})
            found += 1
    assert found >= 3


def test_the_readme_fits_and_shows_the_two_commands_first() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    first_screen = "\n".join(lines[:30])
    assert "make demo" in first_screen
    assert "make test" in first_screen
    assert "docs/report.png" in first_screen
