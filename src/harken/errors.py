"""What harken says when something is wrong: what was found, where, and what to do about it."""

from __future__ import annotations

import importlib
from types import ModuleType


class HarkenError(Exception):
    """A mistake that a person can mend; the command line prints it without a traceback.

    Args:
        message: What was expected and what was found.
        where: `file:row` or a recipe path such as `frontend.n_mels`.
        fix: What to type or change.
    """

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.message, self.where, self.fix = message, where, fix
        super().__init__(message, where, fix)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross from the processes of folds; the default would drop keyword arguments.
        return _revive, (type(self), self.__dict__)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f" → {self.fix}" if self.fix else ""
        return f"{place}{self.message}{cure}"


def _revive(kind: type[HarkenError], state: dict[str, object]) -> HarkenError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    return error


class ConfigError(HarkenError):
    """A recipe, an option or a combination of components that cannot work."""


class DataError(HarkenError):
    """A table, a label or a recording that cannot be used."""


class RunError(HarkenError):
    """A run folder that is missing, occupied, damaged, or made by another recipe."""


class MissingExtraError(HarkenError, ImportError):
    """An optional dependency that is not installed."""


class HarkenWarning(UserWarning):
    """Something that works, and is hardly what was meant."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtraError(
            f"this needs the package {module.partition('.')[0]!r}",
            fix=f"pip install 'harken[{extra}]'",
        ) from error
