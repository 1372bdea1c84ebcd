"""Checkpoints of `transformers`: a hub id, a local folder or a bucket URL; what is in them.

Nothing is unpickled: weights come from safetensors, or, where a checkpoint has no such file, from
torch files read with `weights_only`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harken.errors import ConfigError, DataError, HarkenError, import_extra
from harken.storage import cache_folder, exists, is_local, join, local_copy, local_path

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WHERE = "backbone.checkpoint"
# Settings of tasks, texts and files, which an encoder does not have.
_FOREIGN = re.compile(
    r"architectures|auto_map|dtype|torch_dtype|transformers_version|_name_or_path|id2label|label2id"
    r"|.*_token_id|.*suppress_tokens|forced_decoder_ids|task_specific_params|.*ctc.*|tdnn_.*"
    r"|xvector_.*|classifier_proj_size|num_negatives|.*codevector.*|.*_loss_weight|use_cache"
    r"|contrastive_.*|gradient_checkpointing|vocab_size|_attn_implementation.*|output_.*states|tokenizer_class"
)


def architecture(checkpoint: str) -> dict[str, Any]:
    """Return a checkpoint's `config.json`, less what says nothing about its encoder.

    Where the checkpoint was trained at another rate than 16 kHz, `sampling_rate` is added.

    Raises:
        ConfigError: there is no such checkpoint, or the hub does not answer.
    """
    settings = _read_json(checkpoint, "config.json", required=True)
    if not isinstance(settings.get("model_type"), str):
        raise ConfigError(
            "its config.json has no model_type",
            where=f"{_WHERE} {checkpoint}",
            fix="give a checkpoint that transformers has saved",
        )
    kept = {key: value for key, value in settings.items() if not _FOREIGN.fullmatch(key)}
    rate = preprocessor(checkpoint).get("sampling_rate", 16000)
    return kept if rate == 16000 else {**kept, "sampling_rate": rate}


def preprocessor(checkpoint: str) -> dict[str, Any]:
    """Return a checkpoint's `preprocessor_config.json`, or nothing if it has none."""
    return _read_json(checkpoint, "preprocessor_config.json", required=False)


