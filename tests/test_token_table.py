from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harken.errors import ConfigError, DataError
from harken.tokens.token_table import Shard, TokenParts, read_settings, scan_tokens

CLIPS = pl.DataFrame({"id": [f"c{i}" for i in range(7)], "path": [f"/c{i}.wav" for i in range(7)]})


def fill(parts: TokenParts, shard: Shard, bad: int | None = None) -> None:
    for number, rows in parts.todo(shard):
        tokens = [None if r == bad else np.full(r + 1, r, dtype=np.int32) for r in rows]
        reasons = ["silent" if r == bad else None for r in rows]
        parts.save(number, CLIPS[rows], tokens, reasons)


def test_shards_together_make_the_table_that_one_makes(tmp_path: Path) -> None:
    one = TokenParts(str(tmp_path / "one.parquet"), 7, "a" * 32, rows=2)
    fill(one, Shard())
    assert one.join({"k": 9}) == []
    two = TokenParts(str(tmp_path / "two.parquet"), 7, "a" * 32, rows=2)
    fill(two, Shard(2, 3))
    assert two.num_missing == 3
    fill(two, Shard(1, 3))
    fill(two, Shard(3, 3))
    assert two.num_missing == 0
    assert not two.is_done
    two.join({"k": 9})
    assert two.is_done
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    table = scan_tokens(str(tmp_path / "two.parquet")).collect()
    assert table["id"].to_list() == CLIPS["id"].to_list()
    assert table["tokens"][3].to_list() == [3, 3, 3, 3]
    assert read_settings(str(tmp_path / "two.parquet"))["k"] == 9
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    parts = TokenParts(str(tmp_path / "t.parquet"), 7, "a" * 32, rows=2)
    number, rows = next(iter(parts.todo(Shard())))
    parts.save(number, CLIPS[rows], [np.zeros(1, np.int32)] * 2, [None] * 2)
    again = TokenParts(str(tmp_path / "t.parquet"), 7, "a" * 32, rows=2)
    assert [n for n, _ in again.todo(Shard())] == [1, 2, 3]
    other = TokenParts(str(tmp_path / "t.parquet"), 7, "b" * 32, rows=2)
    assert len(list(other.todo(Shard()))) == 4


def test_bad_clips_are_told_and_left_out(tmp_path: Path) -> None:
    parts = TokenParts(str(tmp_path / "t.parquet"), 7, "a" * 32, rows=3)
    fill(parts, Shard(), bad=4)
    assert parts.join({}) == [{"id": "c4", "path": "/c4.wav", "reason": "silent"}]
    assert len(scan_tokens(str(tmp_path / "t.parquet")).collect()) == 6


def test_two_shards_that_come_last_at_once(tmp_path: Path) -> None:
    one, two = (TokenParts(str(tmp_path / "t.parquet"), 7, "a" * 32) for _ in range(2))
    fill(one, Shard())
    one.join({})
    assert two.join({}) is None


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_there_is_not(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the shard"):
        Shard.read(text)
    assert Shard.read("2/2") == Shard(2, 2)


def test_what_is_no_table_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(DataError, match="no such table"):
        scan_tokens(str(path))
    path.write_text("hello")
    with pytest.raises(DataError, match="no table of tokens"):
        scan_tokens(str(path))
    CLIPS.write_parquet(path)
    with pytest.raises(DataError, match="columns `id` and `tokens`"):
        scan_tokens(str(path))
