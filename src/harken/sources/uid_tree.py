"""UID trees: a folder for each recording, with `waveform.<ext>` and `metadata.json` in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from harken import storage
from harken.errors import DataError
from harken.sources.folder import SUFFIXES

THREADS = 16
"""Files that are read at once: reading waits for the disk or the network."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class UidEntry:
    """A recording's folder.

    Attributes:
        uid: Its name.
        folder: Path or URL.
        waveforms: The files called `waveform`, by suffix in small letters: `{".wav": "…"}`.
    """

    uid: str
    folder: str
    waveforms: Mapping[str, str]

    def waveform(self, encoding: object) -> str:
        """Return the recording; of several, the one that the metadata's `encoding` names.

        Raises:
            DataError: there is none that harken decodes.
        """
        order = [*_suffixes_of(encoding), *SUFFIXES]
        found = [self.waveforms[suffix] for suffix in order if suffix in self.waveforms]
        if not found:
            raise DataError(
                f"there is no recording: waveform{SUFFIXES[0]}, waveform{SUFFIXES[1]}, …",
                where=self.folder,
            )
        return found[0]

    def metadata(self) -> dict[str, Any]:
        """Return what `metadata.json` says.

        Raises:
            DataError: it is missing, not JSON, or not a mapping.
        """
        file = storage.join(self.folder, "metadata.json")
        raw = storage.read_bytes(file)
        try:
            value = json.loads(raw.decode("utf-8-sig"))
        except ValueError as error:
            raise DataError(f"this is not JSON: {error}", where=file) from error
        if not isinstance(value, dict):
            raise DataError(
                f'expected a mapping such as {{"encoding": "MP3"}}, found {_kind(value)}',
                where=file,
            )
        return value


def scan(root: str) -> dict[str, UidEntry]:
    """Find the recordings of a tree; `<root>/<uid>/waveform.<ext>` or `metadata.json` makes one.

    Raises:
        DataError: there is no such folder, or nothing of the kind in it.
    """
    base = str(storage.local_path(root)) if storage.is_local(root) else root
    base = base.rstrip("/") or "/"
    waveforms: dict[str, dict[str, str]] = {}
    deeper = None
    for file in storage.list_files(base, (*SUFFIXES, "metadata.json")):
        parts = file[len(base) :].lstrip("/").split("/")
        stem, _, suffix = parts[-1].rpartition(".")
        is_waveform = stem == "waveform"
        if not is_waveform and parts[-1] != "metadata.json":
            continue
        if len(parts) == 2:
            found = waveforms.setdefault(parts[0], {})
            found |= {f".{suffix.lower()}": file} if is_waveform else {}
        elif len(parts) == 3:
            deeper = deeper or parts[0]
    if not waveforms:
        raise DataError(
            "there are no recordings of the form <uid>/waveform.wav in this folder",
            where=root,
            fix=f"study: {deeper}, which has some" if deeper else None,
        )
    return {uid: UidEntry(uid, f"{base}/{uid}", its) for uid, its in sorted(waveforms.items())}


def map_files(work: Callable[[Any], _Result], items: Iterable[Any]) -> list[_Result]:
    """Apply a function that waits for files to all items, several at once, and keep their order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


def scalars(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a metadata file that fit into a table's cell."""
    return {key: v for key, v in metadata.items() if v is None or isinstance(v, str | int | float)}


def _suffixes_of(encoding: object) -> list[str]:
    word = str(encoding or "").strip().lower().removeprefix(".")
    # The names of the speech services that label these files.
    names = {"linear16": "wav", "pcm": "wav", "ogg_opus": "ogg", "webm_opus": "webm"}
    return [f".{names.get(word, word)}"]


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"{json.dumps(value)[:40]}"
