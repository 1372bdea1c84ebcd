"""Every fault of a recipe's parts is named, and sound parts are not accused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile

import faulty_parts
from conftest import make_noise
from harken.audit import Finding
from harken.recipe import Recipe
from harken.verbs.check import check
from test_trainer import tiny_recipe

assert faulty_parts


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of many lengths, so that batches are padded: 3 classes × 3 speakers × 4 takes."""
    folder = tmp_path_factory.mktemp("uneven")
    rows = ["path,label,speaker,fold"]
    for number in range(36):
        seconds = 0.3 + 0.02 * (number * 7 % 12)
        wave = make_noise(seconds, seed=number)
        name = f"{number}.wav"
        soundfile.write(folder / name, wave * (1 + number % 3), 8000)
        speaker = number // 3 % 3
        rows.append(f"{name},{'abc'[number % 3]},s{speaker},{speaker + 1}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


def findings(table: Path, **over: Any) -> dict[str, list[Finding]]:
    settings: dict[str, Any] = {
        "audio": {"sample_rate": 8000},
        "augment": [],
        "mix": None,
        "backbone": {"kind": "faulty_backbone"},
        "pooling": "mean",
    }
    recipe: Recipe = tiny_recipe(table, **settings | over)
    found: dict[str, list[Finding]] = {}
    for finding in check(recipe):
        found.setdefault(finding.topic, []).append(finding)
    return found


def problems(found: dict[str, list[Finding]]) -> dict[str, str]:
    every = [finding for each in found.values() for finding in each]
    return {f.topic: f.text for f in every if f.status == "problem"}


@pytest.mark.parametrize("backbone", ["faulty_backbone", "cnn"])
def test_a_sound_recipe_passes(table: Path, backbone: str) -> None:
    augments = [{"kind": "gain", "p": 0.1}, {"kind": "spec_mask", "p": 0.1}]
    found = findings(table, backbone={"kind": backbone}, augment=augments)
    assert problems(found) == {}
    expected = {"frontend", "augmentation", "gradients", "input", "batch", "repeatable"}
    assert expected <= found.keys()
    assert len(found["augmentation"]) == 2


BACKBONES = {
    "deaf": ("input", "the scores of a, b, c stay the same when the clip is another one"),
    "unused": ("gradients", "got no gradient in 6 steps: backbone.second.bias"),
    "chance": ("repeatable", "two passes over the same clips differ"),
    "neighbours": ("batch", "a clip's scores depend on its batch"),
    "padding": ("batch", "a clip's scores depend on its batch"),
    "nan": ("gradients", "the loss is not finite"),
}


@pytest.mark.parametrize("fault", BACKBONES)
def test_faults_of_a_network_are_named(table: Path, fault: str) -> None:
    topic, text = BACKBONES[fault]
    found = problems(findings(table, backbone={"kind": "faulty_backbone", "fault": fault}))
    assert text in found[topic]


def test_weights_that_the_optimiser_does_not_move_are_named(table: Path) -> None:
    found = findings(table, optimizer={"kind": "faulty_optimizer"})
    assert problems(found)["gradients"].startswith("the optimiser moves none of backbone.layer")


def test_what_is_frozen_is_counted(table: Path) -> None:
    found = findings(table, backbone={"kind": "faulty_backbone", "fault": "frozen"})
    assert problems(found) == {}
    assert "27 of 235 weights learn" in found["gradients"][0].text


WAVES = {
    "nothing": "changes nothing, even with p=1",
    "in_place": "changes its input in place",
    "nan": "makes 100 % of the clips hold values that are no numbers",
    "silence": "leaves nothing of 12 of 12 clips",
    "stereo": "returns another shape",
    "crash": "fails: KeyError: 'sample'",
}


def test_faults_of_augmentations_are_named(table: Path) -> None:
    augments: list[dict[str, Any]] = [{"kind": "faulty_wave", "fault": fault} for fault in WAVES]
    augments += [{"kind": "faulty_spectrogram", "p": 0.5}, {"kind": "gain", "p": 0.0}]
    found = findings(table, augment=augments)
    said = found["augmentation"]
    for number, (finding, text) in enumerate(zip(said, WAVES.values(), strict=False)):
        assert finding.status == "problem"
        assert finding.text == f"augment.{number} (faulty_wave) {text}"
    assert said[6].text.endswith("(faulty_spectrogram) changes nothing, even with p=1")
    assert (said[7].status, said[7].text) == ("warning", "augment.7 (gain) never happens: p is 0")


def test_an_augmentation_without_its_files_is_named(table: Path, tmp_path: Path) -> None:
    found = findings(table, augment=[{"kind": "background", "path": str(tmp_path / "none")}])
    assert "none" in str(problems(found))


def test_a_head_without_labels_gets_no_gradient(table: Path) -> None:
    text = table.read_text().splitlines()
    rows = [f"{text[0]},x,y"]
    for number, line in enumerate(text[1:]):
        # y is known of test clips only, so its classifier never learns.
        known = str(number % 2) if line.endswith(",1") else ""
        rows.append(f"{line},{number % 2},{known}")
    other = table.parent / "columns.csv"
    other.write_text("\n".join(rows) + "\n")
    data = {
        "source": {"kind": "table", "path": str(other), "group": "speaker"},
        "target": {"columns": ["x", "y"], "groups": [["x"], ["y"]]},
        "split": {"kind": "fold", "column": "fold", "valid": 0.5, "stratify": False},
    }
    found = findings(table, data=data, heads={"bottleneck": 4})
    assert "heads.groups.1" in str(problems(found)) or "y" in problems(found)["split"]


def test_frontends_that_spoil_features_are_named(table: Path) -> None:
    constant = {"kind": "log_mel", "n_mels": 16, "floor": 1e9, "normalize": "none"}
    found = findings(table, frontend=constant)
    assert problems(found)["frontend"] == "the features are the same everywhere"
    huge = {"kind": "dataset", "mean": 0.0, "std": 1e-5}
    found = findings(table, frontend={"kind": "log_mel", "n_mels": 16, "normalize": huge})
    assert found["frontend"][0].status == "warning"


def test_a_network_that_cannot_be_built_is_a_finding(table: Path) -> None:
    found = problems(findings(table, backbone={"kind": "timm", "name": "resnet18"}))
    assert "audio.clip_seconds" in found["model"]
