"""Arguments of the systems 000 and 001, turned into a recipe that builds their models again.

Their defaults are those of their command lines. What was asked for but never happened there (the
waveform augmentations of 000, the attention mask of 001) is not asked for here; notes say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harken.choice import nearest
from harken.errors import ConfigError
from harken.target import read_label_file

System = Literal["000", "001"]
Settings = dict[str, Any]

_BOTH: Settings = {
    "prefix": "", "study": None, "data_split_root": "", "bucket_name": None, "project_name": None,
    "cloud": False, "cloud_dir": "", "val_size": 50, "seed": None, "dataset": None,
    "exp_dir": "./experiments", "embedding_type": None, "pooling_mode": "mean",
    "shared_dense": False, "sd_bottleneck": 768, "resample_rate": 16000, "reduce": True,
    "clip_length": 10.0, "mixup": 0.0, "batch_size": 8, "num_workers": 0, "learning_rate": 3e-4,
    "epochs": 1, "optim": "adamw", "weight_decay": 1e-4, "loss": "BCE", "scheduler": None,
    "max_lr": 0.01, "activation": "relu", "final_dropout": 0.3, "layernorm": False,
    "clf_bottleneck": 768, "debug": False, "lib": False, "mode": None,
    "target_labels": None, "label_groups": None, "n_class": None, "label_txt": None, "bucket": None,
}  # fmt: skip
DEFAULTS: dict[System, Settings] = {
    "000": _BOTH | {
        "trained_mdl_path": None, "model_type": "efficientnet_b0", "scheduler": "onecycle",
        "tshift": 0.0, "speed": 0.0, "gauss": 0.0, "pshift": 0.0, "pshiftn": 0.0, "gain": 0.0,
        "stretch": 0.0, "dataset_mean": 0.0, "dataset_std": 0.0, "target_length": 1024,
        "num_mel_bins": 128, "freqm": 0, "timem": 0, "noise": False, "cdo": False, "shift": False,
    },
    "001": _BOTH | {
        "checkpoint": "wav2vec2-base-960h", "finetuned_mdl_path": "", "weighted": False,
        "layer": -1, "freeze": True, "hp_tuning": False, "new_checkpoint": False, "seed": 4200,
    },
}  # fmt: skip
"""Every argument with the default of its command line."""

NEEDED = (
    "resample_rate", "clip_length", "final_dropout", "clf_bottleneck", "epochs", "batch_size",
    "learning_rate", "max_lr", "weight_decay", "num_mel_bins", "target_length", "dataset_mean",
    "dataset_std", "layer",
)  # fmt: skip
"""Numbers without which there is no recipe."""
NEVER_RAN = ("tshift", "speed", "gauss", "pshift", "gain", "stretch")
"""The waveform augmentations of 000: a wrong key made each of them do nothing."""
PLUGIN = "harken.frontends.legacy"


@dataclass(frozen=True)
class LegacyRun:
    """What the arguments say.

    Attributes:
        system: `000` or `001`.
        settings: All arguments, defaults included.
        groups: The labels of each classifier.
        notes: What a person should know.
    """

    system: System
    settings: Settings
    groups: list[list[str]]
    notes: list[str] = field(default_factory=list)


def read_settings(
    arguments: object, over: Mapping[str, Any], label_file: str | None, where: str
) -> LegacyRun:
    """Find out which system wrote the arguments, complete them, and find the labels.

    Args:
        arguments: What `args.pkl` holds.
        over: Arguments that replace those.
        label_file: A label file instead of the labels that the arguments name.
        where: The file, for errors.

    Raises:
        ConfigError: the arguments are of neither system, or labels or values do not work.
    """
    if not isinstance(arguments, dict):
        raise ConfigError(f"holds a {type(arguments).__name__}, not arguments", where=where)
    given = {str(name): value for name, value in arguments.items()} | dict(over)
    system = _system_of(given, where)
    defaults = DEFAULTS[system]
    for name in over:
        if name not in defaults:
            raise ConfigError(
                f"{system} has no argument {name!r}{nearest(name, defaults)}", where="--set"
            )
    notes = _unsaid(given, defaults)
    settings = defaults | given
    for name, default in defaults.items():
        place = "--set" if name in over else where
        settings[name] = _typed(name, settings[name], default, place)
    run = LegacyRun(system, settings, _groups(given, label_file, where), notes)
    _check(run, where)
    return run


def _typed(name: str, value: Any, default: Any, where: str) -> Any:
    """Return an argument as its default's kind of value; command lines often keep it as text.

    Raises:
        ConfigError: it is none.
    """
    if value is None and name not in NEEDED:
        return None
    if isinstance(default, bool):
        known = {"true": True, "1": True, "false": False, "0": False}
        if str(value).lower() in known:
            return known[str(value).lower()]
        raise ConfigError(f"{name} is True or False, not {value!r}", where=where)
    if isinstance(default, int | float) or name == "seed":
        kind = float if isinstance(default, float) else int
        try:
            return kind(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{name} must be a number, not {value!r}",
                where=where,
                fix=f"--set {name}={0 if default is None else default}",
            ) from None
    return None if value == "None" else value


def _system_of(given: Settings, where: str) -> System:
    if "model_type" in given and "checkpoint" not in given:
        return "000"
    if "checkpoint" in given and "model_type" not in given:
        return "001"
    raise ConfigError(
        "these are arguments neither of 000 (model_type) nor of 001 (checkpoint): "
        + (", ".join(list(given)[:8]) or "there are none"),
        where=where,
        fix="add what is missing, e.g. --set model_type=efficientnet_b0",
    )


MATTERS = {
    "000": ("target_length", "num_mel_bins", "dataset_mean", "dataset_std"),
    "001": ("layer", "weighted", "pooling_mode"),
}


def _unsaid(given: Settings, defaults: Settings) -> list[str]:
    names = ("resample_rate", "clip_length", "reduce", *sum(MATTERS.values(), ()))
    unsaid = [name for name in names if name in defaults and name not in given]
    values = ", ".join(f"{name}={defaults[name]}" for name in unsaid)
    return [f"the arguments do not say {values}: these defaults are taken"] if unsaid else []


def _groups(given: Settings, label_file: str | None, where: str) -> list[list[str]]:
    if label_file is not None:
        return read_label_file(label_file)[0]
    names = [str(name).strip() for name in given.get("target_labels") or []]
    groups = given.get("label_groups")
    sizes = given.get("n_class")
    if groups and all(isinstance(group, list | tuple) for group in groups):
        return [[str(name).strip() for name in group] for group in groups]
    if names and isinstance(sizes, list | tuple) and sum(sizes) == len(names):
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [names[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    if names and sizes in (None, len(names)):
        return [names]
    raise ConfigError(
        "the arguments do not name the labels", where=where, fix="--labels label.txt names them"
    )


def _check(run: LegacyRun, where: str) -> None:
    settings = run.settings
    if run.system == "000" and not settings["dataset_std"]:
        raise ConfigError(
            "dataset_std is 0, and 000 divides by it: what such a model was given is infinite, so "
            "its weights mean nothing",
            where=where,
            fix="if it was trained with other values, say them: "
            "--set dataset_mean=-4.27 --set dataset_std=4.57",
        )
    if not settings["resample_rate"]:
        raise ConfigError(
            "resample_rate is 0: the recordings kept their own rates",
            where=where,
            fix="say the rate of the training recordings: --set resample_rate=16000",
        )
    choices = {"activation": ("relu",), "scheduler": ("onecycle", None), "loss": ("BCE", "MSE")}
    for name, known in choices.items():
        if settings[name] not in known:
            words = " or ".join(map(str, known))
            raise ConfigError(
                f"there is no {name} {settings[name]!r}", where=where, fix=f"--set {name}={words}"
            )


# --- the recipe ---


def recipe_of(run: LegacyRun, backbone: Settings, heads: Settings, *, scaled: bool) -> Settings:
    """Return the tree of a recipe.

    Args:
        run: What the arguments say.
        backbone: The slot `backbone`.
        heads: The section `heads`.
        scaled: Whether the checkpoint of 001 was given clips of unit variance.
    """
    settings = run.settings
    clip = float(settings["clip_length"]) or None
    tree: Settings = {
        "data": _data(run),
        "audio": {
            "sample_rate": int(settings["resample_rate"]),
            "channel": "sum" if settings["reduce"] else 0,
            "clip_seconds": clip,
            "pad": "mean",
        },
        "augment": _augments(run),
        "frontend": _frontend(run, scaled),
        "backbone": backbone,
        "pooling": settings["pooling_mode"] if run.system == "001" else "mean",
        "heads": heads,
        "loss": settings["loss"].lower(),
        **_optimisation(settings),
        "seed": int(settings["seed"] or 0),
        "plugins": [PLUGIN],
    }
    if settings["mixup"]:
        tree["mix"] = {"kind": "mixup", "p": float(settings["mixup"]), "alpha": 10.0}
    return tree


def _data(run: LegacyRun) -> Settings:
    settings = run.settings
    root = str(settings["prefix"] or ".")
    if settings["bucket_name"]:
        root = f"gs://{settings['bucket_name']}/{root.strip('/')}"
    source = {"kind": "uid_folder", "path": root, "study": settings["study"] or None}
    if settings["data_split_root"]:
        source["table"] = str(settings["data_split_root"])
    names = [name for group in run.groups for name in group]
    task = "regression" if settings["loss"] == "MSE" else "multi"
    target = {"columns": names, "groups": run.groups, "task": task, "missing": "drop"}
    split = "column" if settings["data_split_root"] else "random"
    return {"source": source, "target": target, "split": {"kind": split}}


def _frontend(run: LegacyRun, scaled: bool) -> Settings:
    settings = run.settings
    if run.system == "001":
        return {"kind": "legacy_waveform", "normalize": "clip" if scaled else "none"}
    return {
        "kind": "legacy_fbank",
        "n_mels": int(settings["num_mel_bins"]),
        "frames": int(settings["target_length"]),
        "mean": float(settings["dataset_mean"]),
        "std": float(settings["dataset_std"]),
    }


def _augments(run: LegacyRun) -> list[Settings]:
    settings = run.settings
    silent = [name for name in NEVER_RAN if settings.get(name)]
    if silent:
        run.notes.append(
            f"{', '.join(silent)}: 000 asked for these augmentations and none of them ever ran, so "
            "the recipe has none; docs/coming-from.md names those of harken"
        )
    augments: list[Settings] = []
    widths = {"time": int(settings.get("timem") or 0), "freq": int(settings.get("freqm") or 0)}
    if any(widths.values()):
        augments.append({"kind": "spec_mask", "fill": "zero"})
        for axis, width in widths.items():
            augments[0][f"num_{axis}"] = int(width > 0)
            augments[0] |= {f"{axis}_width": width} if width else {}
    if settings.get("noise"):
        augments.append({"kind": "spec_noise", "max_amplitude": 0.1})
        augments.append({"kind": "spec_roll", "max_shift": 10})
    return augments


def _optimisation(settings: Settings) -> Settings:
    cycles = settings["scheduler"] == "onecycle"
    optimizer = {"kind": settings["optim"]}
    optimizer["lr"] = float(settings["max_lr"] if cycles else settings["learning_rate"])
    if settings["optim"] == "adamw":
        optimizer["weight_decay"] = float(settings["weight_decay"])
    train = {"epochs": int(settings["epochs"]), "batch_size": int(settings["batch_size"])}
    schedule = "onecycle" if cycles else "none"
    return {"optimizer": optimizer, "schedule": schedule, "train": train | {"keep": "last"}}


def check_sizes(run: LegacyRun, shared: int | None, sizes: Sequence[int], where: str) -> None:
    """Refuse heads that are not those which the arguments describe.

    Raises:
        ConfigError: a shared layer is there and was not asked for, or the other way round.
    """
    asked = run.settings["sd_bottleneck"] if run.settings["shared_dense"] else None
    if shared != asked:
        raise ConfigError(
            f"the weights have a shared dense layer of {shared or 'no'} units, and the arguments "
            f"ask for {asked or 'none'}",
            where=where,
            fix=f"--set shared_dense={bool(shared)}"
            + (f" --set sd_bottleneck={shared}" if shared else ""),
        )
    wide = int(run.settings["clf_bottleneck"])
    if set(sizes) != {wide}:
        raise ConfigError(
            f"the heads have bottlenecks of {sizes[0]} and the arguments say {wide}",
            where=where,
            fix=f"--set clf_bottleneck={sizes[0]}",
        )
