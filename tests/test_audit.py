"""Every fault of data is named, and data without faults are not accused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile

from conftest import make_noise, make_tone
from harken.audit import (
    Finding,
    Sound,
    audit_duplicates,
    audit_labels,
    audit_leaks,
    audit_shortcuts,
    audit_sounds,
    audit_split,
    listen,
    to_json,
)
from harken.labels import Labels
from harken.manifest import Clip, Manifest
from harken.split import Fold
from harken.target import Target

SOUND = Sound(1.0, 16000, 1, "wav", 0.1, 0.0, 0)


def table(count: int = 60, **columns: Sequence[Any]) -> Manifest:
    names = [f"c{i}" for i in range(count)]
    frame = pl.DataFrame({"id": names, "path": [f"/x/{n}.wav" for n in names]})
    return Manifest(frame.with_columns(**{k: pl.Series(v) for k, v in columns.items()}))


def learned(manifest: Manifest, columns: list[str] | None = None) -> tuple[Labels, Any]:
    labels = Labels.learn(Target(columns=columns or ["label"]), manifest)
    return labels, labels.encode(manifest)


def alternating(count: int = 60) -> list[str]:
    return ["ab"[i % 2] for i in range(count)]


def fold(count: int = 60, train: int = 30, valid: int = 15, **options: Any) -> Fold:
    parts = ["train"] * train + ["valid"] * valid + ["test"] * (count - train - valid)
    return Fold("", np.array(parts), **options)


def statuses(found: Finding | list[Finding]) -> dict[str, str]:
    return {f.topic: f.status for f in ([found] if isinstance(found, Finding) else found)}


def test_labels() -> None:
    labels, target = learned(table(label=alternating()))
    assert statuses(audit_labels(labels, target)) == {"missing_labels": "ok", "class_counts": "ok"}
    rare = ["b"] * 3 + ["a"] * 57
    (_, counts) = audit_labels(*learned(table(label=rare)))
    assert (counts.status, "b 3" in counts.text) == ("warning", True)


def test_missing_and_constant_labels() -> None:
    some = [None if i % 3 else i % 2 for i in range(60)]
    manifest = table(x=[i % 2 for i in range(60)], y=some, z=[1] * 60)
    labels, target = learned(manifest, ["x", "y", "z"])
    missing, counts = audit_labels(labels, target)
    assert missing.status == "warning"
    assert "y 67 %" in missing.text
    assert counts.status == "problem"
    assert counts.text.startswith("z is the same for every clip")
    target[:, 1] = np.nan
    assert statuses(audit_labels(labels, target))["missing_labels"] == "problem"


def test_splits() -> None:
    labels, target = learned(table(label=alternating()))
    good = audit_split(labels, target, [fold()], tests=True)
    assert statuses(good) == {"empty_split": "ok", "rare_classes": "ok"}
    empty = audit_split(labels, target, [fold(train=45, valid=0)], tests=True)
    assert statuses(empty) == {"empty_split": "problem"}
    assert "valid" in empty[0].text
    labels, target = learned(table(label=["a"] * 31 + ["b"] * 29))
    found = audit_split(labels, target, [fold()], tests=True)[1]
    assert (found.status, "train: b" in found.text) == ("problem", True)
    labels, target = learned(table(label=["b"] + ["a"] * 43 + ["b"] * 16))
    found = audit_split(labels, target, [fold(valid=14)], tests=True)[1]
    assert (found.status, found.text) == ("warning", "parts without a class: valid: b; test: a")


def test_leaks() -> None:
    assert statuses(audit_leaks(table(), [fold()])) == {"leak": "warning"}
    speakers = [f"s{i // 15}" for i in range(60)]
    assert statuses(audit_leaks(table(group=speakers), [fold()])) == {"leak": "ok"}
    torn = [f"s{i % 4}" for i in range(60)]
    found = audit_leaks(table(group=torn), [fold()])
    assert statuses(found) == {"leak": "problem"}
    assert "the group 's" in found[0].text
    open_fold = audit_leaks(table(group=torn), [fold(grouped=False)])
    assert (open_fold[0].status, "4 of 4 groups" in open_fold[0].text) == ("warning", True)
    digests = [str(i) for i in range(59)] + ["0"]
    found = audit_leaks(table(group=speakers), [fold()], digests)
    assert "identical audio is in both train (c0) and test (c59)" in found[0].text


def test_duplicates() -> None:
    manifest = table(label=alternating())
    labels, target = learned(manifest)
    digests = [str(i) for i in range(60)]
    assert audit_duplicates(manifest, labels, target, digests).status == "ok"
    copy = audit_duplicates(manifest, labels, target, [*digests[:58], "0", "59"])
    assert (copy.status, "c0, c58" in copy.text) == ("warning", True)
    torn = audit_duplicates(manifest, labels, target, [*digests[:59], "0"])
    assert (torn.status, "c0 (a), c59 (b)" in torn.text) == ("problem", True)
    unread = audit_duplicates(manifest, labels, target, [""] * 60)
    assert unread.status == "ok"


def heard(folder: Path, waves: dict[str, Any], rate: int = 16000) -> dict[str, Finding]:
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave, rate, subtype="PCM_16")
    sounds = listen([Clip(name, str(folder / f"{name}.wav")) for name in waves])
    return {f.topic: f for f in audit_sounds(list(waves), sounds, 16000)}


def test_sounds(tmp_path: Path) -> None:
    good = {
        "noise": make_noise(),
        "loud low tone": make_tone(frequency=40) * 1.999,
        "quiet": 0.1 * make_noise(),
    }
    assert {f.status for f in heard(tmp_path, good).values()} == {"ok"}
    bad = {
        "empty": 0 * make_noise(),
        "clipped": np.clip(5 * make_tone(), -1, 1),
        "one side": np.clip(3 * make_tone(), -2, 1),
        "shifted": make_noise() + 0.2,
        "fine": make_noise(),
    }
    found = heard(tmp_path, bad)
    assert "1 clip (empty)" in found["silent"].text
    assert "2 clips (clipped, one side)" in found["clipped"].text
    assert "1 clip (shifted)" in found["offset"].text
    assert found["sample_rates"].status == "ok"


def test_rates(tmp_path: Path) -> None:
    low = heard(tmp_path, {"a": make_noise()}, 8000)["sample_rates"]
    assert (low.status, "audio.sample_rate=8000" in str(low.fix)) == ("warning", True)
    sounds = [SOUND, Sound(1.0, 8000, 1, "wav", 0.1, 0.0, 0)]
    mixed = audit_sounds(["a", "b"], sounds, 16000)[-1]
    assert (mixed.status, mixed.text) == ("warning", "1 at 16000 Hz, 1 at 8000 Hz")
    assert audit_sounds(["a", "b"], sounds, 8000)[-1].status == "ok"


def test_recordings_that_cannot_be_read_are_left_to_the_decoder(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16000, subtype="FLOAT")
    names = ("bad", "nan", "none")
    assert listen([Clip(n, str(tmp_path / f"{n}.wav")) for n in names]) == [None] * 3


def shortcuts(manifest: Manifest, sounds: Sequence[Sound | None] | None = None) -> list[str]:
    labels, target = learned(manifest)
    count = len(manifest)
    parts = fold(count, count // 2, count // 4)
    found = audit_shortcuts(manifest, labels, target, parts, sounds or [SOUND] * count)
    return [f.text for f in found if f.status != "ok"]


def test_shortcuts() -> None:
    label = alternating()
    assert shortcuts(table(label=label)) == []
    changed = {
        "the length": {"seconds": 2.0},
        "the sample rate": {"sample_rate": 8000},
        "the file type": {"suffix": "mp3"},
        "the number of channels": {"channels": 2},
    }
    for name, change in changed.items():
        other = Sound(**vars(SOUND) | change)
        sounds = [SOUND if kind == "a" else other for kind in label]
        texts = shortcuts(table(label=label), sounds)
        assert texts, name
        assert all(text.startswith(f"{name} alone tells") for text in texts)


def test_columns_that_tell_the_label() -> None:
    label = alternating(200)
    site = ["north" if kind == "a" and i % 10 else "south" for i, kind in enumerate(label)]
    texts = shortcuts(table(200, label=label, site=site))
    assert len(texts) == 2
    assert "the column 'site' alone tells 'a' (ROC-AUC 0." in texts[0]
    alias = ["healthy" if kind == "a" else "ill" for kind in label]
    assert shortcuts(table(200, label=label, diagnosis=alias)) == []


def test_shortcuts_of_a_large_table_need_little_memory() -> None:
    """Clips are never compared pair by pair, which no machine could do with a million of them."""
    count = 8000
    label = alternating(count)
    site = [f"s{name}" if row % 10 else "s" for row, name in enumerate(label)]
    manifest = table(count, label=label, site=site)
    labels, target = learned(manifest)
    parts = fold(count, count // 2, count // 4)
    tracemalloc.start()
    found = audit_shortcuts(manifest, labels, target, parts, [SOUND] * count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "the column 'site' alone tells 'a'" in found[0].text
    assert peak < 20e6


def test_chance_is_no_shortcut() -> None:
    accused = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        columns = {f"x{i}": rng.integers(3, size=60).astype(str) for i in range(4)}
        sounds = [Sound(**vars(SOUND) | {"seconds": s}) for s in rng.uniform(1, 2, 60)]
        accused += bool(shortcuts(table(label=rng.choice(["a", "b"], 60), **columns), sounds))
    assert accused <= 1


def test_a_class_of_one_speaker() -> None:
    label = [["a", "b", "c"][i % 3] for i in range(60)]
    group = ["only" if kind == "c" else f"s{i // 12}" for i, kind in enumerate(label)]
    texts = shortcuts(table(label=label, group=group))
    assert any("all clips of c come from one group" in text for text in texts)


def test_regressions_have_no_shortcuts() -> None:
    manifest = table(age=np.linspace(0, 1, 60))
    labels = Labels.learn(Target(columns=["age"], task="regression"), manifest)
    target = labels.encode(manifest)
    assert audit_shortcuts(manifest, labels, target, fold(), [SOUND] * 60) == []
    assert statuses(audit_labels(labels, target)) == {"missing_labels": "ok"}


def test_json() -> None:
    assert to_json([Finding("leak", "ok", "none")]) == [
        {"topic": "leak", "status": "ok", "text": "none", "fix": None}
    ]
    with pytest.raises(AttributeError):
        Finding("leak", "ok", "none").text = "frozen"  # type: ignore[misc]
