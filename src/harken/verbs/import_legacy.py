"""`harken import-legacy`: models of the systems 000 and 001 become run folders.

The network is built anew from the arguments, every weight finds its place or is named, and before
anything is written the embedding is compared with that of the library's own model.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harken import storage
from harken.backbones.pretrained import architecture, preprocessor
from harken.checkpoint import RunFolder, load_strictly
from harken.environment import environment
from harken.errors import ConfigError, RunError, import_extra
from harken.labels import Labels
from harken.legacy_settings import LegacyRun, Settings, check_sizes, read_settings, recipe_of
from harken.legacy_weights import (
    DEAD,
    HeadParts,
    Layer,
    State,
    find_prefix,
    fold_shared,
    head_weights,
    read_state,
    split_heads,
    take,
)
from harken.model import Classifier, without_weights
from harken.plain_pickle import loads_plain, read_plain
from harken.predictor import new_classifier
from harken.recipe import Recipe, dump_recipe, validate
from harken.seeds import seed_torch
from harken.storage import Location

TOLERANCE = 1e-4
"""Largest difference of embeddings, relative to the largest value."""
BASE_NAMES = ("wav2vec2-base", "wav2vec2-base-960h")
"""Checkpoints whose settings are the defaults of `transformers.Wav2Vec2Config`."""
LAST_LAYER = -1
POOLED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda states: states.mean(1),
    "sum": lambda states: states.sum(1),
    "max": lambda states: states.amax(1),
}


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        run: The run folder.
        notes: What a person should know, such as weights that were left out.
    """

    run: RunFolder
    notes: list[str]


def import_legacy(
    weights: Location,
    arguments: Location,
    out: Location,
    *,
    labels: str | None = None,
    checkpoint: Location | None = None,
    over: Mapping[str, Any] | None = None,
    shared_activation: Literal["relu", "none"] = "relu",
    overwrite: bool = False,
) -> Imported:
    """Turn a model of 000 or 001 into a run folder without training state.

    Args:
        weights: The state dict (`…_mdl.pt`).
        arguments: The arguments (`args.pkl`), read without running anything in them.
        out: The run folder to make.
        labels: A label file; None takes the labels that the arguments name.
        checkpoint: 001: the folder of the encoder's checkpoint, for its `config.json`.
        over: Arguments that replace those of `arguments`.
        shared_activation: What follows the shared dense layer; early versions of 000 had nothing.
        overwrite: Replace the run in `out`.

    Raises:
        HarkenError: a file cannot be read, or weights, arguments and labels do not fit together.
    """
    state = read_state(storage.local_copy(weights), str(weights))
    legacy = read_settings(_arguments(arguments), over or {}, labels, str(arguments))
    backbone = _timm(legacy) if legacy.system == "000" else _speech(legacy, checkpoint)
    recipe = _recipe(legacy, backbone, {})
    found = _placed(recipe, legacy, state, str(weights))
    shared, heads = split_heads(state, [len(group) for group in legacy.groups], str(weights))
    check_sizes(legacy, _width(shared), [len(h.first.bias) for h in heads], str(arguments))
    if shared is not None:
        legacy.notes.append(_on_shared(shared.name, shared_activation))
    if shared is not None and shared_activation == "none":
        heads = [fold_shared(shared, head) for head in heads]
        shared = None
    recipe = _recipe(legacy, backbone, _heads(legacy, shared, heads))
    model = new_classifier(recipe, _labels(recipe, legacy), fetch=False).eval()
    _fill(model, found | head_weights(shared, heads), str(weights))
    verify(model, recipe, legacy, found, str(weights))
    run = _write(
        out, recipe, model, legacy, {"weights": weights, "arguments": arguments}, overwrite
    )
    return Imported(run, legacy.notes)


def _arguments(location: Location) -> Any:
    if storage.is_local(location):
        return read_plain(storage.local_path(location))
    return loads_plain(storage.read_bytes(location), str(location))


def _width(shared: Layer | None) -> int | None:
    return None if shared is None else len(shared.bias)


def _heads(legacy: LegacyRun, shared: Layer | None, heads: list[HeadParts]) -> Settings:
    return {
        "shared": _width(shared),
        "bottleneck": len(heads[0].first.bias),
        "layer_norm": heads[0].norm is not None,
        "dropout": float(legacy.settings["final_dropout"]),
    }


def _on_shared(name: str, activation: str) -> str:
    if activation == "none":
        return f"the shared dense layer {name} has no activation; it is part of each head now"
    return (
        f"the shared dense layer {name} is followed by a ReLU, as in the last version of both "
        "systems; early versions of 000 had none: --shared-activation none"
    )


# --- the backbone ---


def _timm(legacy: LegacyRun) -> Settings:
    return {"kind": "timm", "name": str(legacy.settings["model_type"])}


