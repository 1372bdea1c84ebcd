from __future__ import annotations

from typing import Any

import pytest

from harken.errors import ConfigError
from harken.search.constraints import read_constraint

KNOWN: dict[str, Any] = {
    "heads.bottleneck": 300,
    "heads.shared": 700,
    "heads.by": None,
    "backbone.kind": "lstm",
    "train.tensorboard": False,
    "augment.0.p": 0.5,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("heads.bottleneck <= heads.shared", True),
        ("heads.bottleneck > heads.shared", False),
        ("heads.bottleneck<=300", True),
        ("300.5 > heads.bottleneck >= 3e2", True),
        ("0 < heads.bottleneck < 300 < heads.shared", False),
        ("heads.bottleneck == 300 and heads.shared == 1", False),
        ("heads.bottleneck == 300 or heads.shared == 1 and heads.shared == 2", True),
        ("(heads.bottleneck == 300 or heads.shared == 1) and heads.shared == 2", False),
        ("not heads.bottleneck == 300", False),
        ("not (heads.bottleneck > 5 and heads.shared < 5)", True),
        ("backbone.kind == 'lstm'", True),
        ('backbone.kind != "lstm"', False),
        ("train.tensorboard == false", True),
        ("heads.by == null", True),
        ("heads.by != null", False),
        ("augment.0.p <= .5", True),
        ("heads.bottleneck >= -1", True),
    ],
)
def test_conditions_hold_or_not(text: str, holds: bool) -> None:
    assert read_constraint(text).holds(KNOWN.__getitem__) is holds


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_what_is_null_limits_nothing(sign: str) -> None:
    assert read_constraint(f"heads.bottleneck {sign} heads.by").holds(KNOWN.__getitem__)
    assert read_constraint(f"heads.by {sign} 3").holds(KNOWN.__getitem__)


def test_what_need_not_be_asked_is_not() -> None:
    rule = read_constraint("backbone.kind == 'lstm' or backbone.depth < 3")
    assert rule.holds(KNOWN.__getitem__)
    assert rule.paths == ("backbone.kind", "backbone.depth")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", "its end"),
        ("heads.shared", "its end"),
        ("heads.shared <", "its end"),
        ("heads.shared < 3 and", "its end"),
        ("(heads.shared < 3", "its end"),
        ("heads.shared < 3)", "'\\)'"),
        ("heads.shared = 3", "'= 3'"),
        ("heads.shared < and", "'and'"),
        ("a.b + 1 < 3", "'\\+ 1 < 3'"),
        ("__import__('os').system('ls') == 0", '".system'),
        ("open('a') == 0", "'\\('"),
        ("a.b < 3x", "'3x'"),
        ("a.b == 'open", '"\'open"'),
    ],
)
def test_what_is_no_condition_is_refused(text: str, at: str) -> None:
    with pytest.raises(ConfigError, match=f"at {at}.*write it like"):
        read_constraint(text)


def test_texts_have_no_order() -> None:
    with pytest.raises(ConfigError, match="'lstm' < 3 cannot be told"):
        read_constraint("backbone.kind < 3").holds(KNOWN.__getitem__)
