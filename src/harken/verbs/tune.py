"""`harken tune`: search the settings of a recipe; every trial is an ordinary run folder.

Trials are compared by their validation clips only. They do not predict their test clips at all, so
that the winner can still be measured once on clips that had no say in choosing it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from harken import storage
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, HarkenError
from harken.metrics import higher_is_better
from harken.recipe import Recipe, validate
from harken.search import GridSampler, NoPruner, Search
from harken.split import Fold
from harken.storage import Location, Place
from harken.track import Silent
from harken.trainer import StoppedError, monitored
from harken.trial_metric import summary_metric
from harken.verbs.fold_summary import summarise_folds
from harken.verbs.open_study import open_study
from harken.verbs.prepare import Corpus, Told, prepare
from harken.verbs.study import Claim, Study, Trial, tree_of
from harken.verbs.train import choose_folds, open_run, ready, train_fold, write_quarantine

DEFAULT_TRIALS = 20
ALIKE = 3
"""So many first trials that fail alike end a search: something is wrong with all of them."""

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


class Pruned(HarkenError):  # noqa: N818, it is how a trial ends and no mistake
    """A trial was broken off because it does badly."""


@dataclass(frozen=True)
class Tuned:
    """What a search has come to.

    Attributes:
        out: The study's folder.
        metric: What was compared, of validation clips.
        trials: All trials of the study.
        best: The best of them, if any is complete.
        stopped: Whether it was asked to stop, rather than at its end.
        tests: Whether the split has test clips, on which the best can be measured.
    """

    out: Place
    metric: str
    trials: Sequence[Trial]
    best: Trial | None
    stopped: bool
    tests: bool


def tune(
    recipe: Recipe,
    out: Location,
    *,
    trials: int | None = None,
    study: str | None = None,
    name: str | None = None,
    folds: str | Sequence[str] = "all",
    minutes: float | None = None,
    told: Callable[[Trial, Trial | None], None] | None = None,
    decoding: Told | None = None,
) -> Tuned:
    """Run trials until the study has `trials` of them; what `out` holds already counts.

    Args:
        recipe: A recipe with a `search`.
        out: The folder of the study and its trials; several processes may work on it.
        trials: Trials of the study in all, whoever ran them; None: 20, or a grid to its end.
        study: Where the study is kept: a database's URL or a journal's path; None: in `out`.
        name: The study's name; None: that of the folder.
        folds: `all`, or the names of the folds that each trial trains.
        minutes: No trial begins after so long.
        told: Called with each finished trial and the best so far.
        decoding: Called with clips decoded and clips in all.

    Raises:
        HarkenError: the recipe, the data, the study or the folder cannot be used; or the first
            trials all failed alike.
    """
    search = recipe.search
    if search is None:
        raise ConfigError(
            "this recipe says nothing to search",
            where="search",
            fix="search.parameters.optimizer.lr='{kind: float, low: 1e-4, high: 1e-2, log: true}'",
        )
    data = _Data(recipe, decoding)
    corpus, parted = data.of(recipe)
    chosen = choose_folds(parted, folds)
    _refuse_without_validation(chosen)
    metric, more = _compared(recipe, search, corpus)
    names = [fold.name for fold in chosen]
    found = open_study(recipe, out, metric, more, folds=names, where=study, name=name)
    # A grid ends by itself; the limit only has to be beyond it.
    limit = trials or (2**31 if isinstance(search.sampler, GridSampler) else DEFAULT_TRIALS)
    session = _Session(recipe, found, data, metric, names)
    stopped = not session.run(limit, minutes, told)
    tests = any(bool((fold.split == "test").any()) for fold in chosen)
    return Tuned(found.out, metric, found.trials(), found.best(), stopped, tests)


def _refuse_without_validation(folds: Sequence[Fold]) -> None:
    if not all(bool((fold.split == "valid").any()) for fold in folds):
        raise ConfigError(
            "a search compares trials by validation clips, and this split has none",
            where="data.split.valid",
            fix="data.split.valid=0.15",
        )


def _compared(recipe: Recipe, search: Search, corpus: Corpus) -> tuple[str, bool]:
    if search.metric is None:
        return monitored(recipe, corpus.labels)
    try:
        return search.metric, higher_is_better(search.metric, corpus.labels)
    except ConfigError as error:
        raise ConfigError(error.message, where="search.metric", fix=error.fix) from None


class _Data:
    """Clips made ready once for all trials that read them alike."""

    def __init__(self, recipe: Recipe, told: Told | None) -> None:
        self.told = told
        self.recipe = recipe
        self.ready: tuple[Corpus, list[Fold]] | None = None

    def of(self, recipe: Recipe) -> tuple[Corpus, list[Fold]]:
        """Return the corpus and the folds of a trial's recipe."""
        one, other = self.recipe, recipe
        alike = (one.data, one.audio, one.seed) == (other.data, other.audio, other.seed)
        if self.ready is None or not alike:
            self.recipe, self.ready = recipe, prepare(recipe, self.told)
        corpus, folds = self.ready
        recipe.calibrate.check(corpus.labels, corpus.manifest)
        recipe.evaluate.check(corpus.manifest)
        return replace(corpus, notes=list(corpus.notes)), folds


