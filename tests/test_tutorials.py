"""The notebooks of docs/tutorials run from top to bottom, and say what is kept in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
RUNNER = Path(__file__).with_name("run_notebook.py")


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    book = json.loads(notebook.read_text())
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def kept(notebook: Path) -> dict[str, str]:
    """Return what each cell wrote to standard output when the notebook was made."""
    return {
        cell["id"]: "".join(
            "".join(output["text"]) for output in cell["outputs"] if output["name"] == "stdout"
        )
        for cell in cells(notebook, "code")
    }


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_executed_in_order_and_tells_nothing_of_its_machine(notebook: Path) -> None:
    book = json.loads(notebook.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert not re.search(r"/(tmp|home|root|work|Users)/|127\.0\.0\.1|[Ww]arning|Traceback", outputs)
    assert notebook.stat().st_size < 50_000


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(notebook: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (TUTORIALS / target).exists(), target


def test_the_vertex_notebook_says_again_what_it_says(tmp_path: Path) -> None:
    notebook = TUTORIALS / "vertex.ipynb"
    found = subprocess.run(
        [sys.executable, str(RUNNER), str(notebook)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HARKEN_CACHE": str(tmp_path / "cache")},
        check=False,
    )
    assert found.returncode == 0, found.stderr
    again = {cell["id"]: cell["stdout"] for cell in json.loads(found.stdout)}
    before = kept(notebook)
    assert again.keys() == before.keys()
    for name in ("dry", "submit", "arrived", "file"):
        assert again[name] == before[name], name
    assert json.loads(again["dry"])["maxTrialCount"] == 3
    # Numbers of training may differ in their last digits from machine to machine.
    number = re.compile(r"roc_auc \d\.\d+")
    assert number.sub("roc_auc", again["trials"]) == number.sub("roc_auc", before["trials"])
    assert len(number.findall(again["trials"])) == 3
    ranked = re.findall(r"^ +\d +trial-\d  roc_auc \d\.\d{4}  heads\.shared=", again["score"], re.M)
    assert len(ranked) == 3
    assert again["score"].splitlines()[-1] == before["score"].splitlines()[-1]


def test_its_cells_and_the_docs_agree_on_how_an_image_is_built() -> None:
    page = (TUTORIALS.parent / "vertex.md").read_text()
    text = "\n".join(
        "".join(cell["source"]) for cell in cells(TUTORIALS / "vertex.ipynb", "markdown")
    )
    typed = [line for line in text.splitlines() if line.startswith("$ ")]
    assert len(typed) == 7
    assert all(line in page for line in typed)
