"""harken: from a folder of recordings and a table of labels to a trusted audio classifier.

The names below are all there is to the public API; each is imported when it is first used, so that
`import harken` and `harken --help` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from harken.native import prepare_native

if TYPE_CHECKING:
    from harken.errors import HarkenError
    from harken.manifest import Manifest
    from harken.model import Classifier
    from harken.predictor import Predictor, load
    from harken.recipe import Recipe, read_recipe
    from harken.verbs.embed import embed
    from harken.verbs.evaluate import evaluate
    from harken.verbs.prepare import prepare
    from harken.verbs.train import train

__version__ = "0.1.0"

_PLACES = {
    "Classifier": "harken.model",
    "HarkenError": "harken.errors",
    "Manifest": "harken.manifest",
    "Predictor": "harken.predictor",
    "Recipe": "harken.recipe",
    "embed": "harken.verbs.embed",
    "evaluate": "harken.verbs.evaluate",
    "load": "harken.predictor",
    "prepare": "harken.verbs.prepare",
    "read_recipe": "harken.recipe",
    "train": "harken.verbs.train",
}

__all__ = [
    "Classifier",
    "HarkenError",
    "Manifest",
    "Predictor",
    "Recipe",
    "embed",
    "evaluate",
    "load",
    "prepare",
    "read_recipe",
    "train",
]

prepare_native()


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'harken' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
