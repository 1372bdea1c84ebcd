from __future__ import annotations

import difflib
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from harken.choice import Choice, Config, nearest
from harken.errors import ConfigError


class Shape(Choice):
    """A slot of the tests."""


class Circle(Shape):
    kind: Literal["circle"] = "circle"
    radius: float = Field(1.0, gt=0)
    """Radius in metres."""


class Square(Shape):
    kind: Literal["square"] = "square"
    side: float = 2.0


class Pen(Config):
    width: int = 1


class Drawing(Config):
    shape: Shape = Circle()
    shapes: tuple[Shape, ...] = ()
    pen: Pen = Pen()


def mistakes(tree: object) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(tree)
    lines = caught.value.errors(include_url=False)
    return {".".join(map(str, line["loc"])): line["msg"] for line in lines}


def test_a_bare_word_is_short_for_a_kind() -> None:
    assert Drawing.model_validate({"shape": "square"}).shape == Square()


def test_a_dumped_config_is_read_back_as_an_equal_one() -> None:
    drawing = Drawing(shape=Square(side=3), shapes=(Circle(radius=2), Square()))
    assert Drawing.model_validate(drawing.model_dump()) == drawing


def test_all_mistakes_are_reported_at_once_with_paths_and_nearest_names() -> None:
    found = mistakes(
        {
            "shape": {"kind": "circle", "radus": 2},
            "shapes": [{"kind": "circel"}, {"radius": 1}, {"kind": "circle", "radius": -1}],
            "pen": {"widht": 1, "width": "thin"},
        }
    )
    assert found["shape.radus"] == "unknown key, did you mean 'radius'?"
    assert found["shapes.0"].endswith("one of circle, square, did you mean 'circle'?")
    assert found["shapes.1"] == "must say its kind: one of circle, square"
    assert "greater than 0" in found["shapes.2.radius"]
    assert "width" in found["pen.widht"]
    assert "integer" in found["pen.width"]


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Pen().width = 2  # type: ignore[misc]


def test_numbers_written_as_text_are_read() -> None:
    # YAML 1.1 reads 1e-4 as text.
    assert Circle.model_validate({"kind": "circle", "radius": "1e-4"}).radius == 1e-4


def test_two_components_of_one_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="two components call themselves 'circle'"):

        class Other(Shape):
            kind: Literal["circle"] = "circle"

    assert Shape.member("circle") is Circle


def test_the_schema_offers_every_kind() -> None:
    options = Drawing.model_json_schema()["properties"]["shape"]["anyOf"]
    assert options[0] == {"enum": ["circle", "square"]}
    assert options[1]["properties"]["radius"]["description"] == "Radius in metres."


def test_nearest_is_silent_when_nothing_is_near() -> None:
    assert nearest("zzz", ["alpha", "beta"]) == ""


def test_nearest_of_many_names_is_found_without_comparing_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"{place}-clip-{number:05}" for place in "ab" for number in range(5000)]
    compared: list[list[str]] = []
    compare = difflib.get_close_matches

    def counted(word: str, known: list[str], **options: Any) -> list[str]:
        compared.append(known)
        return compare(word, known, **options)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    assert nearest("b-clip-04217x", names) == ", did you mean 'b-clip-04217'?"
    assert len(compared[0]) == 1000
