"""The job service of the tutorials, `docs/tutorials/stand_ins.py`, as a fixture."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"


def load_stand_ins() -> Any:
    if "stand_ins" not in sys.modules:
        spec = importlib.util.spec_from_file_location("stand_ins", TUTORIALS / "stand_ins.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["stand_ins"] = module
        spec.loader.exec_module(module)
    return sys.modules["stand_ins"]


StandIn = load_stand_ins().JobService


@pytest.fixture
def stand_in() -> Iterator[Any]:
    """A job service at an address of this machine."""
    with StandIn() as service:
        yield service
