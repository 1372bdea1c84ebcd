"""The recipe: one tree of settings, read from YAML files and `a.b.c=value` words.

Files merge left to right, words come last, and the whole is validated once. Rules:

- a later file or word that changes a slot's `kind` drops the slot's other keys;
- a slot is a bare kind (`pooling: mean`) or a mapping that says its `kind`;
- every mistake is reported at once, with its path and the nearest known name;
- nothing is derived before validation, and derived values are never written back.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from harken import storage
from harken.audio import Audio
from harken.augment import Augment, Mix
from harken.backbones import Backbone, CnnBackbone
from harken.by_group import By
from harken.calibrate import Calibrate
from harken.choice import Choice, Config
from harken.conditioning import Condition
from harken.covariates import Covariate
from harken.derive import Derive
from harken.difficulty import Difficulty
from harken.errors import ConfigError, DataError
from harken.frontends import Frontend, Normalize
from harken.heads import Heads
from harken.losses import Loss
from harken.manifest import Manifest
from harken.optim import AdamW, Optimizer
from harken.overrides import merge as merge
from harken.overrides import parse_word as parse_word
from harken.pooling import MeanMaxPooling, Pooling
from harken.sam import Sam as Sam
from harken.schedules import Cosine, Schedule
from harken.search import Parameter, Pruner, Sampler, Search, mistakes_in
from harken.sources import Source
from harken.split import RandomSplit, Split
from harken.storage import Location
from harken.target import Target
from harken.threshold_rules import Threshold

SLOTS: dict[str, type[Choice]] = {
    "sources": Source,
    "derivations": Derive,
    "splits": Split,
    "augments": Augment,
    "mixes": Mix,
    "frontends": Frontend,
    "normalizers": Normalize,
    "backbones": Backbone,
    "poolings": Pooling,
    "covariates": Condition,
    "losses": Loss,
    "difficulties": Difficulty,
    "optimizers": Optimizer,
    "schedules": Schedule,
    "thresholds": Threshold,
    "parameters": Parameter,
    "samplers": Sampler,
    "pruners": Pruner,
}
"""Every slot of the recipe under the word that `harken list` knows."""


class Data(Config):
    """Which clips, what is learned from them, and how they are parted."""

    source: Source
    """Where the table of clips comes from."""
    derive: tuple[Derive, ...] = ()
    """Columns to make of others, in order, before the labels are learned."""
    target: Target | None = None
    """What is learned: a column name, a list of them, or a mapping; null takes the source's own."""
    split: Split = RandomSplit()
    """How clips become train, valid and test."""
    on_bad_audio: Literal["stop", "skip"] = "stop"
    """`stop` at the first unusable recording, or `skip` it and list it in `quarantine.json`."""
    cache: str | None = None
    """Folder of decoded audio, on this machine; null takes the user's cache folder."""
    cache_gigabytes: float = Field(50.0, gt=0)
    """Bound of that folder; the least recently used recordings make room."""

    @field_validator("cache")
    @classmethod
    def _is_local(cls, cache: str | None) -> str | None:
        if cache is not None and not storage.is_local(cache):
            raise ValueError(f"decoded audio is kept on this machine: a folder, not {cache}")
        return cache


