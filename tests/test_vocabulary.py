from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harken.errors import DataError
from harken.tokens.vocabulary import Vocabulary, read_vocabulary

SETTINGS: dict[str, Any] = {
    "audio": {"sample_rate": 16000, "clip_seconds": None},
    "features": {"kind": "log_mel", "n_mels": 3},
    "l2_normalize": False,
}
KNOWN = Vocabulary(
    torch.arange(12.0).view(4, 3), torch.tensor([5, 1, 0, 2]), torch.ones(2, 3), SETTINGS
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for known in (KNOWN, replace(KNOWN, filters=None)):
        known.write(tmp_path / "v.safetensors")
        read = read_vocabulary(tmp_path / "v.safetensors")
        assert torch.equal(read.centroids, known.centroids)
        assert torch.equal(read.counts, known.counts)
        assert (read.filters is None) == (known.filters is None)
        assert read.settings == SETTINGS
        assert read.digest == known.digest
        assert len(read) == 4
    assert set(load_file(tmp_path / "v.safetensors")) == {"centroids", "counts"}


def test_the_digest_knows_all_that_decides_a_token() -> None:
    other = [
        replace(KNOWN, centroids=KNOWN.centroids + 1),
        replace(KNOWN, filters=None),
        replace(KNOWN, settings=SETTINGS | {"l2_normalize": True}),
        replace(KNOWN, settings=SETTINGS | {"features": {"kind": "log_mel", "n_mels": 4}}),
        replace(KNOWN, settings=SETTINGS | {"audio": {"sample_rate": 8000}}),
    ]
    assert len({KNOWN.digest, *(each.digest for each in other)}) == 6
    longer = {"audio": {"sample_rate": 16000, "clip_seconds": 5.0}}
    same = replace(KNOWN, counts=KNOWN.counts + 1, settings=SETTINGS | longer | {"seed": 4})
    assert same.digest == KNOWN.digest


def test_what_is_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    with pytest.raises(DataError, match="no such vocabulary"):
        read_vocabulary(path)
    path.write_text("hello")
    with pytest.raises(DataError, match="this is no vocabulary"):
        read_vocabulary(path)
    save_file({"centroids": torch.zeros(2, 2)}, path)
    with pytest.raises(DataError, match="parts of it are missing"):
        read_vocabulary(path)
    replace(KNOWN, centroids=torch.full((2, 2), torch.nan)).write(path)
    with pytest.raises(DataError, match="not all finite"):
        read_vocabulary(path)


def test_a_later_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harken.tokens.vocabulary.VERSION", 7)
    KNOWN.write(tmp_path / "v.safetensors")
    monkeypatch.undo()
    with pytest.raises(DataError, match="version 7"):
        read_vocabulary(tmp_path / "v.safetensors")
