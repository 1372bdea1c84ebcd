"""Beginning a study, or going on with one; and refusing what is not the same search."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harken import storage
from harken.errors import ConfigError, HarkenError, RunError, import_extra
from harken.file_lock import FileLock
from harken.recipe import Recipe
from harken.storage import Location, Place
from harken.verbs.study import Study
from harken.verbs.study_sampler import Given

JOURNAL = "study.journal"
SERVICE = "Vertex AI"
"""Stands for the place of a study that `harken vertex tune` began."""
FREE_PATHS = (
    *("data.cache", "data.cache_gigabytes", "train.device", "train.checkpoint_minutes"),
    *("train.memory_gigabytes", "train.tensorboard"),
)
"""Settings that may change while a study goes on: they say where and how, not what."""


def open_study(
    recipe: Recipe,
    out: Location,
    metric: str,
    more_is_better: bool,
    *,
    folds: Sequence[str] = ("",),
    where: str | None = None,
    name: str | None = None,
) -> Study:
    """Begin a study, or go on with the one in `out`.

    Args:
        recipe: The recipe with its search.
        out: The folder of the trials.
        metric: What is compared, of validation clips.
        more_is_better: Whether it is to rise.
        folds: The names of the folds that each trial trains.
        where: A database's URL, such as `sqlite:///study.db`, or a journal's path; None takes
            `study.journal` in `out`.
        name: The study's name; None takes that of the study in `out`, or the folder's.

    Raises:
        RunError: `out` holds something else, or a study of another recipe or place.
        ConfigError: there can be no study in such a place.
        MissingExtraError: optuna is not installed.
    """
    import_extra("optuna", "tune")
    folder = storage.place(out)
    _read_known(folder)  # Before anything is written into somebody else's folder.
    locks = _lock_folder(folder)
    with FileLock(locks / "study"):
        known = _read_known(folder)
        place = _storage_of(folder, where, known)
        about = {
            "name": _name_of(folder, name, known),
            "metric": metric,
            "split": "valid",
            "direction": "maximize" if more_is_better else "minimize",
            "storage": _without_password(place),
            "recipe_sha": _digest(recipe),
            "folds": list(folds),
        }
        handle = _open_handle(folder, place, about)
        _refuse_another(handle, recipe, about, folder, known)
        storage.write_atomic(folder / "study.json", json.dumps(about, indent=1) + "\n")
    return Study(handle, folder, recipe, more_is_better, locks)


def _lock_folder(folder: Place) -> Path:
    if isinstance(folder, Path):
        return folder / ".locks"
    digest = hashlib.blake2b(str(folder).encode(), digest_size=8).hexdigest()
    return storage.cache_folder() / "tune" / digest


def _read_known(folder: Place) -> dict[str, Any] | None:
    """Return `study.json`, or None where the folder is empty or not there.

    Raises:
        RunError: something else is there.
    """
    if storage.is_file(folder / "study.json"):
        try:
            known: dict[str, Any] = json.loads(storage.read_bytes(folder / "study.json"))
            kept = str(known["storage"])
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"study.json is damaged: {error!r}", where=str(folder), fix="choose another --out"
            ) from error
        if kept == SERVICE:
            raise RunError(
                "a service chooses the trials in this folder: Vertex AI",
                where=str(folder),
                fix="choose another --out; harken tune score ranks what is there",
            )
        return known
    others = [entry.name for entry in storage.entries(folder) if entry.name[0] != "."]
    if [name for name in others if name != JOURNAL] or storage.is_file(folder):
        raise RunError(
            "this folder holds something that is no study (no study.json)",
            where=str(folder),
            fix="choose another --out",
        )
    return None


def _storage_of(folder: Place, where: str | None, known: Mapping[str, Any] | None) -> str:
    """Return a database's URL, or the path of a journal; `study.journal` alone is the folder's."""
    if where == JOURNAL:
        where = f"./{JOURNAL}"  # a person's own, where they are
    if where is not None and known and known["storage"] != _without_password(where):
        raise RunError(
            f"the study in this folder is kept in {known['storage']}, not in {where}",
            where=str(folder),
            fix="leave --study out, or choose another --out",
        )
    place = where or (known["storage"] if known else JOURNAL)
    if where is None and "***" in place:
        raise RunError("this study's database wants a password", where=place, fix="say --study")
    if place == JOURNAL and where is None and not isinstance(folder, Path):
        raise ConfigError(
            "a bucket cannot keep a study, whose file several processes write to",
            where="--study",
            fix="--study study.journal (a file of this machine), or --study postgresql://…",
        )
    scheme = place.partition("://")[0] if "://" in place else ""
    if scheme in ("gs", "gcs", "s3", "abfs", "abfss", "az", "memory", "http", "https"):
        raise ConfigError(
            f"a study is a file of this machine or a database, not {scheme}://",
            where="--study",
            fix="--study sqlite:///study.db, or a path",
        )
    if not scheme and place.endswith((".db", ".sqlite", ".sqlite3")):
        raise ConfigError(
            "a database is given as a URL", where="--study", fix=f"--study sqlite:///{place}"
        )
    return place


def _name_of(folder: Place, name: str | None, known: Mapping[str, Any] | None) -> str:
    if known and name not in (None, known["name"]):
        raise RunError(
            f"the study in this folder is called {known['name']!r}, not {name!r}",
            where=str(folder),
            fix="choose another --out",
        )
    return str(known["name"]) if known else name or folder.name


def _open_handle(folder: Place, place: str, about: Mapping[str, Any]) -> Any:
    optuna = import_extra("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return optuna.create_study(
                storage=_open_storage(folder, place),
                sampler=Given(),
                study_name=about["name"],
                direction=about["direction"],
                load_if_exists=True,
            )
        except HarkenError:
            raise
        except Exception as error:  # sqlalchemy's errors, and those of each database's driver
            lines = str(error).splitlines() or [type(error).__name__]
            raise ConfigError(
                f"cannot keep a study in {_without_password(place)}: {lines[0]}", where="--study"
            ) from error


def _open_storage(folder: Place, place: str) -> Any:
    optuna = import_extra("optuna", "tune")
    if "://" in place:
        patience = {"connect_args": {"timeout": 60}} if place.startswith("sqlite") else {}
        return optuna.storages.RDBStorage(place, engine_kwargs=patience)
    path = Path(str(folder / JOURNAL)) if place == JOURNAL else storage.local_path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _JournalLock(path.with_name(f".{path.name}.lock"))
    _mend(path, lock)
    journal = import_extra("optuna.storages.journal", "tune")
    return journal.JournalStorage(journal.JournalFileBackend(str(path), lock_obj=lock))


class _JournalLock:
    """optuna's own locks are files that a killed process leaves locked for half a minute."""

    def __init__(self, path: Path) -> None:
        self.lock = FileLock(path)

    def acquire(self) -> bool:
        return self.lock.take(wait=True)

    def release(self) -> None:
        self.lock.give_back()