class Train(Config):
    """The training loop."""

    epochs: int = Field(40, ge=1)
    """Passes over the training clips."""
    batch_size: int = Field(32, ge=1)
    """Clips per forward pass."""
    accumulate: int = Field(1, ge=1)
    """Forward passes per optimiser step."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient; null does not clip."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` trains under autocast; evaluation is always fp32."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which is what is kept."""
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """`balanced` draws clips so that every class is seen equally often."""
    epoch_clips: int | None = Field(None, ge=1)
    """Clips of an epoch, for data too large to see whole each time; epochs go on where the last one
    ended. Null is as many as there are."""
    monitor: str | None = None
    """Validation metric (or `loss`) that chooses the best epoch; null takes the task's own."""
    mode: Literal["max", "min"] | None = None
    """Whether more or less of it is better; null knows it from the metric."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights the run keeps."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many epochs without improvement; null never does."""
    min_delta: float = Field(0.0, ge=0)
    """Smallest change that counts as improvement."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; `auto` takes the fastest there is."""
    checkpoint_minutes: float = Field(10.0, gt=0)
    """Longest time between two saved states; each epoch's end saves one too."""
    memory_gigabytes: float = Field(4.0, ge=0)
    """Memory for the features of training clips whose waveforms nothing changes, so that they are
    computed once; 0 computes them in every epoch."""
    tensorboard: bool = False
    """Also write TensorBoard event files to `tensorboard/` in the run folder."""


class Evaluate(Config):
    """The numbers after training."""

    num_resamples: int = Field(1000, ge=0)
    """Bootstrap resamples behind each interval; 0 gives none."""
    by: tuple[By, ...] = ()
    """Columns whose subgroups are measured one by one, such as `[age, word, sex]`; numbers of many
    values want bins: `{column: age, bins: [0, 4, 7, 99]}`."""
    vote: str | None = None
    """Column of speakers, such as `group`: each is decided once, by the mean score of all their
    clips, and measured beside the clips."""

    @field_validator("by", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Mapping) else value

    @model_validator(mode="after")
    def _names_each_column_once(self) -> Evaluate:
        columns = [by.column for by in self.by]
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise ValueError(f"by names the column {twice[0]} twice")
        return self

    def check(self, clips: Manifest) -> None:
        """Refuse columns that cannot be used, before anything is trained.

        Raises:
            DataError: a column is missing, or a cell of it cannot be used.
        """
        for by in self.by:
            by.check(clips.frame, clips.origin)
        if self.vote is not None:
            clips.column(self.vote)


class Recipe(Config):
    """Everything that decides what a run does."""

    data: Data
    """Clips, target and split."""
    audio: Audio = Audio()
    """Decoding, length and padding."""
    augment: tuple[Augment, ...] = ()
    """Changes of training clips, in order."""
    mix: Mix | None = None
    """Blending of training clips."""
    frontend: Frontend | None = None
    """From waveform to features; null takes the one that the backbone is made for."""
    backbone: Backbone = CnnBackbone()
    """From features to hidden states."""
    pooling: Pooling = MeanMaxPooling()
    """From hidden states to one embedding."""
    heads: Heads = Heads()
    """From embedding to logits."""
    covariates: tuple[Condition, ...] = ()
    """How side information about clips, such as age or word, enters the network."""
    loss: Loss | None = None
    """What is minimised; null takes cross_entropy, bce or mse as the task asks."""
    optimizer: Optimizer = AdamW()
    """How weights move."""
    schedule: Schedule = Cosine()
    """How the learning rate changes."""
    train: Train = Train()
    """The training loop."""
    calibrate: Calibrate = Calibrate()
    """Temperature and thresholds, fitted on validation clips."""
    evaluate: Evaluate = Evaluate()
    """The numbers after training."""
    search: Search | None = None
    """Settings that `harken tune` tries; null: it has nothing to do."""
    seed: int = Field(0, ge=0)
    """Root of all random draws."""
    plugins: tuple[str, ...] = ()
    """Python modules or files with components of your own, imported before validation."""

    @model_validator(mode="after")
    def _can_be_searched(self) -> Recipe:
        if self.search is None:
            return self
        tree = self.model_dump(mode="json", exclude={"search"})
        mistakes = mistakes_in(self.search, tree, lambda t: Recipe.model_validate(t).model_dump())
        if mistakes:
            details = [
                InitErrorDetails(
                    type=PydanticCustomError("harken", "{text}", {"text": text}),
                    loc=("search", *where),
                    input=None,
                )
                for where, text in mistakes
            ]
            raise ValidationError.from_exception_data("search", details)
        return self

    def side_information(self) -> tuple[Covariate, ...]:
        """Return every column of side information that some part reads."""
        entering = tuple(condition.covariate for condition in self.covariates)
        parting = self.heads.covariates()
        return entering + parting + (self.loss.covariates() if self.loss is not None else ())

    def resolved(self) -> Recipe:
        """Return the recipe with what it refers to read in, so that it stands by itself.

        Raises:
            ConfigError: a checkpoint that it names is not there.
            DataError: its label file cannot be used.
        """
        backbone = self.backbone.resolved()
        frontend = (self.frontend or backbone.default_frontend()).resolved()
        target = self.data.target and self.data.target.resolved()
        data = self.data.model_copy(update={"target": target})
        loss = self.loss and self.loss.resolved()
        resolved = {"data": data, "backbone": backbone, "frontend": frontend, "loss": loss}
        return self.model_copy(update={**resolved, "calibrate": self.calibrate.resolved()})


