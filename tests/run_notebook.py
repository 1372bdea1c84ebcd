"""Runs a notebook's cells from top to bottom in one namespace, without jupyter.

python tests/run_notebook.py docs/tutorials/vertex.ipynb           # prints what each cell says
python tests/run_notebook.py docs/tutorials/vertex.ipynb --write   # and keeps it in the notebook
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def run(path: Path) -> list[dict[str, str]]:
    """Return what each code cell writes to standard output and standard error."""
    sys.path.insert(0, str(path.parent))
    space: dict[str, Any] = {"__name__": "__main__"}
    told = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
        told.append({"id": cell["id"], "stdout": out.getvalue(), "stderr": err.getvalue()})
    return told


def keep(path: Path, told: list[dict[str, str]]) -> None:
    """Write the cells' outputs into the notebook."""
    book = json.loads(path.read_text())
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    for number, (cell, said) in enumerate(zip(cells, told, strict=True), start=1):
        cell["execution_count"] = number
        cell["outputs"] = [
            {"name": name, "output_type": "stream", "text": said[name].splitlines(keepends=True)}
            for name in ("stdout", "stderr")
            if said[name]
        ]
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    notebook = Path(sys.argv[1]).resolve()
    found = run(notebook)
    if "--write" in sys.argv:
        keep(notebook, found)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
