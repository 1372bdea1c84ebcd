"""Every option of the earlier systems has a row in the docs, and every row leads somewhere."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from harken.choice import Choice, Config
from harken.cli import app
from harken.frontends import Normalize
from harken.legacy_settings import DEFAULTS
from harken.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "coming-from.md"

COMMON = """
prefix study data_split_root label_txt lib val_size seed bucket_name project_name cloud cloud_dir
dataset exp_dir mode embedding_type pooling_mode shared_dense sd_bottleneck resample_rate reduce
clip_length tshift speed gauss pshift pshiftn gain stretch mixup batch_size num_workers
learning_rate epochs optim weight_decay loss scheduler max_lr activation final_dropout layernorm
clf_bottleneck debug
"""
FLAGS = {
    "000": COMMON
    + """trained_mdl_path model_type dataset_mean dataset_std target_length num_mel_bins freqm timem
    noise cdo shift""",
    "001": COMMON + "checkpoint finetuned_mdl_path weighted layer freeze hp_tuning new_checkpoint",
    "Its split generator": "split_size train_task test_task csv_path existing_spk_split",
}
"""The options of each system's command line; `edit_feats` and those of 002 are no flags."""
GROUPS = {
    "default": """train test checkpoint verbose data_path task seed test_best_model save_name
    result_csv debug""",
    "file": """data_filename splitted_data_files filter_dataset train_filename valid_filename
    test_filename""",
    "wandb": "run_name logging_steps watch",
    "train": """k_fold batch_size epochs model_embedding model_text_embedding model_id_embedding
    dynamic_threshold compute_centroids no_eval save_model optimizer scheduler loss model_name
    multi_label age_lambda acc_thrs gradient_accumulation_steps""",
    "optim": "lr weight_decay momentum",
    "scheduler": "warmup_ratio",
    "cosine": "cycle_mult min_lr gamma first_cycle_steps num_cycles",
    "focal": "alpha focal_gamma",
    "cb": "beta cb_gamma loss_type",
    "model": "pretrained num_freeze",
    "dataset": """data_length word test_size valid_size sampling_rate data_type target no_shuffle
    augmented processor combine_strategy label_smoothing_by_text""",
    "spectrogram": """n_fft n_mels win_length hop_length pad power normalized center onesided
    n_channels""",
    "transforms": "transform time_mask freq_mask age_momentum scaling",
}
"""The options of 003, whose names begin with their group."""
NAMES = {
    "003": " ".join(f"{group}.{name}" for group in GROUPS for name in GROUPS[group].split()),
    "Its losses": """ce mse bce bce_logit focal cb hybrid difficulty anchor balancing cer""",
    "Its job generator": """arg_txt image tune_params layer sd_bottlenecks shared_dense weighted
    all_layers labels cloud_dir config_dir hp_tuning max_trial_count parallel_trial_count
    make_configs run_configs""",
    "004": """seed dataset_ratio validation_ratio n_fft n_mels normalize vocab_size niter
    clustering_batch_size tokenizer_batch_size use_convolution num_kernels kernel_size num_layers
    hidden_size dropout use_precomputed_embeddings batch_size learning_rate epochs
    prediction_threshold""",
}
"""What 003 and 004 call their settings; rows without backticks are settings in the code."""


def sections() -> dict[str, list[list[str]]]:
    """Return the rows of each heading's table, by the heading's first words."""
    found: dict[str, list[list[str]]] = {}
    for block in re.split(r"^##+ ", PAGE.read_text(), flags=re.M)[1:]:
        title = block.partition("\n")[0].partition(":")[0]
        lines = [line for line in block.splitlines() if line.startswith("|")][2:]
        found[title] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {title: rows for title, rows in found.items() if rows}


def targets(title: str) -> Iterator[tuple[str, str, str]]:
    """Yield option, target and note of every row and target."""
    for option, here, note in sections()[title]:
        codes = re.findall(r"`([^`]+)`", here)
        assert codes, f"{option} leads nowhere"
        for code in codes:
            yield option, code, note


@pytest.mark.parametrize("title", FLAGS)
def test_every_flag_has_one_row(title: str) -> None:
    options = [option for option, _, _ in sections()[title] if option.startswith("`--")]
    assert sorted(options) == sorted(f"`--{flag}`" for flag in FLAGS[title].split())


@pytest.mark.parametrize("title", NAMES)
def test_every_setting_has_one_row(title: str) -> None:
    options = [option for option, _, _ in sections()[title] if option.startswith("`")]
    assert sorted(options) == sorted(f"`{name}`" for name in NAMES[title].split())


