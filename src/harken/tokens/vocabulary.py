"""A vocabulary: typical frames, and all that is needed to compare new sound with them.

One safetensors file: `centroids (k, dim)`, `counts (k,)`, perhaps `filters (kernels, size)`, and in
its header, as JSON, the settings of the audio and of the front-end that the frames came from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harken import storage
from harken.errors import DataError
from harken.storage import Location

VERSION = 1
NEEDED = ("audio", "features", "l2_normalize")


@dataclass(frozen=True)
class Vocabulary:
    """Centroids and what they are centroids of.

    Attributes:
        centroids: float32 `(k, dim)`.
        counts: int64 `(k,)`, frames that were nearest to each while it was fitted.
        filters: float32 `(num_kernels, kernel_size)`, or None.
        settings: `audio` and `features`, as in a recipe, and `l2_normalize`; then what is good to
            know: `seed`, `num_frames`, `inertia`, `silhouette`.
    """

    centroids: Tensor
    counts: Tensor
    filters: Tensor | None
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def digest(self) -> str:
        """Hash of all that decides a frame's token: not of how long clips are cropped, say."""
        content = hashlib.blake2b(digest_size=16)
        known = {name: self.settings[name] for name in ("features", "l2_normalize")}
        known["sample_rate"] = self.settings["audio"]["sample_rate"]
        content.update(json.dumps(known, sort_keys=True).encode())
        for tensor in (self.centroids, self.filters):
            if tensor is not None:
                content.update(tensor.contiguous().numpy().tobytes())
        return content.hexdigest()

    def write(self, url: Location) -> None:
        """Write the file, wholly or not at all.

        Raises:
            RunError: it cannot be written.
        """
        tensors = {"centroids": self.centroids.contiguous(), "counts": self.counts}
        if self.filters is not None:
            tensors["filters"] = self.filters.contiguous()
        note = {"harken": json.dumps({"version": VERSION, **self.settings}, sort_keys=True)}
        storage.write_atomic(url, lambda path: save_file(tensors, path, metadata=note))


def read_vocabulary(url: Location) -> Vocabulary:
    """Read what `harken tokens fit` wrote.

    Raises:
        DataError: there is no such file, or it is no vocabulary.
    """
    path = storage.local_copy(url)
    if not path.is_file():
        fix = "harken tokens fit RECIPE --out VOCAB"
        raise DataError("there is no such vocabulary", where=str(url), fix=fix)
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get("harken", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"this is no vocabulary: {error}", where=str(url)) from None
    _check(tensors, note, str(url))
    settings = {name: value for name, value in note.items() if name != "version"}
    return Vocabulary(tensors["centroids"], tensors["counts"], tensors.get("filters"), settings)


def _check(tensors: dict[str, Tensor], note: dict[str, Any], where: str) -> None:
    if not {"centroids", "counts"} <= set(tensors) or not set(NEEDED) <= set(note):
        raise DataError("this is no vocabulary: parts of it are missing", where=where)
    if note.get("version") != VERSION:
        text = f"this vocabulary has version {note.get('version')}; known is {VERSION}"
        raise DataError(text, where=where, fix="a newer harken")
    if not bool(torch.isfinite(tensors["centroids"]).all()):
        raise DataError("the centroids are not all finite", where=where)