class _Session:
    """One process's work on a study."""

    def __init__(
        self, recipe: Recipe, study: Study, data: _Data, metric: str, folds: list[str]
    ) -> None:
        assert recipe.search is not None, "there is something to search"
        self.study, self.data, self.metric, self.folds = study, data, metric, folds
        self.search, self.tree = recipe.search, tree_of(recipe)
        self.failures: list[HarkenError] = []
        self.num_good = 0

    def run(
        self,
        limit: int,
        minutes: float | None,
        told: Callable[[Trial, Trial | None], None] | None,
    ) -> bool:
        """Run trials; return False where the process was asked to stop.

        Raises:
            HarkenError: the first trials all failed alike, or the disk is full or a store fails;
                then the trial under way is taken up again by whoever is next.
        """
        self._keep_best()  # a process that was killed may not have come to it
        ends = None if minutes is None else time.monotonic() + 60 * minutes
        while ends is None or time.monotonic() < ends:
            claim = self.study.claim(limit)
            if claim is None:
                break
            try:
                trial = self._attempt(claim)
            except (StoppedError, KeyboardInterrupt):
                claim.lock.give_back()
                return False
            except BaseException:
                claim.lock.give_back()
                raise
            self._finish(claim, trial)
            if told is not None:
                told(trial, self.study.best())
            self._refuse_the_same_mistake()
        return True

    def _attempt(self, claim: Claim) -> Trial:
        """Train a trial, and say how it ended."""
        try:
            value = self._train(claim)
        except StoppedError:
            raise
        except Pruned:
            return replace(claim.trial, state="pruned")
        except HarkenError as error:
            if _is_of_the_place(error):
                raise
            return self._failed(claim, error)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or _is_out_of_memory(error):
                fix = "a smaller train.batch_size, or a constraint that leaves such trials out"
                return self._failed(claim, HarkenError("out of memory", fix=fix))
            # Whatever it is, the study must not meet it again at each start.
            self._finish(claim, replace(claim.trial, state="failed", error=repr(error)))
            raise
        self.num_good += 1
        return replace(claim.trial, state="complete", value=value)

    def _failed(self, claim: Claim, error: HarkenError) -> Trial:
        self.failures.append(error)
        return replace(claim.trial, state="failed", error=str(error))

    def _train(self, claim: Claim) -> float:
        folder = self.study.out / claim.trial.name
        tree = self.search.applied(claim.trial.values, self.tree)
        recipe = validate(tree, where=claim.trial.name)
        corpus, parted = self.data.of(recipe)
        recipe = ready(recipe)
        run = _open_run(recipe, folder, claim.is_new)
        self._note(run, claim.trial)
        write_quarantine(run, corpus)
        watch = _Watch(self, claim, run, recipe)
        for fold in choose_folds(parted, self.folds):
            part = run.fold(fold.name if len(parted) > 1 else "")
            if not part.has("metrics.json"):
                train_fold(recipe, corpus, fold, part, watch, judged=("valid",))
        if len(parted) > 1:
            summarise_folds(run, recipe)
        return summary_metric(run, self.metric)[1]

    def _finish(self, claim: Claim, trial: Trial) -> None:
        run = RunFolder(self.study.out / trial.name)
        self._note(run, trial)
        self.study.finish(claim, trial)
        if trial.state == "complete":
            for part in run.folds or [run]:
                # Nothing resumes from here any more, and it is several times the weights.
                storage.remove_folder(part.path / "last")
        self._keep_best(trial.number)

    def _keep_best(self, only: int | None = None) -> None:
        """Write the best trial's recipe to `best.yaml`, if it is that number or any."""
        with self.study.lock:
            best = self.study.best()
            if best is None or only not in (None, best.number):
                return
            run = RunFolder(self.study.out / best.name)
            if run.has("recipe.yaml"):
                text = run.read_text("recipe.yaml")
                storage.write_atomic(self.study.out / "best.yaml", text)

    def _note(self, run: RunFolder, trial: Trial) -> None:
        """Write `trial.json`."""
        told = {
            "study": self.study.handle.study_name,
            "number": trial.number,
            "values": dict(trial.values),
            "metric": self.metric,
            "split": "valid",
            "value": trial.value,
            "state": trial.state,
            "error": trial.error,
        }
        storage.make_folder(run.path)
        run.write_json("trial.json", told)

    def _refuse_the_same_mistake(self) -> None:
        if self.num_good or len(self.failures) != ALIKE:
            return
        if len({_kind_of(error) for error in self.failures}) == 1:
            last = self.failures[-1]
            raise type(last)(
                f"the first {ALIKE} trials all failed: {last.message}",
                where=last.where,
                fix=last.fix,
            )


