"""Imports point downwards only, and nothing that is banned is imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "harken"

LAYERS = """
errors native plain_pickle legacy_weights hangul choice overrides file_lock storage
tables score_files seeds permutation
manifest target legacy_settings legacy_names multi_hot labels derive covariates difficulty deal
split check
parts unpack containers decode audit audio sources pcm_index pcm_fill pcm_cache
batch augment dataset loader
tokens frontends backbones pooling conditioning heads model
losses schedules optim sam ema
subgroups thresholds threshold_rules calibrate ranking tagging weighted bootstrap metrics standings
by_group
votes environment checkpoint track search recipe recipe_help inference
feature_memory trainer pretraining
soundness predictor
embedder embeddings ngrams probe
trial_metric vertex
report explain verbs cli __init__ __main__
""".split()  # noqa: SIM905

BANNED = {"torchaudio", "librosa", "numba", "pandas", "pickle", "audiomentations"}
LAZY = {
    *("timm", "transformers", "av", "matplotlib", "jinja2", "tensorboard", "python_stretch"),
    *("optuna", "gcsfs", "s3fs", "adlfs", "google"),
}


def imports(file: Path) -> list[tuple[str, bool]]:
    """Return every imported module and whether it is imported at the file's top level."""
    found = []
    tree = ast.parse(file.read_text())
    top = set(
        ast.walk(
            ast.Module(body=[n for n in tree.body if not isinstance(n, ast.If)], type_ignores=[])
        )
    )
    inner = {
        node
        for definition in ast.walk(tree)
        if isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(definition)
    }
    for node in ast.walk(tree):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else imported_from(node)
            if isinstance(node, ast.ImportFrom)
            else []
        )
        found += [(name, node in top and node not in inner) for name in names]
    return found


def imported_from(node: ast.ImportFrom) -> list[str]:
    if node.module == "harken":
        return [f"harken.{alias.name}" for alias in node.names]
    return [node.module or ""]


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_point_downwards(file: Path) -> None:
    part = file.relative_to(SOURCE).parts
    here = part[0].removesuffix(".py")
    assert here in LAYERS, f"name the layer of {here} in this test"
    for name, at_top in imports(file):
        root = name.split(".")[0]
        assert root not in BANNED, f"{file} imports {name}"
        assert not (root in LAZY and at_top), f"{file} imports {name} outside a function"
        if root == "harken" and at_top and layer(name) != here:
            assert LAYERS.index(layer(name)) < LAYERS.index(here), f"{file} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_no_file_outgrows_a_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


def test_functions_are_short() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 12


def test_every_public_name_is_documented() -> None:
    bare = [
        f"{file.name}:{node.lineno} {node.name}"
        for file in FILES
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare


def test_every_module_has_a_test_file() -> None:
    tests = {file.stem.removeprefix("test_") for file in Path(__file__).parent.glob("test_*.py")}
    modules = {
        file.stem
        for file in FILES
        if file.stem not in ("__init__", "__main__", "frontend", "backbone", "source", "augment")
        and file.parent.name != "cli"  # test_cli.py types what a person would type
    }
    aliases = {"waveform", "spectrogram", "batch", "demo", "train", "evaluate", "prepare"}
    assert not sorted(m for m in modules - tests if m not in aliases)