def _speech(legacy: LegacyRun, checkpoint: Location | None) -> Settings:
    settings = legacy.settings
    config, settings["scaled"] = _encoder_settings(legacy, checkpoint)
    layer = int(settings["layer"])
    if layer == int(config.get("num_hidden_layers", 12)):
        # The last hidden state was what the encoder returns, norm included.
        layer = LAST_LAYER
    return {
        "kind": "speech",
        "config": config,
        "layer": LAST_LAYER if settings["weighted"] else layer,
        "weighted": "raw" if settings["weighted"] else "none",
        "freeze": "all" if settings["freeze"] else "none",
    }


def _encoder_settings(legacy: LegacyRun, checkpoint: Location | None) -> tuple[Settings, bool]:
    """Return the encoder's architecture, and whether it was given clips of unit variance."""
    named = str(legacy.settings["checkpoint"])
    source = str(checkpoint) if checkpoint is not None else named
    base = named.rstrip("/").rpartition("/")[2]
    if checkpoint is None and not storage.is_file(storage.join(named, "config.json")):
        if base not in BASE_NAMES:
            raise ConfigError(
                f"there is no checkpoint {named}, whose config.json says how the encoder is built",
                where="--checkpoint",
                fix="--checkpoint FOLDER names the folder of the pretrained encoder",
            )
        legacy.notes.append(f"{named} is not here: the published settings of {base} are taken")
        return _published_settings(), True
    legacy.notes.append(f"the encoder's settings are those of {source}")
    return architecture(source), bool(preprocessor(source).get("do_normalize", True))


def _published_settings() -> Settings:
    transformers = import_extra("transformers", "hf")
    with tempfile.TemporaryDirectory() as folder:
        transformers.Wav2Vec2Config().save_pretrained(folder)
        return architecture(folder)


def _recipe(legacy: LegacyRun, backbone: Settings, heads: Settings) -> Recipe:
    tree = recipe_of(legacy, backbone, heads, scaled=bool(legacy.settings.get("scaled", True)))
    return validate(tree, where="the imported recipe")


def _labels(recipe: Recipe, legacy: LegacyRun) -> Labels:
    names = tuple(name for group in legacy.groups for name in group)
    assert recipe.data.target is not None
    task = recipe.data.target.task or "multi"
    return Labels(task, names, names, groups=tuple(map(tuple, legacy.groups)), missing="drop")


def _placed(recipe: Recipe, legacy: LegacyRun, state: State, where: str) -> State:
    """Move the backbone's weights out of the state dict, and name what is dead in it."""
    known = _backbone_shapes(recipe)
    inner = {key.partition("network.")[2]: key for key in known if "network." in key}
    prefix = find_prefix(state, list(inner), where)
    if legacy.system == "000":
        _transpose(state, prefix)
    shapes = {key: known[ours] for key, ours in inner.items()}
    taken = take(state, prefix, shapes, where)
    found = {f"backbone.{inner[key]}": value for key, value in taken.items()}
    if legacy.system == "001":
        found |= _layer_weights(known, state, where)
        _leave_out_dead(legacy, state, prefix)
    return found


def _backbone_shapes(recipe: Recipe) -> dict[str, torch.Size]:
    assert recipe.frontend is not None
    front = recipe.frontend.build(recipe.audio.sample_rate, recipe.audio.clip_samples)
    module = without_weights(recipe.backbone).build(front.spec)
    return {key: value.shape for key, value in module.state_dict().items()}


def _transpose(state: State, prefix: str) -> None:
    """Turn convolutions over (time, mel) into convolutions over (mel, time)."""
    for key, value in state.items():
        if key.startswith(prefix) and value.ndim == 4:
            state[key] = value.transpose(2, 3).contiguous()


def _layer_weights(known: Mapping[str, torch.Size], state: State, where: str) -> State:
    """Take the learned sum over layers, the only vector without a layer around it."""
    ours = [key for key in known if key.endswith("scores")]
    bare = [key for key, value in state.items() if "." not in key and value.ndim == 1]
    if not ours and not bare:
        return {}
    if len(ours) != len(bare) or known[ours[0]] != state[bare[0]].shape:
        sizes = ", ".join(f"{key} {tuple(state[key].shape)}" for key in bare) or "none"
        raise RunError(
            f"the arguments {'ask' if ours else 'do not ask'} for a weighted sum over layers, and "
            f"the weights have {sizes}",
            where=where,
            fix=f"--set weighted={bool(bare)}",
        )
    return {f"backbone.{ours[0]}": state.pop(bare[0])}


def _leave_out_dead(legacy: LegacyRun, state: State, prefix: str) -> None:
    """Drop what the old model carried and never used: its task heads, and the layers above."""
    parent = prefix.rstrip(".").rpartition(".")[0]
    roots = tuple(f"{parent}.{name}" if parent else name for name in DEAD) if prefix else ()
    dead = [key for key in state if key.startswith(roots)]
    dead += [key for key in state if key == f"{prefix}masked_spec_embed"]
    above = [key for key in state if _is_above(key.removeprefix(prefix), legacy.settings)]
    for key in dead + above:
        del state[key]
    if dead:
        legacy.notes.append(f"left out, for 001 never used them: {', '.join(dead)}")
    if above:
        legacy.notes.append(
            f"left out, for nothing reads them with layer={legacy.settings['layer']}: the "
            f"{len(above)} weights above it ({above[0]} …)"
        )