def read_recipe(files: Sequence[Location], words: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        files: YAML files (paths or URLs), later ones over earlier ones.
        words: Overrides such as `train.epochs=5` or `--train.epochs=5`.

    Raises:
        ConfigError: naming every mistake at once.
    """
    # A word such as --epochs is told before the 5 that follows it is looked for as a file.
    laid_over = [parse_word(word) for word in words]
    tree: dict[str, Any] = {}
    for over in [*map(_read_yaml, files), *laid_over]:
        tree = merge(tree, over)
    return validate(tree, where=", ".join(map(str, files)) or "recipe")


def validate(tree: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Import the plug-ins that a plain tree names, then validate it whole."""
    plugins = tree.get("plugins") or []
    for name in plugins if isinstance(plugins, list) else [plugins]:
        import_plugin(str(name))
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _all_mistakes(error, where) from None


def _all_mistakes(error: ValidationError, where: str) -> ConfigError:
    lines = [
        f"{'.'.join(map(str, line['loc'])) or 'recipe'}: {line['msg']}"
        for line in error.errors(include_url=False)
    ]
    if len(lines) == 1:
        return ConfigError(lines[0], where=where)
    return ConfigError("\n  ".join([f"{len(lines)} mistakes", *lines]), where=where)


def dump_recipe(recipe: Recipe) -> str:
    """Return the whole resolved recipe as YAML; `read_recipe` of it gives an equal recipe."""
    tree = recipe.model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None)


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, for editors."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _StrictLoader(yaml.SafeLoader):
    """Refuses a mapping that says one key twice, where YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key must be a word"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Location) -> dict[str, Any]:
    try:
        text = storage.read_bytes(file).decode("utf-8-sig")
    except DataError as error:
        text = f"cannot read the recipe: {error.message}"
        if not storage.exists(file):
            text = "there is no such recipe"
        raise ConfigError(text, where=str(file), fix=error.fix) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe: {error}", where=str(file)) from None
    try:
        tree = _StrictLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not YAML: {error.problem}", where=f"{file}:{line}") from None
    except (yaml.YAMLError, ValueError) as error:  # a control character; a date that is none
        reason = str(error).replace("\n", "")
        raise ConfigError(f"not YAML: {reason}", where=str(file)) from None
    if not isinstance(tree, dict):
        raise ConfigError("a recipe is a mapping such as `data: {…}`", where=str(file))
    return tree


def import_plugin(name: str) -> None:
    """Import a user's module, given as `package.module` or as the path or URL of a `.py` file.

    Raises:
        ConfigError: there is no such module or file.
    """
    try:
        if name.endswith(".py"):
            _import_file(name)
        else:
            importlib.import_module(name)
    except (ImportError, FileNotFoundError, DataError) as error:
        raise ConfigError(f"cannot import the plug-in: {error}", where=f"plugins: {name}") from None


def _import_file(file: str) -> None:
    path = storage.local_copy(file)
    name = f"harken_plugin_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path.resolve()):
        return
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
