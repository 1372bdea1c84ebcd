"""The picture: the waveform above the spectrogram, relevance laid over both."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from harken.errors import import_extra
from harken.explain.explanation import Explanation
from harken.report.clips import frequency_ticks, spectrogram

Array = npt.NDArray[np.float64]

FOR, AGAINST, INK, MUTED, ALERT = "#e8590c", "#1971c2", "#1b2430", "#5a6572", "#b3261e"
_TICKS = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)


def draw(explanation: Explanation) -> bytes:
    """Return the picture as PNG, 1300 × 720.

    Orange speaks for the label, blue against it; the frame is the most relevant half second.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure_module = import_extra("matplotlib.figure", "report")
    canvas = import_extra("matplotlib.backends.backend_agg", "report").FigureCanvasAgg
    figure = figure_module.Figure(figsize=(10, 5.54), dpi=130, layout="constrained")
    canvas(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2.2])
    _title(figure, explanation)
    _waveform(upper, explanation)
    _spectrogram(lower, explanation)
    for axes in (upper, lower):
        _finish(axes, explanation)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _title(figure: Any, explanation: Explanation) -> None:
    kind = explanation.method["kind"].replace("_", " ")
    text = f"{explanation.label} {explanation.score:.3g} · {kind}"
    figure.suptitle(_short(text, 90), fontsize=14, color=INK, x=0.01, ha="left", parse_math=False)


def _waveform(axes: Any, explanation: Explanation) -> None:
    wave = explanation.waveform
    columns = np.linspace(0, len(wave), min(1300, len(wave)) + 1).astype(int)[:-1]
    upper, lower = np.maximum.reduceat(wave, columns), np.minimum.reduceat(wave, columns)
    at = explanation.offset + columns / explanation.sample_rate
    peak = 1.05 * float(np.abs(wave).max()) or 1.0
    axes.imshow(
        colours(explanation.relevance.over_time[None]), extent=(*_ends(explanation), -peak, peak),
        aspect="auto", interpolation="nearest", zorder=1,
    )  # fmt: skip
    axes.fill_between(at, lower, upper, color=INK, linewidth=0.4, zorder=2)
    axes.set_ylim(-peak, peak)
    axes.set_yticks([])
    checks = explanation.checks
    text = checks.verdict if checks.meaningful else "meaningless: " + checks.complaints[0]
    colour = MUTED if checks.meaningful else ALERT
    axes.set_title(_short(text, 135), fontsize=9, color=colour, loc="left", parse_math=False)


def _spectrogram(axes: Any, explanation: Explanation) -> None:
    features, relevance = explanation.features, explanation.relevance.values
    if features is None:
        heard = spectrogram(explanation.waveform, explanation.sample_rate)[::-1]
        shown = heard.astype(np.float32)
        ticks = [(1 - at, text) for at, text in frequency_ticks(explanation.sample_rate)]
    else:
        shown, ticks = features, _frequency_ticks(explanation)
    extent = (*_ends(explanation), 0, 1)
    low, high = np.percentile(shown, [2, 99.7])
    axes.imshow(
        shown, extent=extent, origin="lower", aspect="auto", cmap="gray_r", vmin=low, vmax=high,
        interpolation="nearest",
    )  # fmt: skip
    axes.imshow(
        colours(relevance), extent=extent, origin="lower", aspect="auto", interpolation="nearest"
    )
    axes.set_ylim(0, 1)
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    axes.set_xlabel("seconds", color=MUTED, fontsize=9)


def _frequency_ticks(explanation: Explanation) -> list[tuple[float, str]]:
    """Return heights from 0 to 1 and their Hz, or bin numbers where Hz are unknown."""
    assert explanation.features is not None
    bins, hertz = len(explanation.features), explanation.frequencies
    if hertz is None or len(hertz) != bins:
        return [((i + 0.5) / bins, f"bin {i}") for i in range(0, bins, max(1, bins // 4))]
    inside = [f for f in _TICKS if hertz[0] <= f <= hertz[-1]]
    places = (np.interp(inside, hertz, np.arange(bins)) + 0.5) / bins
    names = [f"{f / 1000:g} kHz" if f >= 1000 else f"{f} Hz" for f in inside]
    return list(zip(places.tolist(), names, strict=True))


def colours(values: Array) -> npt.NDArray[np.float64]:
    """Return RGBA of relevance: its sign is the colour, its size the opacity.

    Clear is zero, or the least value where all are positive, as in maps of attention.
    """
    to_rgb = import_extra("matplotlib.colors", "report").to_rgb
    values = values - max(0.0, float(values.min()))
    share = values / max(float(np.abs(values).max()), 1e-30)
    picture = np.empty((*values.shape, 4))
    picture[..., :3] = np.where((share >= 0)[..., None], to_rgb(FOR), to_rgb(AGAINST))
    picture[..., 3] = 0.72 * np.abs(share)
    return picture


def _finish(axes: Any, explanation: Explanation) -> None:
    axes.set_xlim(*_ends(explanation))
    axes.tick_params(colors=MUTED, labelsize=9, length=0, pad=4)
    axes.spines[:].set_visible(False)
    if explanation.moment is not None:
        for edge in explanation.moment:
            axes.axvline(edge, color=FOR, linewidth=1.6, linestyle=(0, (4, 3)), zorder=3)


def _ends(explanation: Explanation) -> tuple[float, float]:
    return explanation.offset, explanation.offset + explanation.seconds


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
