from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import soundfile
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from harken.errors import DataError
from harken.manifest import Manifest
from harken.score_files import read_scores
from harken.sources import synthetic
from harken.sources.source import Source
from harken.sources.synthetic import Synthetic, wav_bytes
from harken.sources.voice import Row

SMALL = {"speakers": 4, "clips_per_speaker": 2, "seconds": 0.3}


def test_manifest_names_every_clip_its_speaker_and_its_label(tmp_path: Path) -> None:
    manifest = Synthetic(path=str(tmp_path), **SMALL).load()
    assert isinstance(manifest, Manifest)
    frame = manifest.frame
    assert len(manifest) == 8
    assert set(frame.columns) >= {"label", "speaker", "group", "sex", "age", "vowel", "severity"}
    assert frame["group"].to_list() == frame["speaker"].to_list()
    assert frame.group_by("speaker").agg(pl.col("label").n_unique())["label"].max() == 1
    assert set(frame["label"]) == {"clear", "rough"}
    assert frame["severity"].is_between(0, 1).all()
    for path in frame["path"]:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 0.23 < info.duration < 0.37


def test_kind_is_reached_through_the_slot_and_its_default_target_is_label() -> None:
    source = Source.member("synthetic").model_validate({"kind": "synthetic", "speakers": 6})
    assert isinstance(source, Synthetic)
    assert source.default_target == "label"


def test_the_table_beside_the_sound_has_relative_paths(tmp_path: Path) -> None:
    manifest = Synthetic(path=str(tmp_path), **SMALL).load()
    table = pl.read_csv(tmp_path / "clips.csv")
    assert [str(tmp_path / name) for name in table["path"]] == manifest.frame["path"].to_list()
    assert table["label"].to_list() == manifest.frame["label"].to_list()


def test_same_settings_give_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    contents = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        manifest = Synthetic(path=str(tmp_path / folder), seed=seed, **SMALL).load()
        contents.append([Path(path).read_bytes() for path in manifest.frame["path"]])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize(
    ("key", "value"),
    [("speakers", 5), ("clips_per_speaker", 3), ("seconds", 0.4), ("sample_rate", 8000)],
)
def test_each_setting_changes_what_is_made(tmp_path: Path, key: str, value: int) -> None:
    usual = Synthetic(path=str(tmp_path / "a"), **SMALL).load().frame
    other = Synthetic(path=str(tmp_path / "b"), **{**SMALL, key: value}).load().frame
    info = [soundfile.info(path) for path in (usual["path"][0], other["path"][0])]
    same_sound = (info[0].frames, info[0].samplerate) == (info[1].frames, info[1].samplerate)
    assert len(usual) != len(other) or not same_sound


@pytest.mark.parametrize("style", ["vowels", "children"])
def test_the_severity_of_each_speaker_lies_in_a_file_of_its_own(tmp_path: Path, style: str) -> None:
    source = Synthetic(style=style, path=str(tmp_path), **SMALL)
    frame = source.load().frame
    scores = read_scores(str(tmp_path / "severity.csv"), "speaker", "severity")
    assert scores == dict(frame.select("speaker", "severity").iter_rows())
    (tmp_path / "severity.csv").unlink()
    assert source.load().frame.equals(frame)
    assert (tmp_path / "severity.csv").is_file()


def test_children_say_words_and_keep_their_columns(tmp_path: Path) -> None:
    frame = Synthetic(style="children", path=str(tmp_path), **SMALL).load().frame
    columns = {"label", "speaker", "group", "age", "word", "said", "distortion", "sex", "site"}
    assert set(frame.columns) >= columns
    assert set(frame["label"]) == {"td", "ssd"}
    assert frame["age"].dtype.is_integer()
    assert frame["word"].to_list() == pl.read_csv(tmp_path / "clips.csv")["word"].to_list()


def test_second_load_reuses_the_files_and_a_lost_one_is_made_again(tmp_path: Path) -> None:
    source = Synthetic(path=str(tmp_path), **SMALL)
    first = source.load().frame
    before = {path: os.stat(path).st_mtime_ns for path in first["path"]}
    assert source.load().frame.equals(first)
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
    lost = Path(first["path"][3])
    content = lost.read_bytes()
    lost.unlink()
    assert source.load().frame.equals(first)
    assert lost.read_bytes() == content


def test_a_table_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    table = tmp_path / "clips.csv"
    table.write_text("path,label\nmine.wav,yes\n")
    with pytest.raises(DataError, match="something else"):
        Synthetic(path=str(tmp_path), **SMALL).load()
    assert table.read_text() == "path,label\nmine.wav,yes\n"


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    Synthetic(path=str(tmp_path), **SMALL).load()
    with pytest.raises(DataError, match="not overwritten"):
        Synthetic(path=str(tmp_path), seed=9, **SMALL).load()


def test_default_folder_lies_in_the_cache_and_depends_on_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path))
    first, second = Synthetic(**SMALL), Synthetic(seed=1, **SMALL)
    assert first.folder().parent == tmp_path
    assert first.folder() != second.folder()
    assert Path(first.load().frame["path"][0]).parent == first.folder()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"style": "vowel"}, "did you mean 'vowels'"),
        ({"speakers": 1}, "greater than or equal to 4"),
        ({"speaker": 8}, "did you mean 'speakers'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Synthetic.model_validate(settings)


def test_a_plugin_adds_a_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clicks(
        speakers: int, clips: int, seconds: float, rate: int, seed: int
    ) -> Iterator[tuple[Row, npt.NDArray[np.float64]]]:
        for i in range(speakers):
            row: Row = {"id": f"c{i}", "label": "ab"[i % 2], "speaker": f"s{i}"}
            yield row, np.eye(1, round(seconds * rate))[0] * 0.5

    monkeypatch.setitem(synthetic.STYLES, "clicks", clicks)
    manifest = Synthetic(style="clicks", path=str(tmp_path), **SMALL).load()
    assert manifest.frame["label"].to_list() == ["a", "b", "a", "b"]


def test_wav_keeps_the_samples_within_half_a_step() -> None:
    wave = np.linspace(-0.9, 0.9, 1000)
    path = Path(os.devnull)
    assert path.exists()
    import io

    read, rate = soundfile.read(io.BytesIO(wav_bytes(wave, 8000)))
    assert rate == 8000
    assert np.abs(read - wave).max() <= 1 / 32768


def statistics(path: str) -> npt.NDArray[np.float64]:
    """Means and deviations of a log spectrogram and of its changes, in 40 bands."""
    wave, _ = soundfile.read(path)
    frames = np.lib.stride_tricks.sliding_window_view(wave / wave.std(), 512)[::160]
    power = np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2
    edges = np.unique(np.geomspace(2, 250, 41).astype(int))
    bands = np.log(np.add.reduceat(power, edges, axis=1) + 1e-3)
    return np.concatenate([bands.mean(0), bands.std(0), np.diff(bands, axis=0).std(0)])


def test_default_task_is_fast_to_make_and_learnable_but_not_trivial(tmp_path: Path) -> None:
    began = time.process_time()
    frame = Synthetic(path=str(tmp_path)).load().frame
    assert time.process_time() - began < 10
    assert len(frame) == 360
    features = np.stack([statistics(path) for path in frame["path"]])
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=1000))
    label, group = frame["label"].to_numpy(), frame["group"].to_numpy()
    decided = cross_val_predict(model, features, label, groups=group, cv=folds)
    assert 0.8 < balanced_accuracy_score(label, decided) < 0.97
