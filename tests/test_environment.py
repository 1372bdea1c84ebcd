from __future__ import annotations

import json

import torch

from harken.environment import environment


def test_the_environment_names_versions() -> None:
    found = environment()
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert json.dumps(found)
