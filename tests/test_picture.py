from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from harken.errors import MissingExtraError
from harken.explain import Relevance
from harken.explain.moment import Moment
from harken.explain.picture import colours, draw
from test_checks import checks
from test_explanation import explanation


def pixels(content: bytes) -> Any:
    from matplotlib.image import imread

    return imread(io.BytesIO(content), format="png")[..., :3]


def orange(picture: Any) -> Any:
    return (picture[..., 0] - picture[..., 2]) > 0.25


def test_the_picture_is_a_png_of_sensible_size() -> None:
    content = draw(explanation())
    assert content.startswith(b"\x89PNG")
    assert pixels(content).shape == (720, 1300, 3)
    assert 20_000 < len(content) < 400_000


def test_orange_is_where_the_relevance_is() -> None:
    values = np.zeros((32, 101))
    values[:8, 60:80] = 1.0
    found = orange(pixels(draw(explanation(relevance=Relevance(values), moment=None))))
    columns = np.flatnonzero(found[120:640].sum(axis=0) > 20)
    rows = np.flatnonzero(found[300:640, columns.min() : columns.max()].mean(axis=1) > 0.5)
    middle = (columns.min() + columns.max()) / 2
    assert 0.62 < (middle - 65) / (1300 - 65) < 0.75
    assert 300 + rows.min() > 500


def test_the_most_relevant_moment_is_marked() -> None:
    flat = Relevance(np.zeros((1, 101)))
    without = orange(pixels(draw(explanation(relevance=flat, moment=None)))).sum()
    marked = orange(pixels(draw(explanation(relevance=flat, moment=Moment(0.2, 0.7))))).sum()
    assert without < 50
    assert marked > 1000


def test_colours_tell_signs_and_sizes() -> None:
    found = colours(np.array([[1.0, -0.5, 0.0]]))[0]
    assert found[0][0] > found[0][2]
    assert found[1][0] < found[1][2]
    assert found[:, 3] == pytest.approx([0.72, 0.36, 0])
    assert colours(np.array([[2.0, 3.0]]))[0][:, 3] == pytest.approx([0, 0.72])
    assert np.isfinite(colours(np.zeros((2, 2)))).all()


@pytest.mark.parametrize(
    "over",
    [
        {"features": None, "frequencies": None, "relevance": Relevance(np.ones((1, 101)))},
        {"frequencies": None},
        {"label": "$x_{" + "y" * 200, "checks": checks(flat=True)},
        {"waveform": np.zeros(8000, np.float32)},
        {"offset": 2.0, "full_seconds": 9.0, "moment": Moment(2.2, 2.7)},
    ],
)
def test_whatever_comes_is_drawn(over: dict[str, Any]) -> None:
    assert pixels(draw(explanation(**over))).std() > 0.02


def test_short_clips_are_drawn() -> None:
    assert len(draw(explanation(0.05, bands=1, moment=Moment(0.0, 0.05)))) > 5000


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    made = explanation()
    monkeypatch.setattr("harken.errors.importlib.import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"harken\[report\]"):
        draw(made)
