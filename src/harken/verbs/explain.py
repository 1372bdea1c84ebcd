"""`harken explain`: why a trained network gives a recording its score."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import ValidationError
from torch import Tensor

from harken.audio import crop_start, fit_length
from harken.audio import load as load_audio
from harken.checkpoint import RunFolder
from harken.choice import nearest
from harken.covariates import Covariates
from harken.decode import BadAudio
from harken.errors import ConfigError, DataError, RunError
from harken.explain import Explain, Subject, check, require_fit
from harken.explain.explanation import Explanation
from harken.explain.moment import Moment, most_relevant
from harken.explain.picture import draw
from harken.explain.sheet import render
from harken.frontends import BadClipsError
from harken.inference import DeviceName
from harken.manifest import Manifest
from harken.model import Classifier
from harken.predictor import Predictor, new_classifier
from harken.recipe import merge, parse_word
from harken.seeds import seed_torch
from harken.storage import Location, Place, place, write_atomic
from harken.thresholds import Thresholds, decide, decision_text


@dataclass(frozen=True)
class Explained:
    """One explanation and where it was written.

    Attributes:
        explanation: The explanation.
        folder: The folder of its files.
        name: Their common stem.
    """

    explanation: Explanation
    folder: Place
    name: str

    @property
    def page(self) -> Place:
        """The page for people."""
        return self.folder / f"{self.name}.html"


def explain(
    run: Location,
    files: Sequence[Location],
    method: Explain | str = "occlusion",
    *,
    label: str | None = None,
    fold: str | None = None,
    out: Location | None = None,
    words: Sequence[str] = (),
    covariates: Mapping[str, object] | None = None,
    device: DeviceName | None = None,
    told: Callable[[Explained], None] | None = None,
    on_bad: Callable[[DataError], None] | None = None,
) -> list[Explained]:
    """Explain recordings one by one, and write PNG, npz, JSON and a page of each.

    Args:
        run: A run folder.
        files: Recordings.
        method: The method, or its name.
        label: The label to explain; None takes the decision, the likeliest of several labels, or
            the first value of a regression.
        fold: Whose network, in a run over folds; None takes the first.
        out: Folder to write to, with a folder for each of several recordings; None takes
            `explanations/<file stem>/` in the run folder.
        words: Options of the method, as `points=128`.
        covariates: Side information about the recordings, where the network reads any.
        device: Where the network runs; None takes what the recipe says.
        told: Called after each recording.
        on_bad: Called with the error of a recording that cannot be used; None raises it.

    Raises:
        ConfigError: an unknown method, option or label, or a method that does not fit the network.
        RunError: no such run or fold, or a run without weights.
        BadAudio: a recording that cannot be used.
        BadClipsError: a recording that the network cannot read.
    """
    network = _Network.load(run, fold, covariates or {}, device)
    chosen = method_of(method, words)
    require_fit(chosen, network.model)
    column, made = network.column(label), []
    for file, stem in zip(files, _stems(files), strict=True):
        try:
            explanation = network.explain(str(file), chosen, column)
        except (BadAudio, BadClipsError) as error:
            if isinstance(error, BadClipsError):
                error = error.named([str(file)])
            if on_bad is None:
                raise error from None
            on_bad(error)
            continue
        folder = network.folder.path / "explanations" / stem
        if out is not None:
            folder = place(out) / stem if len(files) > 1 else place(out)
        name = explanation.method["kind"] + ("" if label is None else f"-{_slug(label)}")
        _write(explanation, folder, name)
        made.append(Explained(explanation, folder, name))
        if told is not None:
            told(made[-1])
    return made


def method_of(method: Explain | str, words: Sequence[str] = ()) -> Explain:
    """Return a method with its options.

    Raises:
        ConfigError: there is no such method or option.
    """
    if isinstance(method, Explain) and not words:
        return method
    tree: Any = method.model_dump() if isinstance(method, Explain) else {"kind": method}
    try:
        kind = Explain.member(tree["kind"])
    except ConfigError as error:
        raise ConfigError(error.message.replace("kind", "method", 1), where="--method") from None
    for word in words:
        tree = merge(tree, parse_word(word))
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError("; ".join(lines), where=f"--method {tree['kind']}") from None


@dataclass(frozen=True)
class _Network:
    """The network of a run that is explained."""

    run: RunFolder
    folder: RunFolder
    predictor: Predictor
    covariates: Tensor | None
    limits: Thresholds

    @classmethod
    def load(
        cls,
        run: Location,
        fold: str | None,
        known: Mapping[str, object],
        device: DeviceName | None,
    ) -> _Network:
        whole = RunFolder.open(run)
        part = _fold(whole, fold)
        predictor = Predictor.load(part, device)
        predictor.models[0].requires_grad_(False)
        values = _encode(predictor.covariates[0], known)
        return cls(whole, part, predictor, values, predictor.limits(_table(known)))

    @property
    def model(self) -> Classifier:
        return self.predictor.models[0]

    def column(self, label: str | None) -> int | None:
        names = self.predictor.labels.names
        if label is None or label in names:
            return None if label is None else names.index(label)
        raise ConfigError(
            f"there is no label {label!r}; one of {', '.join(names)}{nearest(label, names)}",
            where="--label",
        )

    def fresh(self, seed: int) -> Callable[[int], Classifier]:
        """Return what makes networks of random weights with the run's own front-end."""
        predictor, model = self.predictor, self.model

        def make(number: int) -> Classifier:
            with torch.random.fork_rng(devices=[]):
                seed_torch(seed, "explain", "weights", number)
                made = new_classifier(
                    predictor.recipe, predictor.labels, predictor.covariates[0], fetch=False
                )
            made.frontend.load_state_dict(model.frontend.state_dict())
            return made.to(predictor.device).eval().requires_grad_(False)

        return make

    def explain(self, file: str, method: Explain, column: int | None) -> Explanation:
        labels, audio = self.predictor.labels, self.predictor.recipe.audio
        wave = load_audio(self.predictor.clip(file), audio)
        heard, start = wave, 0
        if audio.clip_seconds is not None:
            samples = round(audio.clip_seconds * audio.sample_rate)
            start = crop_start(len(wave), samples, audio.crop, None)
            padded, length = fit_length(wave, samples, audio.crop, audio.pad)
            heard = padded[:length]
        scores = self._scores(heard)
        column = self._decided(scores) if column is None else column
        subject = Subject.of(self.model, heard, column, method.fill, self.covariates)
        found = method.relevance(subject)
        offset = start / audio.sample_rate
        moment = most_relevant(found.over_time, subject.times, subject.seconds)
        features = subject.features[0].cpu().numpy() if subject.features.ndim == 3 else None
        return Explanation(
            file=file,
            run=str(self.folder.path),
            label=labels.names[column],
            score=float(scores[0, column]),
            decision=str(decision_text(labels, scores, self.limits)[0]),
            method=method.model_dump(),
            waveform=heard,
            sample_rate=audio.sample_rate,
            offset=offset,
            full_seconds=len(wave) / audio.sample_rate,
            times=subject.times + offset,
            frequencies=subject.frequencies,
            features=features,
            relevance=found,
            moment=None if moment is None else Moment(moment.start + offset, moment.end + offset),
            checks=check(method, subject, found, self.fresh(method.seed)),
        )

    @torch.no_grad()
    def _scores(self, heard: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        subject = Subject.of(self.model, heard, 0, covariates=self.covariates)
        logits = self.model.classify(*subject.inputs(subject.features)).logits.cpu().numpy()
        return self.predictor.calibrations[0].scores(self.predictor.labels, logits)

    def _decided(self, scores: npt.NDArray[np.float64]) -> int:
        labels = self.predictor.labels
        if labels.task == "regression":
            return 0
        if labels.task == "multi":
            return int(scores[0].argmax())
        return int(decide(labels, scores, self.limits)[0].argmax())


def _fold(run: RunFolder, fold: str | None) -> RunFolder:
    """Return the folder of a fold, by default of the first that has weights."""
    ready = [part for part in run.folds if part.has("model.safetensors")]
    if fold is None:
        return ready[0] if ready else run
    names = [part.path.name.removeprefix("fold-") for part in ready]
    if fold not in names:
        known = f"one of {', '.join(names)}" if names else "it has no folds"
        raise RunError(f"there is no trained fold {fold!r}; {known}", where=str(run.path))
    return run.fold(fold)


def _encode(known: Covariates, given: Mapping[str, object]) -> Tensor | None:
    if not known.columns:
        return None
    missing = [column.name for column in known.columns if column.name not in given]
    if missing:
        words = " ".join(f"--with {name}=…" for name in missing)
        raise ConfigError(f"this run needs to know {', '.join(missing)} of a clip", fix=words)
    return torch.from_numpy(known.encode(_table(given)))


def _table(given: Mapping[str, object]) -> Manifest:
    """Return what is known of a recording as a table of one clip."""
    row = {name: [value] for name, value in given.items()}
    return Manifest(pl.DataFrame({"id": ["clip"], "path": ["clip"]} | row), origin="--with")


def _stems(files: Sequence[Location]) -> list[str]:
    """Return a folder name per recording; the second of the same name gets a number."""
    found: list[str] = []
    for file in files:
        stem = name = PurePosixPath(str(file)).stem or "clip"
        count = 1
        while name in found:
            count += 1
            name = f"{stem}-{count}"
        found.append(name)
    return found


def _slug(label: str) -> str:
    return re.sub(r"[^\w.-]+", "_", label).strip("_") or "label"


def _write(explanation: Explanation, folder: Place, name: str) -> None:
    picture = draw(explanation)
    write_atomic(folder / f"{name}.png", picture)
    write_atomic(folder / f"{name}.npz", explanation.to_npz())
    RunFolder(folder).write_json(f"{name}.json", explanation.to_json())
    write_atomic(folder / f"{name}.html", render(explanation, picture))
