"""Finished trials of 001: a folder whose name says the settings, with two tensors in it.

`…_predictions.pt` and `…_targets.pt` hold `(clips, labels)` each, and `aucs.csv` the labels' names.
Tensors are read weights-only, so that nothing in a file is run.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harken import storage
from harken.bootstrap import scorer_of
from harken.errors import DataError, HarkenError, RunError
from harken.labels import Labels
from harken.legacy_names import parse_name, recipe_settings
from harken.standings import WHOLE, Run
from harken.storage import Location
from harken.verbs.run_scores import Values, below, listed, reason_of, runs_in

Array = npt.NDArray[np.float64]

SPLIT = "test"
"""001 kept the predictions of its test clips only."""
SUFFIXES = (".pt", ".pth")

_PREDICTED, _TRUE = "predictions", "targets"


@dataclass(frozen=True)
class Trial:
    """The files of one trial.

    Attributes:
        name: Its name in tables.
        path: Its folder.
        title: The name that says its settings.
        predictions: The file of predictions, relative to the folder; empty where there is none.
        targets: Likewise.
        others: All file names of the folder.
    """

    name: str
    path: str
    title: str
    predictions: str
    targets: str
    others: frozenset[str]


def find_trials(places: Sequence[Location]) -> list[Trial]:
    """Find 001's trials under some places: by a folder's name, or by its files of predictions."""
    found: dict[str, Trial] = {}
    for place in places:
        files = listed(place)
        runs = {f"{root}/" if root else "" for root in runs_in(files)}
        by_folder: dict[str, set[str]] = {}
        for file in files:
            if not any(file.startswith(root) for root in runs):
                folder, _, name = file.rpartition("/")
                by_folder.setdefault(folder, set()).add(name)
        for folder, names in sorted(by_folder.items()):
            path = below(place, folder)
            shown = path if len(places) > 1 else folder or path.rpartition("/")[2]
            for trial in _trials_in(shown, path, frozenset(names)):
                found.setdefault(f"{trial.path} {trial.predictions}", trial)
    return list(found.values())


def _trials_in(name: str, path: str, files: frozenset[str]) -> list[Trial]:
    """Return a folder's trials: one for each file of predictions, or one that has none."""
    title = path.rpartition("/")[2]
    predicted = sorted(file for file in files if _PREDICTED in file)
    if not predicted:
        targets = next((file for file in sorted(files) if _TRUE in file), "")
        is_trial = bool(targets) or parse_name(title) is not None
        return [Trial(name, path, title, "", targets, files)] if is_trial else []
    trials = []
    for file in predicted:
        twin = file.replace(_PREDICTED, _TRUE)
        twins = [other for other in sorted(files) if _TRUE in other]
        targets = twin if twin in files else twins[0] if len(predicted) == len(twins) == 1 else ""
        stem = file.partition(_PREDICTED)[0].rstrip("_")
        own = title if parse_name(title) is not None else stem
        shown = name if len(predicted) == 1 else f"{name}/{stem or file}"
        trials.append(Trial(shown, path, own, file, targets, files))
    return trials


def read_trial(trial: Trial, metric: str | None) -> Run:
    """Read and measure one trial; what fails becomes its reason."""
    run = Run(trial.name, trial.path, split=SPLIT, is_whole=False)
    name = parse_name(trial.title)
    if name is not None:
        unread = tuple(f"the word {word!r} of its name says nothing known" for word in name.unread)
        run = replace(run, settings=recipe_settings(name.settings), notes=unread)
    else:
        run = replace(run, notes=("its name is none of 001's, so its settings are unknown",))
    try:
        return _measured(replace(run, metric=metric or "roc_auc"), trial)
    except (HarkenError, OSError, ValueError) as error:
        return replace(run, state="broken", reason=reason_of(error))


def _measured(run: Run, trial: Trial) -> Run:
    score, target = (
        _tensor(trial, trial.predictions, _PREDICTED),
        _tensor(trial, trial.targets, _TRUE),
    )
    if len(target) > len(score):
        # 001 left clips without a target out of the predictions, and not out of the targets.
        target = target[~np.isnan(target).any(axis=1)]
    if target.shape != score.shape:
        raise DataError(f"predictions are {score.shape} and targets {target.shape}")
    names = _label_names(trial, score.shape[1])
    labels = Labels("multi", names, names, missing="mask")
    unit = np.arange(len(score))
    point = scorer_of(labels, target, score, None, unit).point()
    values: Values
    if run.metric in point.per_class:
        column = point.per_class[run.metric][:, 0]
        values = {
            n: float(v) if np.isfinite(v) else None for n, v in zip(names, column, strict=True)
        }
    elif run.metric in point.overall:
        values = {WHOLE: float(point.overall[run.metric][0])}
    else:
        raise DataError(f"001's tasks have no {run.metric}", fix="--metric roc_auc")
    digest = hashlib.blake2b(np.nan_to_num(target, nan=-1.0).tobytes(), digest_size=8).hexdigest()
    return replace(run, task="multi", values=values, num_clips=len(score), clips=f"001 {digest}")


def _tensor(trial: Trial, name: str, what: str) -> Array:
    """Return a file's tensor as float64 `(clips, labels)`.

    Raises:
        RunError: there is none, it is of another format, or it holds more than a tensor.
    """
    if not name:
        raise RunError(f"no file of {what}")
    if not name.endswith(SUFFIXES):
        raise RunError(
            f"{name} is no .pt file: 001's {what} are tensors, and nothing else is read",
            fix=f"torch.save(torch.as_tensor({what}), …) makes one",
        )
    import torch

    try:
        content = io.BytesIO(storage.read_bytes(storage.join(trial.path, name)))
        found: Any = torch.load(content, map_location="cpu", weights_only=True)
    except HarkenError:
        raise
    except Exception:  # the unpickler's error class may not be named without pickle
        # torch's own text is the advice to load the file unsafely.
        raise RunError(f"{name} holds more than a tensor, or is damaged") from None
    if isinstance(found, list | tuple):
        found = torch.as_tensor(found)
    if not isinstance(found, torch.Tensor) or found.ndim not in (1, 2) or not found.numel():
        raise RunError(f"{name} holds no table of numbers")
    table: Array = found.detach().double().numpy()
    return table.reshape(len(table), -1)


def _label_names(trial: Trial, count: int) -> tuple[str, ...]:
    """Return the labels that `aucs.csv` names in order, or numbers where there is none."""
    if "aucs.csv" not in trial.others:
        return tuple(f"label {number}" for number in range(1, count + 1))
    raw = storage.read_bytes(storage.join(trial.path, "aucs.csv"))
    rows = list(csv.reader(io.StringIO(raw.decode("utf-8-sig", errors="replace"))))
    place = rows[0].index("Label") if rows and "Label" in rows[0] else 0
    names = tuple(row[place].strip() for row in rows[1:] if row)
    if len(names) != count or len(set(names)) != count:
        raise RunError(f"aucs.csv names {len(names)} labels and the predictions have {count}")
    return names
