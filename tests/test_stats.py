from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.errors import ConfigError, DataError
from harken.tokens.stats import draw, statistics, token_stats, zipf


def write(path: Path, tokens: list[list[int]], note: dict[str, object] | None = None) -> str:
    ids = [f"c{i}" for i in range(len(tokens))]
    frame = pl.DataFrame(
        {"id": ids, "tokens": tokens}, schema={"id": pl.String, "tokens": pl.List(pl.Int32)}
    )
    frame.write_parquet(path, metadata={"harken": json.dumps(note or {})})
    return str(path)


def test_counts_are_those_of_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 40, rng.integers(1, 90)).tolist() for _ in range(30)]
    note = {"k": 50, "silhouette": 0.25}
    found = token_stats(write(tmp_path / "t.parquet", [*tokens, []], note))
    everything = np.concatenate(tokens)
    assert found.counts == np.bincount(everything, minlength=50).tolist()
    assert (found.num_clips, found.k, found.num_dead) == (31, 50, 10)
    assert found.dead == list(range(40, 50))
    assert found.silhouette == 0.25
    share = np.bincount(everything) / len(everything)
    assert found.entropy_bits == pytest.approx(-(share * np.log2(share)).sum())
    assert found.perplexity == pytest.approx(2**found.entropy_bits)


def test_coverage() -> None:
    found = statistics(np.array([10, 50, 30, 5, 5, 0]), 1)
    assert found.num_covering == 2
    assert found.tail_share == pytest.approx(4 / 6)
    assert statistics(np.array([10, 50, 29, 6, 5, 0]), 1).num_covering == 3


@given(st.floats(-2.0, -0.3), st.integers(30, 400))
@settings(max_examples=25, deadline=None)
def test_zipf_s_slope_is_found(slope: float, ranks: int) -> None:
    counts = np.round(1e9 * np.arange(1, ranks + 1) ** slope).astype(np.int64)
    found, r2 = zipf(counts)
    assert found == pytest.approx(slope, abs=0.01)
    assert r2 == pytest.approx(1.0, abs=1e-4)


def test_zipf_looks_at_the_middle_only_as_polyfit_does() -> None:
    ranked = np.sort(np.random.default_rng(0).integers(1, 1000, 50))[::-1]
    x, y = np.log(np.arange(1, 51))[5:45], np.log(ranked)[5:45]
    slope, r2 = zipf(ranked)
    assert slope == pytest.approx(np.polyfit(x, y, 1)[0])
    assert r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    assert zipf(np.array([5, 4])) == (None, None)
    assert zipf(np.array([4, 4, 4, 4])) == (0.0, None)


def test_a_picture_without_a_window(tmp_path: Path) -> None:
    stats = statistics(np.array([100, 50, 30, 20, 15, 10, 0]), 3)
    draw(stats, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("t.jpgx", "t"):
        with pytest.raises(ConfigError, match="PNG"):
            draw(stats, tmp_path / name)
    code = "import sys; import harken.tokens.stats; print('matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_tables_that_cannot_be_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokens"):
        token_stats(write(tmp_path / "t.parquet", [[], []]))
    with pytest.raises(DataError, match="token 7 is not in a vocabulary of 5"):
        token_stats(write(tmp_path / "t.parquet", [[1, 7]], {"k": 5}))
    with pytest.raises(DataError, match="token -1"):
        token_stats(write(tmp_path / "t.parquet", [[1, -1]], {"k": 5}))