def _open_run(recipe: Recipe, folder: Place, is_new: bool) -> RunFolder:
    """Make a trial's run folder, or open the one that another process left.

    Raises:
        RunError: something else is there.
    """
    begun = storage.is_file(folder / "recipe.yaml")
    if not begun and not is_new:
        storage.remove_folder(folder)
    return open_run(recipe, folder, resume=begun and not is_new, overwrite=False)


def _is_of_the_place(error: HarkenError) -> bool:
    """Whether a disk or a store failed and not the trial, which goes on once that is mended."""
    return isinstance(error, storage.StoreError) or storage.is_full(error.__cause__ or error)


def _kind_of(error: HarkenError) -> tuple[str, str]:
    """Return what two failures share if they are the same mistake in other clips or epochs."""
    return type(error).__name__, re.sub(r"\(.*?\)|[\d.]+", "", error.message)


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(words in text for words in _NO_MEMORY)


class _Watch(Silent):
    """Tells the study of every epoch, and breaks a trial off where the pruner says so."""

    def __init__(self, session: _Session, claim: Claim, run: RunFolder, recipe: Recipe) -> None:
        self.session, self.claim, self.run, self.recipe = session, claim, run, recipe
        self.key = f"valid_{session.metric}"
        self.before: list[float] = []
        self.rows: list[Mapping[str, Any]] = []
        self.place = 0

    def begin(self, title: str, total: int, done: int) -> None:
        """Look up what earlier folds, and this one before it was left, have reached."""
        names = [f"fold-{name}" for name in self.session.folds]
        earlier = list(takewhile(lambda name: name != title, names)) if title in names else []
        parts = [RunFolder(self.run.path / name) for name in earlier]
        bests = [self._best(_history(part)) for part in parts]
        self.before = [best for best in bests if best is not None]
        self.place = len(earlier)
        self.rows = _history(RunFolder(self.run.path / title)) if title in names else []
        if title not in names:
            self.rows = _history(self.run)

    def _best(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        values = [value for row in rows if isinstance(value := row.get(self.key), float)]
        pick = max if self.session.study.more_is_better else min
        return pick(values) if values else None

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Compare with complete trials after as many epochs.

        Raises:
            Pruned: the trial is not worth going on with.
            ConfigError: the metric is not known after each epoch.
        """
        study, pruner = self.session.study, self.session.search.pruner
        self.rows.append(row)
        if self.key not in row and not isinstance(pruner, NoPruner):
            raise ConfigError(
                f"{self.session.metric} is not measured after each epoch",
                where="search.pruner",
                fix="search.pruner=none, or another search.metric",
            )
        best = self._best(self.rows)
        if best is None:
            return
        done = self.place * self.recipe.train.epochs + int(row["epoch"])
        value = float(np.mean([*self.before, best]))
        others = study.report(self.claim, done, value)
        if done < len(self.session.folds) * self.recipe.train.epochs and pruner.gives_up(
            done, value, others, study.more_is_better
        ):
            raise Pruned(f"worse than the median after {done} epochs")


def _history(run: RunFolder) -> list[Mapping[str, Any]]:
    return list(_rows(run)) if run.has("metrics.jsonl") else []


def _rows(run: RunFolder) -> Iterator[Mapping[str, Any]]:
    import json

    for line in run.read_text("metrics.jsonl").splitlines():
        yield json.loads(line)
