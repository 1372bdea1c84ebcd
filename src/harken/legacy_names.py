"""Folder names of 001's searches, read by their words and not by their places.

A trial of 001 says its settings in its name only:

    amr_5_adamw0.0001_epoch10_wav2vec2-base-960h_clf1_lr0.001_bs8_layer6_sd300_ws_dropout0.3_clf150

Data sets and checkpoints may have underscores of their own, words may be missing or stand elsewhere
behind the first `clf`, and what is not understood is kept as it is, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Value = str | int | float | bool | None

_NUMBER = r"\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?"
_CORE = re.compile(
    rf"""
    (?:(?P<dataset>.+?)_)?                 # may hold underscores
    (?:(?P<num_labels>\d+)_)?
    (?P<optim>adamw|adam|sgd|rmsprop)
    (?P<weight_decay>{_NUMBER})?
    _epoch(?P<epochs>\d+)
    _(?P<checkpoint>.+?)                   # likewise
    _clf(?P<num_heads>\d+)
    (?P<rest>_.*|weighted)?
    """,
    re.VERBOSE,
)
_WORDS = {
    "learning_rate": re.compile(rf"lr({_NUMBER})"),
    "batch_size": re.compile(r"bs(\d+)"),
    "layer": re.compile(r"(?:layer)?(-?\d+|Final|NA|None)"),
    "sd_bottleneck": re.compile(r"sd(\d+)"),
    "max_lr": re.compile(rf"maxlr({_NUMBER})"),
    "final_dropout": re.compile(rf"dropout({_NUMBER})"),
    "clf_bottleneck": re.compile(r"clf(\d+)"),
}
_FLAGS: dict[str, dict[str, Value]] = {
    "ws": {"weighted": True},
    "weighted": {"weighted": True},
    "sd": {"shared_dense": True},
    "sdweighted": {"shared_dense": True, "weighted": True},
    "layernorm": {"layernorm": True},
}
_WHOLE = {"num_labels", "epochs", "num_heads", "batch_size", "sd_bottleneck", "clf_bottleneck"}
_REAL = {"weight_decay", "learning_rate", "max_lr", "final_dropout"}
_LAST = ("Final", "NA", "None", "-1")


@dataclass(frozen=True)
class LegacyName:
    """What a folder's name says.

    Attributes:
        settings: By the names of 001's own arguments, and `dataset`, `num_labels`, `num_heads`.
        unread: Words of the name that mean nothing known.
    """

    settings: dict[str, Value]
    unread: tuple[str, ...] = field(default=())


def parse_name(name: str) -> LegacyName | None:
    """Return the settings in a name of 001, or None where it is no such name.

    The words `shared_dense`, `weighted` and `layernorm` are False where the name lacks them, since
    001 wrote them whenever they were on. A scheduler is the word before `maxlr`.
    """
    core = _CORE.fullmatch(name)
    if core is None:
        return None
    settings: dict[str, Value] = {"shared_dense": False, "weighted": False, "layernorm": False}
    for key, text in core.groupdict().items():
        if text is not None and key != "rest":
            settings[key] = _value(key, text)
    unread: list[str] = []
    words = [word for word in (core["rest"] or "").split("_") if word]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        found = _read_word(word, after, settings)
        settings |= found
        unread += [] if found else [word]
    return LegacyName(settings, tuple(unread))


def _read_word(word: str, after: str, known: Mapping[str, Value]) -> dict[str, Value]:
    if word in _FLAGS:
        return _FLAGS[word]
    for key, pattern in _WORDS.items():
        found = pattern.fullmatch(word)
        # The names of final models end in a bare layer; elsewhere a bare number is none.
        is_bare = found is not None and found[0] == found[1] and bool(after)
        if found is not None and key not in known and not is_bare:
            shared: dict[str, Value] = {"shared_dense": True} if key == "sd_bottleneck" else {}
            return {key: _value(key, found[1])} | shared
    if _WORDS["max_lr"].fullmatch(after) and word.isalpha():
        return {"scheduler": word}
    return {}


def _value(key: str, text: str) -> Value:
    if key == "layer":
        return -1 if text in _LAST else int(text)
    if key in _WHOLE:
        return int(text)
    return float(text) if key in _REAL else text


_PATHS = {
    "optim": "optimizer.kind",
    "weight_decay": "optimizer.weight_decay",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "checkpoint": "backbone.checkpoint",
    "final_dropout": "heads.dropout",
    "clf_bottleneck": "heads.bottleneck",
    "layernorm": "heads.layer_norm",
}


def recipe_settings(settings: Mapping[str, Value]) -> dict[str, Value]:
    """Return a name's settings under the paths that a recipe has for them, as an import does.

    What a recipe has no path for comes as `legacy.NAME`: under OneCycle the peak `max_lr` is the
    recipe's `optimizer.lr`, so the `learning_rate`, which 001 then never used, is
    `legacy.learning_rate`.
    """
    left = dict(settings)
    found: dict[str, Value] = {"backbone.kind": "speech"}
    found |= {_PATHS[key]: left.pop(key) for key in settings if key in _PATHS}
    cycles = left.pop("scheduler", None)
    found["schedule.kind"] = cycles or "none"
    rate = "max_lr" if cycles else "learning_rate"
    if rate in left:
        found["optimizer.lr"] = left.pop(rate)
    weighted, layer = left.pop("weighted", False), left.pop("layer", None)
    found["backbone.weighted"] = "raw" if weighted else "none"
    if layer is not None or weighted:
        found["backbone.layer"] = -1 if weighted else layer
    shared, width = left.pop("shared_dense", False), left.pop("sd_bottleneck", None)
    found["heads.shared"] = width if shared else None
    if shared and width is None:
        left["shared_dense"] = True
    return found | {f"legacy.{key}": value for key, value in left.items()}
