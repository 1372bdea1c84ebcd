"""What a table of tokens looks like: which tokens are used, and how unevenly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.errors import ConfigError, DataError, import_extra
from harken.tokens.token_table import read_settings, scan_tokens

COVERED = 0.8


@dataclass(frozen=True)
class TokenStats:
    """Statistics of token counts.

    Attributes:
        num_clips: Clips of the table.
        num_occurrences: Tokens of all clips.
        k: Size of the vocabulary.
        num_dead: Tokens that never occur.
        dead: The first 100 of them.
        num_covering: The most frequent tokens that together make 80 % of occurrences.
        tail_share: Share of the vocabulary beyond them.
        zipf_slope: Slope of log count over log rank, on the middle 80 % of ranks of tokens that
            occur; natural language has about -1 (Zipf, 1949). None with fewer than 3 such ranks.
        zipf_r2: Share of the log counts' variance that the line explains.
        entropy_bits: Of the distribution of tokens; log2(k) if all were as frequent.
        perplexity: Tokens, all as frequent, of the same entropy.
        silhouette: Of frames while the vocabulary was fitted, from -1 to 1; None if not known.
        counts: Occurrences of each token.
    """

    num_clips: int
    num_occurrences: int
    k: int
    num_dead: int
    dead: list[int]
    num_covering: int
    tail_share: float
    zipf_slope: float | None
    zipf_r2: float | None
    entropy_bits: float
    perplexity: float
    silhouette: float | None
    counts: list[int]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def token_stats(url: str) -> TokenStats:
    """Count the tokens of a table, however large, in constant memory.

    Raises:
        DataError: there is no such table, it has no tokens, or one that its vocabulary has not.
    """
    table, settings = scan_tokens(url), read_settings(url)
    num_clips = int(table.select(pl.len()).collect().item())
    found = (
        table.select(pl.col("tokens").explode())
        .drop_nulls()
        .group_by("tokens")
        .len()
        .collect(engine="streaming")
    )
    if not len(found):
        raise DataError("there are no tokens in this table", where=url)
    tokens, times = found["tokens"].to_numpy(), found["len"].to_numpy()
    k = int(settings.get("k", int(tokens.max()) + 1))
    if tokens.min() < 0 or tokens.max() >= k:
        wrong = int(tokens.max() if tokens.max() >= k else tokens.min())
        raise DataError(f"the token {wrong} is not in a vocabulary of {k}", where=url)
    counts = np.zeros(k, dtype=np.int64)
    counts[tokens] = times
    return statistics(counts, num_clips, settings.get("silhouette"))


def statistics(
    counts: npt.NDArray[np.int64], num_clips: int, silhouette: float | None = None
) -> TokenStats:
    """Return the statistics of counts `(k,)`."""
    total = int(counts.sum())
    ranked = np.sort(counts)[::-1]
    covering = int(np.searchsorted(np.cumsum(ranked), COVERED * total)) + 1
    share = ranked[ranked > 0] / total
    entropy = float(-(share * np.log2(share)).sum())
    dead = np.flatnonzero(counts == 0)
    slope, r2 = zipf(ranked[ranked > 0])
    return TokenStats(
        num_clips=num_clips,
        num_occurrences=total,
        k=len(counts),
        num_dead=len(dead),
        dead=dead[:100].tolist(),
        num_covering=covering,
        tail_share=1 - covering / len(counts),
        zipf_slope=slope,
        zipf_r2=r2,
        entropy_bits=entropy,
        perplexity=2.0**entropy,
        silhouette=silhouette,
        counts=counts.tolist(),
    )


def zipf(ranked: npt.NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Fit a line to log counts over log ranks, without the first and the last tenth of ranks.

    Args:
        ranked: Counts from the largest to the smallest, all positive.

    Returns:
        Its slope and R²; None where there are fewer than 3 ranks. Equal counts have slope 0 and no
        R², since there is no variance to explain.
    """
    ends = round(0.1 * len(ranked))
    middle = slice(ends, len(ranked) - ends)
    x, y = np.log(np.arange(1, len(ranked) + 1))[middle], np.log(ranked)[middle]
    if len(x) < 3:
        return None, None
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    left = float((y - slope * x) @ (y - slope * x))
    whole = float(y @ y)
    return slope, None if whole < 1e-12 else 1 - left / whole


def draw(stats: TokenStats, path: str | Path) -> None:
    """Draw counts by rank, with Zipf's line, and coverage, as PNG; no window is opened.

    Raises:
        ConfigError: the name is that of another kind of file.
        MissingExtraError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() != ".png":
        raise ConfigError("the picture is a PNG file", where="--png", fix="NAME.png")
    figures = import_extra("matplotlib.figure", "report")
    figure = figures.Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = np.sort(np.array(stats.counts))[::-1]
    used = ranked[ranked > 0]
    ranks = np.arange(1, len(used) + 1)
    left.loglog(ranks, used, ".", markersize=4, color="#2b6ca3")
    if stats.zipf_slope is not None:
        ends = round(0.1 * len(used))
        x, y = (np.log(v)[ends : len(used) - ends] for v in (ranks, used))
        line = np.exp(y.mean() + stats.zipf_slope * (x - x.mean()))
        r2 = "" if stats.zipf_r2 is None else f", R² {stats.zipf_r2:.2f}"
        left.loglog(np.exp(x), line, color="#c1440e", label=f"slope {stats.zipf_slope:.2f}{r2}")
        left.legend(frameon=False)
    left.set(xlabel="rank", ylabel="occurrences", title=f"{len(used)} of {stats.k} tokens occur")
    right.plot(ranks, np.cumsum(used) / max(used.sum(), 1), color="#2b6ca3")
    right.axhline(COVERED, color="0.6", linewidth=0.8)
    right.axvline(stats.num_covering, color="0.6", linewidth=0.8)
    title = f"{stats.num_covering} tokens make {COVERED:.0%} of occurrences"
    right.set(xlabel="most frequent tokens", ylabel="share of occurrences", title=title)
    figure.savefig(path, dpi=120)
