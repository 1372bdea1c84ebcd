"""UID trees for the tests: a folder for each recording, as clinical-speech labs keep them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from conftest import Wave, make_noise, make_tone

RATE = 8000
FSDD_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
LABEL_GROUPS = (("even", "small"), ("round", "has_i"))
"""Two classifiers of two labels each, as `labels.txt` has them."""
LABEL_DIGITS = {
    "even": {0, 2, 4, 6, 8},
    "small": {0, 1, 2, 3, 4},
    "round": {0, 6, 8, 9},
    "has_i": {5, 6, 8, 9},
}
"""Digits that have each label: looks round, is spelled with an i, …"""


@dataclass(frozen=True)
class UidTree:
    """Where everything lies.

    Attributes:
        audio: `<uid>/waveform.<ext>` and `<uid>/metadata.json`, below the study where there is one.
        study: Name of the study's folder, or None.
        splits: Folder of `train.csv`, `test.csv` and perhaps `valid.csv`: whole speakers each.
        table: All of them in one CSV: `uid, subject, task, digit`, and a 0/1 column for each label.
        label_file: `labels.txt`, two lines of two labels.
        annotations: `uid, feature, score, rater`: two raters, 1 (absent) to 5, -1 and 6 ignored.
        uids: Names of the recordings, in the table's order.
        speakers: Their speakers, each once.
    """

    audio: Path
    study: str | None
    splits: Path
    table: Path
    label_file: Path
    annotations: Path
    uids: tuple[str, ...]
    speakers: tuple[str, ...]

    def folder(self, uid: str) -> Path:
        """Return a recording's folder."""
        return (self.audio / self.study if self.study else self.audio) / uid


def write_uid_tree(
    folder: Path,
    fsdd: Path | None = None,
    *,
    num_speakers: int = 6,
    num_digits: int = 10,
    takes: int = 2,
    formats: Sequence[str] = ("wav",),
    study: str | None = None,
    valid: bool = False,
) -> UidTree:
    """Write spoken digits as a UID tree with its tables.

    Args:
        folder: Where.
        fsdd: The data set's folder (with `recordings/`); None makes tones of a pitch per digit.
        num_speakers: Speakers, at least 3; FSDD has 6. The last third of them is the test.
        num_digits: Digits from 0 on.
        takes: Recordings of each digit by each speaker; odd ones have another `task`.
        formats: Suffixes (`wav`, `mp3`, `flac`), taken in turn.
        study: Name of a folder between the root and the uids.
        valid: Also write `valid.csv`, with the last speaker of training.
    """
    names = FSDD_SPEAKERS if fsdd else [f"s{number}" for number in range(num_speakers)]
    speakers = tuple(names[:num_speakers])
    audio = folder / "audio"
    rows = []
    for number, (speaker, digit, take) in enumerate(
        (s, d, t) for s in speakers for d in range(num_digits) for t in range(takes)
    ):
        row = _row(speaker, digit, take)
        place = (audio / study if study else audio) / row["uid"]
        suffix = formats[number % len(formats)]
        place.mkdir(parents=True)
        wave = _recorded(fsdd, row, take) if fsdd else _spoken(speaker, digit, take)
        soundfile.write(place / f"waveform.{suffix}", wave, RATE)
        (place / "metadata.json").write_text(json.dumps(_metadata(row, suffix)))
        rows.append(row)
    (folder / "labels.txt").write_text("\n".join(map(", ".join, LABEL_GROUPS)) + "\n")
    _write(folder / "labels.csv", rows)
    _write(folder / "annotations.csv", [line for row in rows for line in _annotations(row)])
    _write_splits(folder / "splits", rows, speakers, valid)
    return UidTree(
        audio=audio,
        study=study,
        splits=folder / "splits",
        table=folder / "labels.csv",
        label_file=folder / "labels.txt",
        annotations=folder / "annotations.csv",
        uids=tuple(row["uid"] for row in rows),
        speakers=speakers,
    )


def _row(speaker: str, digit: int, take: int) -> dict[str, Any]:
    flags = {name: int(digit in digits) for name, digits in LABEL_DIGITS.items()}
    task = "repeating" if take % 2 else "counting"
    uid = f"{speaker}-{digit}-{take}"
    return {"uid": uid, "subject": speaker, "task": task, "digit": digit} | flags


def _metadata(row: dict[str, Any], suffix: str) -> dict[str, Any]:
    encoding = {"mp3": "MP3", "wav": "LINEAR16"}.get(suffix, suffix.upper())
    features = [{"name": n, "score": 3 if row[n] else 1} for n in LABEL_DIGITS]
    about = {"uid": row["uid"], "subject": row["subject"], "task": row["task"]}
    return about | {"encoding": encoding, "sample_rate_hz": RATE, "features": features}


def _annotations(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Two raters: the first sees a label weakly (2), the second strongly (4) or cannot tell."""
    lines = []
    for place, name in enumerate(LABEL_DIGITS):
        unsure = -1 if place % 2 else 6
        second = 4 if row["digit"] % 3 else unsure
        for rater, present in (("r1", 2), ("r2", second)):
            score = present if row[name] or present == unsure else 1
            lines.append({"uid": row["uid"], "feature": name, "score": score, "rater": rater})
    return lines


def _recorded(fsdd: Path, row: dict[str, Any], take: int) -> Wave:
    path = fsdd / "recordings" / f"{row['digit']}_{row['subject']}_{take}.wav"
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    return np.asarray(wave, dtype=np.float32)


def _spoken(speaker: str, digit: int, take: int) -> Wave:
    pitch = 200.0 * 1.25**digit * (1 + 0.01 * take)
    hiss = make_noise(0.4, RATE, seed=1000 * int(speaker[1:]) + 10 * digit + take)
    return make_tone(0.4, RATE, pitch) + 0.1 * hiss


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_splits(
    folder: Path, rows: list[dict[str, Any]], speakers: Sequence[str], valid: bool
) -> None:
    first_test = len(speakers) - max(1, len(speakers) // 3)
    parts = {"train": set(speakers[:first_test]), "test": set(speakers[first_test:])}
    if valid:
        parts["valid"] = {speakers[first_test - 1]}
        parts["train"] -= parts["valid"]
    for part, its in parts.items():
        _write(folder / f"{part}.csv", [row for row in rows if row["subject"] in its])
