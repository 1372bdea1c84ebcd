"""Trees for the tests that are shaped as AudioSet is: segment CSVs, ontology, sharded audio."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from conftest import Wave, make_noise, make_tone

Layout = Literal["id2", "flat", "Y", "times"]

SOUNDS = {
    "dog": ("/m/0bt9lr", "Dog"),
    "rain": ("/m/06mb1", "Rain"),
    "crying_baby": ("/t/dd00002", "Baby cry, infant cry"),
    "rooster": ("/m/07qn5dc", "Crowing, cock-a-doodle-doo"),
    "sea_waves": ("/m/034srq", "Waves, surf"),
    "helicopter": ("/m/09ct_", "Helicopter"),
    "chainsaw": ("/m/01j4z9", "Chainsaw"),
    "sneezing": ("/m/01hsr_", "Sneeze"),
    "crackling_fire": ("/m/02_41", "Fire"),
    "clock_tick": ("/m/07qjznl", "Tick-tock"),
}
"""The classes of ESC-10 and what AudioSet calls them, with its label ids."""

ANIMALS = ("dog", "rooster")
ANIMAL = ("/m/0jbk", "Animal")
NATURAL = ("/m/059j3w", "Natural sounds")
"""Restricted (abstract): a label id that is in the ontology and no class."""
ROARS = ("/m/04gy_2", "Battle cry")
"""Without restrictions, and not evaluated."""


@dataclass(frozen=True)
class AudioSetTree:
    """Where everything lies.

    Attributes:
        root: Folder of the audio.
        train: Segment CSV of the clips to train on.
        eval: Segment CSV of the clips to be judged on.
        ontology: JSON: the sounds, `Animal` above two of them, one restricted and one that is not
            evaluated.
        class_labels: CSV `index,mid,display_name` of the evaluated classes.
        names: The evaluated classes in the order of their indices.
        unrestricted: All classes without restrictions in the ontology's order.
        labels: Label ids of each clip, by the clip's id.
        files: The recording of each clip that has one, by the clip's id.
        absent: The clip in `train` whose recording is missing.
        unlabelled: The clip in `train` that has no evaluated class.
    """

    root: Path
    train: Path
    eval: Path
    ontology: Path
    class_labels: Path
    names: tuple[str, ...]
    unrestricted: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    files: dict[str, Path]
    absent: str
    unlabelled: str

    def source(self, **options: Any) -> dict[str, Any]:
        """Return `data.source` of a recipe."""
        return {
            "kind": "audioset",
            "segments": {"train": str(self.train), "test": str(self.eval)},
            "ontology": str(self.ontology),
            "class_labels": str(self.class_labels),
            "root": str(self.root),
        } | options


def write_audioset_tree(
    folder: Path,
    esc10: Path | None = None,
    *,
    num_sounds: int = 3,
    clips: int = 6,
    eval_clips: int = 2,
    seconds: float = 0.5,
    rate: int = 16000,
    layout: Layout = "id2",
    formats: Sequence[str] = ("wav", "flac"),
) -> AudioSetTree:
    """Write a small AudioSet.

    Every third clip holds two sounds and has both labels; animals are labelled `Animal` besides.
    Training has two clips more: one without a recording, one without an evaluated class.

    Args:
        folder: Where.
        esc10: The data set's folder (with `audio/` and `meta/`); None makes a tone per class.
        num_sounds: Classes besides `Animal`, 2 to 10.
        clips: Training clips of each.
        eval_clips: Clips to be judged on, of each.
        seconds: Length of every clip.
        rate: Samples a second of made clips; real ones keep theirs.
        layout: `id2/id.wav`, `id.wav`, `sub/deep/Yid.wav`, or `id2/id_30.000_40.000.wav`.
        formats: Suffixes, taken in turn.
    """
    sounds = list(SOUNDS)[:num_sounds]
    root, labels, files = folder / "audio", {}, {}
    rows: dict[str, list[str]] = {"train": [], "eval": []}
    for part, count in (("train", clips), ("eval", eval_clips)):
        for number, (take, sound) in enumerate((t, s) for t in range(count) for s in sounds):
            heard = [sound]
            if number % 3 == 2:
                heard.append(sounds[(sounds.index(sound) + 1) % len(sounds)])
            clip = _id(part, number)
            takes = (take if part == "train" else take + clips) % 40
            wave, its_rate = _mixed(esc10, heard, takes, seconds, rate)
            path = root / _place(clip, layout, formats[number % len(formats)])
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, its_rate)
            labels[clip], files[clip] = _labels(heard), path
            rows[part].append(clip)
    absent, unlabelled = _id("absent", 0), _id("unlabelled", 0)
    labels |= {absent: _labels(sounds[:1]), unlabelled: (ROARS[0], NATURAL[0])}
    files[unlabelled] = root / _place(unlabelled, layout, "wav")
    files[unlabelled].parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(files[unlabelled], make_noise(seconds, rate, seed=9), rate)
    rows["train"] += [absent, unlabelled]
    tables = {part: folder / f"{part}_segments.csv" for part in rows}
    for part, its in rows.items():
        write_segments(tables[part], {clip: labels[clip] for clip in its})
    known = [ANIMAL, *(SOUNDS[sound] for sound in sounds)]
    # The order of the indices is not the ontology's, as in AudioSet itself.
    evaluated = [*known[1:], known[0]]
    _write_ontology(folder / "ontology.json", known)
    with (folder / "class_labels_indices.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows([i, *pair] for i, pair in enumerate(evaluated))
    return AudioSetTree(
        root=root,
        train=tables["train"],
        eval=tables["eval"],
        ontology=folder / "ontology.json",
        class_labels=folder / "class_labels_indices.csv",
        names=tuple(name for _, name in evaluated),
        unrestricted=tuple(name for _, name in (*known, ROARS)),
        labels=labels,
        files=files,
        absent=absent,
        unlabelled=unlabelled,
    )


def write_segments(path: Path, labels: dict[str, tuple[str, ...]]) -> Path:
    """Write a segment CSV as AudioSet's are: three header lines, blanks, quoted label ids."""
    every = {label for its in labels.values() for label in its}
    lines = [
        "# Segments csv created Sun Mar  5 10:54:31 2017",
        f"# num_ytids={len(labels)}, num_segs={len(labels)}, num_unique_labels={len(every)}",
        "# YTID, start_seconds, end_seconds, positive_labels",
        *(f'{clip}, 30.000, 40.000, "{",".join(its)}"' for clip, its in labels.items()),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def _id(part: str, number: int) -> str:
    """Return eleven characters as YouTube has them; every fifth begins with a dash."""
    digest = hashlib.blake2b(f"{part}/{number}".encode(), digest_size=9).digest()
    text = base64.urlsafe_b64encode(digest).decode()[:11]
    return "-" + text[1:] if number % 5 == 4 else text


def _place(clip: str, layout: Layout, suffix: str) -> str:
    places = {
        "id2": f"{clip[:2]}/{clip}.{suffix}",
        "flat": f"{clip}.{suffix}",
        "Y": f"sub/deep/Y{clip}.{suffix}",
        "times": f"{clip[:2]}/{clip}_30.000_40.000.{suffix}",
    }
    return places[layout]


def _labels(heard: Sequence[str]) -> tuple[str, ...]:
    animal = [ANIMAL[0]] if set(heard) & set(ANIMALS) else []
    return (*animal, *(SOUNDS[sound][0] for sound in heard))


def _mixed(
    esc10: Path | None, heard: Sequence[str], take: int, seconds: float, rate: int
) -> tuple[Wave, int]:
    if esc10 is None:
        pitches = [200.0 * 1.5 ** list(SOUNDS).index(sound) for sound in heard]
        tones = [make_tone(seconds, rate, pitch * (1 + 0.01 * take)) for pitch in pitches]
        hiss = make_noise(seconds, rate, seed=take)
        return np.asarray(np.mean(tones, axis=0) + 0.1 * hiss, dtype=np.float32), rate
    with (esc10 / "meta" / "esc10.csv").open() as file:
        table = list(csv.DictReader(file))
    waves = []
    for sound in heard:
        names = [row["filename"] for row in table if row["category"] == sound]
        wave, rate = soundfile.read(esc10 / "audio" / names[take], dtype="float32")
        waves.append(wave[: round(seconds * rate)])
    return np.asarray(np.mean(waves, axis=0), dtype=np.float32), rate


def _write_ontology(path: Path, known: Sequence[tuple[str, str]]) -> None:
    animals = [SOUNDS[sound][0] for sound in ANIMALS]
    entries = [
        {
            "id": label,
            "name": name,
            "description": f"{name}, as the tests make it.",
            "citation_uri": "",
            "positive_examples": [],
            "child_ids": animals if label == ANIMAL[0] else [],
            "restrictions": [],
        }
        for label, name in [*known, ROARS]
    ]
    abstract = {"id": NATURAL[0], "name": NATURAL[1], "child_ids": [], "restrictions": ["abstract"]}
    path.write_text(json.dumps([*entries[:1], abstract, *entries[1:]], indent=1))
