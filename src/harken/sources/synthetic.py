"""The source `synthetic`: recordings that are made, not taken, so that every truth is known."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import soundfile
from pydantic import Field, field_validator

from harken import storage
from harken.choice import nearest
from harken.errors import DataError
from harken.manifest import Manifest
from harken.sources.children import children
from harken.sources.source import Source
from harken.sources.voice import Row
from harken.sources.vowels import vowels

Style = Callable[[int, int, float, int, int], Iterator[tuple[Row, npt.NDArray[np.float64]]]]

STYLES: dict[str, Style] = {"vowels": vowels, "children": children}
"""What can be made, by name.

`style(speakers, clips_per_speaker, seconds, sample_rate, seed)` yields each clip's columns (with
`id`, `label`, `speaker`) and its waveform within -1 to 1. A new style is a file beside `vowels.py`
and one entry here; a plug-in adds its own entry.
"""

TABLE, SETTINGS, SCORES = "clips.csv", "synthetic.json", "severity.csv"


class Synthetic(Source):
    """Made-up speakers, each with a label of their own; written once as WAV files and a table.

    `vowels`: sustained a, i, u of clear and of rough or breathy voices, the label belonging to the
    speaker as in a clinic. Columns: id, path, label, speaker, sex, age, vowel, take, severity.

    `children`: Korean words of children of 2 to 10, typically developing (td) or with a
    speech-sound disorder (ssd). All replace difficult sounds, the less the older they are, and
    disordered children for years longer, so that age and word belong to the decision. Columns: id,
    path, label, speaker, age, word, said (what became of the word), distortion (0 to 1), sex,
    severity, site.

    Beside the table lies `severity.csv`, a severity from 0 to 1 for each speaker.
    """

    kind: Literal["synthetic"] = "synthetic"
    style: str = "vowels"
    """What is made: `vowels`, `children`, or what a plug-in adds."""
    speakers: int = Field(30, ge=4)
    """Number of speakers: of `vowels`, half are rough; of `children`, a third are ssd."""
    clips_per_speaker: int = Field(12, ge=1)
    """Number of clips of each speaker."""
    seconds: float = Field(1.25, ge=0.2, le=60.0)
    """Mean length of a clip; the clips vary by a fifth around it."""
    sample_rate: int = Field(16000, ge=8000, le=48000)
    """Samples a second."""
    seed: int = 0
    """Another seed makes other speakers."""
    path: str | None = None
    """Folder for the WAV files and their table, on this machine; by default one of the user's
    cache."""

    default_target: ClassVar[str | None] = "label"

    @field_validator("style")
    @classmethod
    def _known_style(cls, style: str) -> str:
        if style not in STYLES:
            known = ", ".join(sorted(STYLES))
            raise ValueError(f"unknown style {style!r}; one of {known}{nearest(style, STYLES)}")
        return style

    @field_validator("path")
    @classmethod
    def _is_local(cls, path: str | None) -> str | None:
        if path is not None and not storage.is_local(path):
            raise ValueError(f"recordings are made on this machine: a folder, not {path}")
        return path

    def load(self) -> Manifest:
        """Return the table, after making the recordings unless they lie in the folder already.

        Raises:
            DataError: the folder holds a table of something else.
            RunError: the disk is full.
        """
        folder = self.folder()
        frame = self._made(folder)
        if frame is None:
            frame = self._make(folder)
        frame = frame.with_columns(
            path=pl.Series([str(folder / name) for name in frame["path"]]),
            row=pl.int_range(2, frame.height + 2),
            group=pl.col("speaker"),
        )
        return Manifest(frame, origin=str(folder / TABLE))

    def folder(self) -> Path:
        """Return where the recordings lie: `path`, or a folder of the cache for these settings."""
        if self.path is not None:
            return storage.local_path(self.path).absolute()
        digest = hashlib.blake2b(self._settings().encode(), digest_size=6).hexdigest()
        return storage.cache_folder() / f"synthetic-{digest}"

    def _settings(self) -> str:
        # The version goes up whenever the same settings make other samples.
        return json.dumps({"version": 1, **self.model_dump(exclude={"kind", "path"})}, indent=1)

    def _made(self, folder: Path) -> pl.DataFrame | None:
        table, settings = folder / TABLE, folder / SETTINGS
        if not table.is_file():
            return None
        if not settings.is_file() or settings.read_text() != self._settings():
            raise DataError(
                "this folder holds a table of something else, which is not overwritten",
                where=str(table),
                fix="another data.source.path, or remove the folder",
            )
        frame = pl.read_csv(table)
        names = [*frame["path"], *([SCORES] if "severity" in frame.columns else [])]
        complete = all((folder / name).is_file() for name in names)
        return frame if complete else None

    def _make(self, folder: Path) -> pl.DataFrame:
        style = STYLES[self.style]
        rows = []
        for row, wave in style(
            self.speakers, self.clips_per_speaker, self.seconds, self.sample_rate, self.seed
        ):
            name = f"{row['id']}.wav"
            storage.write_atomic(folder / name, wav_bytes(wave, self.sample_rate))
            rows.append({"id": row["id"], "path": name, **row})
        frame = pl.DataFrame(rows)
        if "severity" in frame.columns:
            scores = frame.select("speaker", "severity").unique(maintain_order=True)
            storage.write_atomic(folder / SCORES, scores.write_csv())
        storage.write_atomic(folder / SETTINGS, self._settings())
        # The table comes last: a folder with a table is a complete one.
        storage.write_atomic(folder / TABLE, frame.write_csv())
        return frame


def wav_bytes(wave: npt.NDArray[np.floating], sample_rate: int) -> bytes:
    """Return a 16-bit WAV file of float samples within -1 to 1."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
