"""`harken vertex`: jobs and searches on Vertex AI, and what a trial of a search does there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harken import storage
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, HarkenError, RunError
from harken.recipe import Recipe, dump_recipe
from harken.search import GridSampler
from harken.storage import Location, Place
from harken.track import Silent, Tracker
from harken.trainer import StoppedError
from harken.trial_metric import report_metric, summary_metric
from harken.verbs.fold_summary import summarise_folds
from harken.verbs.open_study import SERVICE
from harken.verbs.prepare import Told, prepare
from harken.verbs.train import choose_folds, open_run, ready, train_fold, write_quarantine
from harken.vertex.service_trial import Trial, read_trial
from harken.vertex.spec import Machine, Spec, bucket, custom_job, tuning_job
from harken.vertex.study_spec import study_of
from harken.vertex.submit import Kind, RefusedError, Service, Submitted

_FILES = ("path", "table", "folder", "checkpoint", "vocabulary")
"""The last words of settings that name files or folders."""


@dataclass(frozen=True)
class Plan:
    """A job as it would be submitted.

    Attributes:
        kind: `job` or `tune`.
        spec: The job in the JSON of the service.
        files: What is written to the bucket first, by URL.
        results: The folder that holds the run, or the trials' runs, afterwards.
        notes: What a person may want to know.
    """

    kind: Kind
    spec: Spec
    files: Mapping[str, str]
    results: str
    notes: tuple[str, ...]


def plan_job(
    recipe: Recipe,
    out: str,
    machine: Machine,
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Plan:
    """Plan one training.

    Args:
        recipe: What to train.
        out: A bucket folder: `OUT/job.yaml` is the recipe, `OUT/run` becomes the run folder.
        machine: What it runs on.
        name: The job's name in the console; None takes the folder's.
        labels: The job's labels.
        options: More options of `harken train`, such as `--jobs 2`.

    Raises:
        ConfigError: something cannot work there.
    """
    folder = bucket(out, "--out")
    recipe = _portable(recipe).model_copy(update={"search": None})
    file, results = f"{folder}/job.yaml", f"{folder}/run"
    # A machine that is taken away starts the same command again, which then goes on.
    arguments = ["train", file, "--out", results, "--resume", *options]
    spec = custom_job(name or _name_of(folder), machine, arguments, labels or {})
    notes = (*machine.notes(), *_local_paths(recipe))
    return Plan("job", spec, {file: dump_recipe(recipe)}, results, notes)


def plan_tuning(
    recipe: Recipe,
    out: str,
    machine: Machine,
    *,
    trials: int | None = None,
    parallel: int = 3,
    failures: int | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Plan:
    """Plan a search.

    Args:
        recipe: What to train, with its `search`.
        out: A bucket folder: `OUT/recipe.yaml` is the recipe, `OUT/trial-N` become run folders.
        machine: What each trial runs on.
        trials: Trials in all; None takes every combination of a grid.
        parallel: Trials at a time.
        failures: Failed trials after which the service gives up; None lets it decide.
        name: The job's name in the console; None takes the folder's.
        labels: The job's labels.
        options: More options of `harken train`, such as `--folds 1`.

    Raises:
        ConfigError: something cannot work there.
    """
    folder = bucket(out, "--out")
    study = study_of(recipe)
    recipe = _portable(recipe)
    file = f"{folder}/recipe.yaml"
    spec = tuning_job(
        name or _name_of(folder),
        machine,
        ["train", file, "--out", folder, *options],
        labels or {},
        study.spec,
        trials=trials or _grid_size(recipe),
        parallel=parallel,
        failures=failures,
    )
    text = dump_recipe(recipe)
    about = {
        "name": storage.Url(folder).name,
        "metric": study.metric,
        "split": "valid",
        "direction": study.spec["metrics"][0]["goal"].lower(),
        "storage": SERVICE,
        "recipe_sha": hashlib.sha256(text.encode()).hexdigest(),
    }
    files = {file: text, f"{folder}/study.json": json.dumps(about, indent=1) + "\n"}
    notes = (*machine.notes(), *study.notes, *_local_paths(recipe))
    return Plan("tune", spec, files, folder, notes)


def submit(
    plan: Plan, project: str | None = None, region: str = "us-central1", endpoint: str | None = None
) -> Submitted:
    """Write the recipe to the bucket and submit the job.

    Args:
        plan: The job.
        project: Who pays; None takes the credentials' own project.
        region: Where it runs.
        endpoint: Another address of the service.

    Raises:
        RunError: another job's results are there, or the service refused.
        ConfigError: the service does not know what the spec says.
        MissingExtraError: the extra `vertex` is not installed.
    """
    service = Service(project, region, endpoint)
    service.message(plan.kind, plan.spec)
    for url, text in plan.files.items():
        if storage.is_file(url) and storage.read_bytes(url).decode() != text:
            raise RunError(
                "a job of another recipe was submitted there", where=url, fix="choose another --out"
            )
    if plan.kind == "tune" and any(
        entry.name.startswith("trial-") for entry in storage.entries(plan.results)
    ):
        # The service numbers trials from 1 each time, and would go on with other values' runs.
        raise RunError("there are trials already", where=plan.results, fix="choose another --out")
    written = [url for url in plan.files if not storage.is_file(url)]
    for url in written:
        storage.write_atomic(url, plan.files[url])
    try:
        return service.create(plan.kind, plan.spec)
    except (RefusedError, ConfigError):
        # After any other failure nobody knows whether the job was taken, and it needs its recipe.
        for url in written:
            storage.remove_file(url)
        raise


def run_trial(
    files: Sequence[Location],
    words: Sequence[str],
    out: Location,
    number: str,
    *,
    folds: str = "all",
    tracker: Tracker | None = None,
    told: Told | None = None,
) -> tuple[str, float] | None:
    """Train one trial of a tuning service, and tell the service its number.

    The run folder is `trial-NUMBER` in `out`; a trial that is started again goes on. `trial.json`
    in it holds the values, as after `harken tune`, and test clips are not judged here either. A
    trial without a number is infeasible to the service: so is one whose values break a constraint,
    and it is not trained.

    Args:
        files: Recipe files.
        words: Overrides, among them the values that the service drew.
        out: The folder of all trials.
        number: The trial's number.
        folds: See `harken.verbs.train.train`.
        tracker: See there.
        told: See there.

    Returns:
        The metric and its value, or None where nothing was trained.

    Raises:
        HarkenError: the trial failed; `trial.json` says why.
    """
    trial = read_trial(files, words)
    run = RunFolder(storage.place(out) / f"trial-{number}")
    about = _about(trial, storage.place(out), number)
    if trial.broken:
        broken = " and ".join(trial.broken)
        run.write_json("trial.json", about | {"state": "pruned", "error": f"it breaks {broken}"})
        return None
    try:
        _train_trial(trial.recipe, run, folds, tracker or Silent(), told)
        metric, value = summary_metric(run, trial.metric)
    except StoppedError:
        raise
    except (HarkenError, RuntimeError, MemoryError) as error:
        # Out of memory is a RuntimeError; it is told in full, and the service goes on elsewhere.
        reason = str(error) if isinstance(error, HarkenError) else repr(error)
        if not _is_complete(run):
            run.write_json("trial.json", about | {"state": "failed", "error": reason})
        raise
    told_all = {"metric": metric, "value": value, "state": "complete"}
    run.write_json("trial.json", about | told_all)
    epochs = max(_epochs(part) for part in run.folds or [run])
    report_metric(metric, value, epochs=epochs, checkpoint=str(run.path))
    for part in run.folds or [run]:
        # Nothing resumes from here any more, and it is several times the weights.
        storage.remove_folder(part.path / "last")
    return metric, value


def _train_trial(
    recipe: Recipe, run: RunFolder, folds: str, tracker: Tracker, told: Told | None
) -> None:
    recipe = ready(recipe)
    open_run(recipe, run.path, resume=run.has("recipe.yaml"), overwrite=False)
    corpus, parted = prepare(recipe, told)
    write_quarantine(run, corpus)
    chosen = choose_folds(parted, folds)
    if not all(bool((fold.split == "valid").any()) for fold in chosen):
        raise ConfigError(
            "a trial is judged by validation clips, and this split has none",
            where="data.split.valid",
            fix="data.split.valid=0.15",
        )
    for fold in chosen:
        part = run.fold(fold.name if len(parted) > 1 else "")
        if not part.has("metrics.json"):
            train_fold(recipe, corpus, fold, part, tracker, judged=("valid",))
    if len(parted) > 1:
        summarise_folds(run, recipe)


def _about(trial: Trial, out: Place, number: str) -> dict[str, Any]:
    return {
        "study": out.name,
        "number": int(number) if number.isdigit() else number,
        "values": dict(trial.values),
        "metric": trial.metric,
        "split": "valid",
        "value": None,
        "state": "failed",
        "error": None,
    }


def _is_complete(run: RunFolder) -> bool:
    return run.has("trial.json") and run.read_json("trial.json")["state"] == "complete"


def _epochs(run: RunFolder) -> int:
    return len(run.read_text("metrics.jsonl").splitlines())


def _grid_size(recipe: Recipe) -> int:
    search = recipe.search
    if search is None or not isinstance(search.sampler, GridSampler):
        raise ConfigError("how many trials?", where="--trials", fix="--trials 50")
    return len(search.grid(recipe.model_dump(mode="json", exclude={"search"})))


def _name_of(folder: str) -> str:
    return f"harken-{storage.Url(folder).name}"[:128]


def _portable(recipe: Recipe) -> Recipe:
    """Return a recipe with the lists and tables that it names read in.

    The network's own files stay named: the container reads them.
    """
    target = recipe.data.target and recipe.data.target.resolved()
    read = {
        "data": recipe.data.model_copy(update={"target": target}),
        "loss": recipe.loss and recipe.loss.resolved(),
        "calibrate": recipe.calibrate.resolved(),
    }
    return recipe.model_copy(update=read)


def _local_paths(recipe: Recipe) -> Iterator[str]:
    """Yield what the recipe names on this machine, which the container does not see."""
    for path, text in _texts(recipe.model_dump(mode="json")):
        # Elsewhere a word may by chance be the name of a folder: `target: label`.
        is_file = path.rpartition(".")[2] in _FILES or re.search(r"[/.\\]", text)
        if is_file and storage.is_local(text) and os.path.exists(text):
            yield (
                f"{path} is {text}, which is on this machine: the container sees buckets "
                "(gs://…) and what its image holds"
            )


def _texts(tree: Any, above: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield above, tree
    entries: Any = tree.items() if isinstance(tree, dict) else ()
    entries = enumerate(tree) if isinstance(tree, list) else entries
    for key, value in entries:
        yield from _texts(value, f"{above}.{key}" if above else str(key))