def _is_above(key: str, settings: Settings) -> bool:
    layer = int(settings["layer"])
    if settings["weighted"] or layer < 0:
        return False
    block = re.match(r"encoder\.layers\.(\d+)\.", key)
    return key.startswith("encoder.layer_norm.") or (block is not None and int(block[1]) >= layer)


# --- filling, verifying, writing ---


def _fill(model: Classifier, weights: State, where: str) -> None:
    own = model.state_dict()
    buffers = {key: value for key, value in own.items() if key.startswith("frontend.")}
    load_strictly(
        model,
        buffers
        | {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in weights.items()},
        where,
    )


def verify(model: Classifier, recipe: Recipe, legacy: LegacyRun, found: State, where: str) -> None:
    """Compare the embedding of noise with that of the library's own model and the same weights.

    Raises:
        RunError: they differ, so the network cannot be carried over.
    """
    seed_torch(recipe.seed, "import-legacy")
    frames = model.frontend.spec.max_frames or recipe.audio.sample_rate
    bins = model.frontend.spec.dim
    reference = _timm_embedding if legacy.system == "000" else _speech_embedding
    features = torch.randn(1, bins, frames) if legacy.system == "000" else torch.randn(1, frames)
    with torch.inference_mode():
        lengths = torch.tensor([frames])
        mine = model.classify(features, lengths).embedding
        theirs = reference(recipe, legacy, found, features)
    apart = float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
    if not apart <= TOLERANCE:
        raise RunError(
            f"the network is another one here: its embedding differs by {apart:.1e} from that of "
            f"{legacy.settings.get('model_type') or legacy.settings['checkpoint']}",
            where=where,
            fix="networks that transform after pooling (such as mobilenetv3) cannot be imported",
        )


def _timm_embedding(recipe: Recipe, legacy: LegacyRun, found: State, features: Tensor) -> Tensor:
    timm = import_extra("timm", "timm")
    network = timm.create_model(str(legacy.settings["model_type"]), pretrained=False, in_chans=1)
    classifier = network.default_cfg["classifier"]
    if not isinstance(classifier, str) or classifier not in dict(network.named_children()):
        raise ConfigError(
            f"000 cannot have trained {legacy.settings['model_type']}: its classifier is no layer "
            "of its own at the top"
        )
    setattr(network, classifier, nn.Identity())
    inner = {key.partition("network.")[2]: value for key, value in found.items()}
    network.load_state_dict({key: _upright(value) for key, value in inner.items()})
    embedding: Tensor = network.eval()(features.transpose(1, 2)[:, None])
    return embedding


def _upright(value: Tensor) -> Tensor:
    return value.transpose(2, 3) if value.ndim == 4 else value


def _speech_embedding(recipe: Recipe, legacy: LegacyRun, found: State, wave: Tensor) -> Tensor:
    transformers = import_extra("transformers", "hf")
    config = transformers.AutoConfig.for_model(**recipe.backbone.model_dump()["config"])
    network = transformers.AutoModel.from_config(config).eval()
    inner = {key.partition("network.")[2]: v for key, v in found.items() if "network." in key}
    network.load_state_dict(inner, strict=False)
    output = network(wave, output_hidden_states=True)
    states = (*output.hidden_states[:-1], output.last_hidden_state)
    pooled = torch.stack([POOLED[legacy.settings["pooling_mode"]](state) for state in states], 1)
    weights = [value for key, value in found.items() if key.endswith("scores")]
    if weights:
        return (weights[0][None, :, None] * pooled).sum(1)
    return pooled[:, int(legacy.settings["layer"])]


def _write(
    out: Location,
    recipe: Recipe,
    model: Classifier,
    legacy: LegacyRun,
    files: dict[str, Location],
    overwrite: bool,
) -> RunFolder:
    imported = RunFolder.create(out, overwrite=overwrite)
    imported.write_text("recipe.yaml", dump_recipe(recipe))
    imported.write_json("labels.json", model.labels.to_json())
    told = {
        "system": legacy.system,
        "files": {
            name: {"path": str(path), "sha256": _digest(path)} for name, path in files.items()
        },
        "arguments": {key: _plain(value) for key, value in legacy.settings.items()},
        "notes": legacy.notes,
    }
    imported.write_json("environment.json", environment() | {"imported": told})
    imported.save_weights(model.state_dict())
    return imported


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | list | dict):
        return value
    return str(value)


def _digest(path: Location) -> str:
    with storage.local_copy(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
