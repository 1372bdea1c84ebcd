from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from conftest import make_tone
from harken.errors import ConfigError, DataError, RunError
from harken.frontends.tokens import TokensModule
from harken.manifest import Manifest
from harken.recipe import Recipe
from harken.tokens.token_table import Shard, read_settings
from harken.tokens.vocabulary import read_vocabulary
from harken.verbs import encode as verb
from harken.verbs.token_clips import given_clips
from harken.verbs.tokens import fit, vocabulary_module
from test_tokens import tokens_recipe


@pytest.fixture
def given(tiny_table: Path, tmp_path: Path) -> tuple[Path, Recipe, Manifest]:
    recipe = tokens_recipe(tiny_table, num_kernels=2)
    vocabulary = tmp_path / "v"
    fit(recipe, recipe.data.source.load(), vocabulary)
    settings = verb.encode_settings(vocabulary)
    recipe, clips = given_clips([str(tiny_table)], [], settings)
    assert clips is not None
    return vocabulary, recipe, clips


def test_tokens_are_those_of_the_front_end(
    given: tuple[Path, Recipe, Manifest], tmp_path: Path
) -> None:
    vocabulary, recipe, clips = given
    out = tmp_path / "t.parquet"
    done = verb.encode(vocabulary, recipe, clips, out)
    assert (done.num_clips, done.num_missing, done.quarantined) == (36, 0, [])
    table = pl.read_parquet(out)
    assert table["id"].to_list() == clips.frame["id"].to_list()
    assert table.schema["tokens"] == pl.List(pl.Int32)
    module, audio = vocabulary_module(read_vocabulary(vocabulary), vocabulary)
    from harken.audio import load

    for row in (0, 17, 35):
        wave = torch.from_numpy(load(clips.clips()[row], audio))[None]
        tokens, _ = module(wave, torch.tensor([wave.shape[1]]))
        assert table["tokens"][row].to_list() == tokens[0].tolist()
    about = read_settings(str(out))
    assert about["digest"] == read_vocabulary(vocabulary).digest
    assert (about["k"], about["frames_per_second"]) == (12, 100.0)


def test_shards_and_what_was_broken_off(
    given: tuple[Path, Recipe, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary, recipe, clips = given
    verb.encode(vocabulary, recipe, clips, tmp_path / "one.parquet", rows=5)
    out, told = tmp_path / "two.parquet", list[int]()
    one = verb.encode(vocabulary, recipe, clips, out, rows=5, shard=Shard(1, 2))
    assert one.num_missing == 4

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verb.encode(vocabulary, recipe, clips, out, rows=5, shard=Shard(2, 2), told=stop)
    assert not out.exists()
    two = verb.encode(
        vocabulary, recipe, clips, out, rows=5, shard=Shard(2, 2), told=lambda d, _: told.append(d)
    )
    assert two.num_missing == 0
    assert told == [20, 30, 36]  # the part of clips 5 to 9 was there
    assert out.read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert verb.encode(vocabulary, recipe, clips, out, rows=5).was_there


def test_another_table_is_not_overwritten_unasked(
    given: tuple[Path, Recipe, Manifest], tmp_path: Path
) -> None:
    vocabulary, recipe, clips = given
    out = tmp_path / "t.parquet"
    verb.encode(vocabulary, recipe, clips, out)
    few = clips.take(torch.arange(3).numpy())
    with pytest.raises(RunError, match="exists already"):
        verb.encode(vocabulary, recipe, few, out)
    verb.encode(vocabulary, recipe, few, out, overwrite=True)
    assert len(pl.read_parquet(out)) == 3


def test_overwriting_hears_recordings_that_changed(
    given: tuple[Path, Recipe, Manifest], tmp_path: Path, write_clip: Any
) -> None:
    vocabulary, recipe, clips = given
    out = tmp_path / "t.parquet"
    verb.encode(vocabulary, recipe, clips, out)
    before = pl.read_parquet(out)["tokens"]
    write_clip(Path(clips.frame["path"][4]), make_tone(1.0))
    assert verb.encode(vocabulary, recipe, clips, out).was_there
    assert not verb.encode(vocabulary, recipe, clips, out, overwrite=True).was_there
    after = pl.read_parquet(out)["tokens"]
    assert [row for row in range(36) if after[row].to_list() != before[row].to_list()] == [4]


def test_bad_recordings(
    given: tuple[Path, Recipe, Manifest], tmp_path: Path, write_clip: Any
) -> None:
    vocabulary, recipe, clips = given
    write_clip(Path(clips.frame["path"][4]), 0 * make_tone())
    with pytest.raises(DataError):
        verb.encode(vocabulary, recipe, clips, tmp_path / "t.parquet")
    data = recipe.data.model_copy(update={"on_bad_audio": "skip"})
    recipe = recipe.model_copy(update={"data": data})
    done = verb.encode(vocabulary, recipe, clips, tmp_path / "t.parquet")
    assert [clip["id"] for clip in done.quarantined] == [clips.frame["id"][4]]
    assert len(pl.read_parquet(tmp_path / "t.parquet")) == 35
    told = json.loads((tmp_path / "t.quarantine.json").read_text())
    assert told == done.quarantined
    again = verb.encode(vocabulary, recipe, clips, tmp_path / "t.parquet")
    assert again.was_there
    assert again.quarantined == told


def test_the_list_of_bad_recordings_outlives_a_shard_that_comes_last_too(
    given: tuple[Path, Recipe, Manifest], tmp_path: Path, write_clip: Any
) -> None:
    vocabulary, recipe, clips = given
    write_clip(Path(clips.frame["path"][4]), 0 * make_tone())
    data = recipe.data.model_copy(update={"on_bad_audio": "skip"})
    recipe, out = recipe.model_copy(update={"data": data}), tmp_path / "t.parquet"

    def other(done: int, total: int) -> None:
        if done == total:  # its last part is saved, and nothing is joined
            verb.encode(vocabulary, recipe, clips, out, rows=5)

    late = verb.encode(vocabulary, recipe, clips, out, rows=5, told=other)
    assert [clip["id"] for clip in late.quarantined] == [clips.frame["id"][4]]
    assert json.loads((tmp_path / "t.quarantine.json").read_text()) == late.quarantined


def test_only_parquet_is_written(given: tuple[Path, Recipe, Manifest], tmp_path: Path) -> None:
    vocabulary, recipe, clips = given
    with pytest.raises(ConfigError, match="Parquet"):
        verb.encode(vocabulary, recipe, clips, tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_a_clip_with_nan_features_is_named(
    given: tuple[Path, Recipe, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary, recipe, clips = given
    frames = TokensModule.frames

    def broken(self: TokensModule, waveform: Any, lengths: Any) -> Any:
        found, counts = frames(self, waveform, lengths)
        found[9, 3, 2] = torch.nan
        return found, counts

    monkeypatch.setattr(TokensModule, "frames", broken)
    clips = clips.take(torch.arange(30).numpy())
    with pytest.raises(DataError, match="not finite") as error:
        verb.encode(vocabulary, recipe, clips, tmp_path / "t.parquet")
    assert clips.frame["path"][9] in str(error.value)