@pytest.mark.parametrize("system", ["000", "001"])
def test_the_importer_knows_the_same_flags(system: Any) -> None:
    made = {"target_labels", "label_groups", "n_class", "bucket"}
    gone = {"tshift", "speed", "gauss", "pshift", "pshiftn", "gain", "stretch"}
    flags = set(FLAGS[system].split())
    assert set(DEFAULTS[system]) - made == (flags - gone if system == "001" else flags)


def choices_in(annotation: Any) -> Iterator[type[Any]]:
    """Yield the config and slot classes that a field's type mentions."""
    for inner in typing.get_args(annotation) or (annotation,):
        if inner is not annotation:
            yield from choices_in(inner)
        elif inspect.isclass(inner) and issubclass(inner, Config):
            yield inner


def resolve(path: str) -> tuple[type[Any], FieldInfo]:
    """Follow a key through the recipe; a kind's name stands after its slot."""
    words = path.split(".")
    here: type[Any] = Recipe
    if words[0] == "normalize":
        here, words = Normalize.member(words[1]), words[2:]
    field: FieldInfo | None = None
    while words:
        word = words.pop(0)
        assert word in here.model_fields, f"{path}: {here.__name__} has no {word!r}"
        field = here.model_fields[word]
        found = list(choices_in(field.annotation))
        if not found:
            assert not words, f"{path}: {word!r} holds no keys"
            break
        here = found[0]
        if issubclass(here, Choice) and words:
            here = here.member(words.pop(0))
            assert words, f"{path} ends with a kind; write slot=kind"
    assert field is not None
    return here, field


def check_key(code: str) -> None:
    path, _, value = code.partition("=")
    here, field = resolve(path)
    if not value:
        return
    told = yaml.safe_load(value)
    slot = issubclass(here, Choice) and here in list(choices_in(field.annotation))
    if slot and not isinstance(told, dict):
        assert value in here.kinds(), f"{code}: no such kind"
        return
    annotated: Any = typing.Annotated[field.annotation, field]  # type: ignore[name-defined]
    TypeAdapter(annotated).validate_python(told)


def check_command(code: str) -> None:
    command: Any = typer.main.get_command(app)
    words = code.split()[1:]
    names = [word for word in words if not word.startswith("--")]
    for name in names:
        assert name in command.commands, f"{code}: there is no command {name}"
        command = command.commands[name]
    if hasattr(command, "default"):
        command = command.commands[command.default]
    known = {option for parameter in command.params for option in parameter.opts}
    for option in set(words) - set(names):
        assert option in known, f"{code}: {option} is not among {sorted(known)}"


@pytest.mark.parametrize("title", sections())
def test_every_target_exists(title: str) -> None:
    for option, code, note in targets(title):
        if code.startswith("harken "):
            check_command(code)
        elif code == "dropped":
            assert len(note) > 10, f"say why {option} is dropped"
        else:
            check_key(code)


def owners_of(here: str) -> list[str]:
    """Return the configs that a row's targets belong to; `slot=kind` names two of them."""
    owners = [code.rpartition(".")[0] for code in re.findall(r"`([a-z_.]+)(?:=[^`]+)?`", here)]
    owners += [f"{slot}.{kind}" for slot, kind in re.findall(r"`([a-z_.]+)=(\w+)`", here)]
    return [owner for owner in owners if owner]


def test_notes_name_keys_that_exist() -> None:
    """What notes say in backticks, such as `max_shift: 5.0`, belongs to the row's own kind."""
    for title in sections():
        for option, here, note in sections()[title]:
            for name, value in re.findall(r"`(\w+): ([^`]+)`", note):
                owners = owners_of(here)
                errors = []
                for owner in owners:
                    try:
                        check_key(f"{owner}.{name}={value}")
                    except AssertionError as error:
                        errors.append(str(error))
                assert len(errors) < len(owners), f"{option}: {errors}"
            for code in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+(?:=[^`]+)?)`", note):
                if code.split(".")[0] in Recipe.model_fields and not code.endswith(".csv"):
                    check_key(code)


def test_the_checker_itself_finds_mistakes() -> None:
    for wrong in (
        "audio.rate", "augment.pitch.p.q", "augment.pich.p", "schedule=twocycle",
        "augment.pitch", "train.precision=fp8", "train.batch_size=0",
    ):  # fmt: skip
        with pytest.raises(Exception, match=r".+"):
            check_key(wrong)
    for wrong in ("harken evaluat", "harken evaluate --onn", "harken prepare split --train"):
        with pytest.raises(AssertionError):
            check_command(wrong)
