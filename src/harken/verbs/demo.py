"""`harken demo`: the recipe that ships with the package and needs no data."""

from __future__ import annotations

from pathlib import Path

RECIPE = Path(__file__).with_name("demo.yaml")