def _mend(path: Path, lock: _JournalLock) -> None:
    """Drop a last line that was cut off by a kill or a full disk, which nobody could read past."""
    if not path.is_file():
        return
    lock.acquire()
    try:
        whole = path.read_bytes()
        kept = whole.rfind(b"\n") + 1
        if kept < len(whole):
            with path.open("rb+") as file:
                file.truncate(kept)
    finally:
        lock.release()


def _refuse_another(
    handle: Any,
    recipe: Recipe,
    about: Mapping[str, Any],
    folder: Place,
    known: Mapping[str, Any] | None,
) -> None:
    """Note in a new study what it is of, and refuse an old one of something else.

    Raises:
        RunError: it is of another recipe, or its trials lie elsewhere.
    """
    mine = {**_compared(recipe), "metric": about["metric"], "folds": about["folds"]}
    if "recipe" not in handle.user_attrs:
        if any(entry.name.startswith("trial-") for entry in storage.entries(folder)):
            raise RunError(
                f"there are trials here, but {about['storage']} knows of none",
                where=str(folder),
                fix="choose another --out",
            )
        handle.set_user_attr("recipe", mine)
        handle.set_user_attr("out", str(folder))
        return
    theirs = handle.user_attrs["recipe"]
    if known is None and handle.get_trials(deepcopy=False):
        raise RunError(
            f"the trials of the study {about['name']!r} lie in {handle.user_attrs.get('out')}",
            where=str(folder),
            fix=f"--out {handle.user_attrs.get('out')}, or another --name",
        )
    paths = [path for path in {**theirs, **mine} if theirs.get(path) != mine.get(path)]
    if paths:
        shown = ", ".join(
            f"{path}: {json.dumps(theirs.get(path))} there, {json.dumps(mine.get(path))} here"
            for path in paths[:5]
        )
        more = f", and {len(paths) - 5} more" if len(paths) > 5 else ""
        raise RunError(
            f"this study is of another recipe ({shown}{more})",
            where=str(folder),
            fix="choose another --out (and --name), or go on with the old recipe",
        )


def _compared(recipe: Recipe) -> dict[str, Any]:
    """Return what makes two recipes the same search: leaf values by path."""
    plain = json.loads(json.dumps(recipe.model_dump(mode="json")))
    return {path: value for path, value in _leaves(plain, "") if path not in FREE_PATHS}


def _leaves(tree: Any, above: str) -> list[tuple[str, Any]]:
    if not isinstance(tree, dict) or not tree:
        return [(above, tree)]
    inner = [(f"{above}.{key}" if above else str(key), value) for key, value in tree.items()]
    return [leaf for path, value in inner for leaf in _leaves(value, path)]


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(_compared(recipe), sort_keys=True).encode()).hexdigest()


def _without_password(place: str) -> str:
    return re.sub(r"(://[^:/@]+):[^@/]*@", r"\1:***@", place)
