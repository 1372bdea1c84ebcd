"""The page of one explanation: picture, sound, verdict; one file without network."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from harken.errors import import_extra
from harken.explain.explanation import Explanation
from harken.report.clips import MAX_RATE, wav

METHODS = {
    "attention": "how much attention of one layer each moment gets (not what speaks for a label)",
    "rollout": "how much attention of all layers together each moment gets (not what speaks for "
    "a label)",
    "gradcam": "which parts of the network's last map raise the label's score",
    "integrated_gradients": "how much each part adds to the score, from nothing to the clip",
    "occlusion": "how much of the score is lost when a part is deleted",
}
"""What a map of each kind shows, in plain words."""


def render(explanation: Explanation, picture: bytes) -> str:
    """Return the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = import_extra("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = files("harken.explain").joinpath("template.html").read_text(encoding="utf-8")
    page: str = environment.from_string(text).render(
        e=explanation,
        kind=explanation.method["kind"],
        shows=METHODS.get(explanation.method["kind"], ""),
        picture=_uri("image/png", picture),
        audio=_sound(explanation.waveform, explanation.sample_rate),
        moment=_moment_sound(explanation),
        curves=_curves(explanation),
        cropped=explanation.full_seconds - explanation.seconds > 0.01,
    )
    return page


def _moment_sound(explanation: Explanation) -> str | None:
    if explanation.moment is None:
        return None
    ends = [round((t - explanation.offset) * explanation.sample_rate) for t in explanation.moment]
    return _sound(explanation.waveform[ends[0] : ends[1]], explanation.sample_rate)


def _sound(wave: npt.NDArray[np.float32], sample_rate: int) -> str:
    if sample_rate > MAX_RATE:
        wave, sample_rate = soxr.resample(wave, sample_rate, MAX_RATE), MAX_RATE
    return _uri("audio/wav", wav(wave, sample_rate))


def _uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _curves(explanation: Explanation) -> list[dict[str, Any]]:
    """Return the deletion curves as points of a box 0..400 × 0..180."""
    deletion = explanation.checks.deletion
    named = (
        ("relevant", "most relevant first", deletion.relevant),
        ("random", "random order (mean)", deletion.random.mean(axis=0)),
        ("least", "least relevant first", deletion.least),
    )
    low = min(float(values.min()) for _, _, values in named)
    high = max(float(values.max()) for _, _, values in named)
    x = 400 * deletion.share
    return [
        {
            "name": name,
            "text": text,
            "points": _points(x, 180 * (high - values) / max(high - low, 1e-9)),
        }
        for name, text, values in named
    ]


def _points(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
