"""Sound and tables for the tests: made, not stored."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from bucket_servers import (  # noqa: F401
    azure_address,
    azure_bucket,
    bucket,
    faulty_bucket,
    gcs_address,
    gcs_bucket,
    quick_retries,
    s3_address,
    s3_bucket,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Without it gcsfs asks an emulator over gRPC, which answers after a minute.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

Wave = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test's caches away from the user's."""
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def make_tone(seconds: float = 0.5, sample_rate: int = 16000, frequency: float = 440.0) -> Wave:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def make_noise(seconds: float = 0.5, sample_rate: int = 16000, seed: int = 0) -> Wave:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * sample_rate))).astype(np.float32)


@pytest.fixture
def tone() -> Callable[..., Wave]:
    return make_tone


@pytest.fixture
def noise() -> Callable[..., Wave]:
    return make_noise


@pytest.fixture
def write_clip() -> Callable[..., Path]:
    def write(path: Path, waveform: Wave, sample_rate: int = 16000, **options: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, waveform, sample_rate, **options)
        return path

    return write


def write_tiny_table(folder: Path, num_speakers: int = 3, takes: int = 4) -> Path:
    """Clips of three classes (low tone, high tone, noise), said alike by every speaker."""
    rows = []
    for speaker in range(num_speakers):
        for take in range(takes):
            for label, frequency in (("low", 300.0), ("high", 2000.0), ("noise", None)):
                name = f"{label}_{speaker}_{take}.wav"
                hiss = make_noise(seed=100 * speaker + 10 * take + len(label))
                wave = (
                    hiss
                    if frequency is None
                    else make_tone(frequency=frequency * (1 + 0.05 * take))
                )
                folder.mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / name, wave + 0.1 * hiss, 16000)
                fold = speaker % 3 + 1
                rows.append([name, label, f"s{speaker}", fold, 20.0 + speaker])
    table = folder / "clips.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "speaker", "fold", "age"])
        writer.writerows(rows)
    return table


@pytest.fixture
def tiny_table(tmp_path: Path) -> Path:
    """A CSV of 36 half-second 16 kHz clips: 3 classes × 3 speakers (also the folds) × 4 takes."""
    return write_tiny_table(tmp_path / "tiny")


def _real(name: str) -> Path:
    data = os.environ.get("HARKEN_DATA") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(data) / name
    if not path.is_dir():
        pytest.skip(f"the real recordings {name} are not here (set HARKEN_DATA)")
    return path


@pytest.fixture
def esc10() -> Path:
    """400 clips of ESC-10."""
    return _real("esc10")


@pytest.fixture
def fsdd() -> Path:
    """3,000 spoken digits."""
    return _real("fsdd")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run over three folds on the tiny table; tests must not change it."""
    from harken.verbs.train import train
    from test_trainer import tiny_recipe

    folder = tmp_path_factory.mktemp("session")
    os.environ["HARKEN_CACHE"] = str(folder / "cache")
    table = write_tiny_table(folder / "tiny")
    recipe = tiny_recipe(table, train={"epochs": 20, "batch_size": 6}, mix=None)
    return train(recipe, folder / "run").path