def load_network(name: str, config: Any, checkpoint: str, *, within: str = "") -> Any:
    """Load a model's weights, in float32.

    Args:
        name: Its class in `transformers`.
        config: Its config, which may leave out the checkpoint's upper layers.
        checkpoint: Where the weights are.
        within: Part of the model whose weights must all be there; others may be missing.

    Raises:
        ConfigError: the checkpoint lacks some weights, or they have other shapes.
    """
    transformers = import_extra("transformers", "hf")
    source = checkpoint if _is_hub_id(checkpoint) else str(_folder(checkpoint))
    try:
        with quiet():
            network, report = getattr(transformers, name).from_pretrained(
                source,
                config=config,
                dtype="float32",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=not _is_hub_id(checkpoint),
            )
    except HarkenError:
        raise
    except Exception as error:
        raise _unreadable(checkpoint, error) from error
    # A vector for masked frames may be wanted here and not have been there, when it was not used.
    wrong = [f"{key[0]} has another shape" for key in report["mismatched_keys"]]
    wrong += [
        f"{key} is missing"
        for key in sorted(report["missing_keys"])
        if key.startswith(within) and not key.endswith("masked_spec_embed")
    ]
    wrong = [text for text in wrong if text.startswith(within)]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(
            f"the weights do not fit the encoder: {'; '.join(wrong[:3])}{more}",
            where=f"{_WHERE} {checkpoint}",
            fix="leave backbone.config out, or give the checkpoint that it describes",
        )
    return network


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and tables of unused weights off the screen."""
    logging = import_extra("transformers", "hf").utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _read_json(checkpoint: str, name: str, *, required: bool) -> dict[str, Any]:
    path = _file(checkpoint, name, required=required)
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot be read: {error}", where=f"{_WHERE} {checkpoint}"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{name} holds no settings", where=f"{_WHERE} {checkpoint}")
    return content


def _file(checkpoint: str, name: str, *, required: bool) -> Path | None:
    """Return a file of a checkpoint on this machine, or None where it may be missing."""
    if _is_hub_id(checkpoint):
        return _hub_file(checkpoint, name, required=required)
    url = join(checkpoint, name)
    if exists(url):
        return local_copy(url)
    if not required:
        return None
    what = f"this folder has no {name}" if exists(checkpoint) else "there is no such folder"
    raise ConfigError(
        what,
        where=f"{_WHERE} {checkpoint}",
        fix="give a folder with config.json and model.safetensors, as transformers saves it, or "
        "a hub id such as facebook/wav2vec2-base-960h",
    )


def _is_hub_id(checkpoint: str) -> bool:
    """Whether this is a name of the hub and not a folder or a URL."""
    if not is_local(checkpoint) or local_path(checkpoint).exists():
        return False
    return _HUB_ID.fullmatch(checkpoint) is not None


def _hub_file(checkpoint: str, name: str, *, required: bool) -> Path | None:
    hub = import_extra("transformers.utils.hub", "hf")
    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": required}
    try:
        with quiet():
            kept = hub.try_to_load_from_cache(checkpoint, name)
            if isinstance(kept, str):
                return Path(kept)
            _refuse_silence(checkpoint)
            found = hub.cached_file(checkpoint, name, **options)
    except OSError as error:
        if not required and isinstance(error, FileNotFoundError):
            return None
        raise _unreachable(checkpoint, error) from error
    return None if found is None else Path(found)


def _refuse_silence(checkpoint: str) -> None:
    """Give up at once where the hub has no address; its own client tries for half a minute."""
    constants = import_extra("huggingface_hub.constants", "hf")
    proxies = any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"))
    if constants.HF_HUB_OFFLINE or proxies:
        return
    host = constants.ENDPOINT.partition("://")[2].partition("/")[0].partition(":")[0]
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise _unreachable(checkpoint, error) from error


def _unreachable(checkpoint: str, error: Exception) -> ConfigError:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return ConfigError(
        f"there is no folder of that name here, and the hub did not give the checkpoint: {reason}",
        where=f"{_WHERE} {checkpoint}",
        fix=f"where there is internet: hf download {checkpoint} --local-dir FOLDER; then "
        "backbone.checkpoint=FOLDER",
    )


def _unreadable(checkpoint: str, error: Exception) -> ConfigError:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    if _is_hub_id(checkpoint):
        return _unreachable(checkpoint, error)
    if not exists(checkpoint):
        reason = "there is no such folder"
    return ConfigError(
        f"its weights cannot be read: {reason}",
        where=f"{_WHERE} {checkpoint}",
        fix="the folder needs model.safetensors, as transformers saves it",
    )


def _folder(checkpoint: str) -> Path:
    """Return a local folder with the checkpoint's weights; a bucket's are downloaded once."""
    if is_local(checkpoint):
        return local_path(checkpoint)
    names = [name for name in _WEIGHTS if exists(join(checkpoint, name))][:1]
    if not names:
        raise ConfigError(
            f"this folder has neither {' nor '.join(_WEIGHTS)}",
            where=f"{_WHERE} {checkpoint}",
            fix="save the model with transformers' save_pretrained",
        )
    if names[0].endswith(".index.json"):
        index = _read_json(checkpoint, names[0], required=True)
        names += sorted(set(index.get("weight_map", {}).values()))
    try:
        copies = {name: local_copy(join(checkpoint, name)) for name in ("config.json", *names)}
    except DataError as error:
        raise ConfigError(error.message, where=error.where, fix=error.fix) from error
    return _gathered(copies)


def _gathered(copies: dict[str, Path]) -> Path:
    """Return a folder of the cache in which these files lie side by side."""
    key = "\n".join(f"{name} {path}" for name, path in sorted(copies.items()))
    digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "checkpoints" / digest
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    for name, path in copies.items():
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copy2(path, target)
    try:
        fresh.rename(folder)
    except OSError:
        # Another process was faster; its folder holds the same files.
        shutil.rmtree(fresh, ignore_errors=True)
    return folder
