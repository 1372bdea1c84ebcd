"""Weights from files for timm networks: timm's own names and torchvision's.

timm's residual networks name their layers as torchvision's do, so that files of either fit.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from harken.errors import ConfigError, RunError, import_extra
from harken.legacy_weights import State, read_state
from harken.storage import local_copy

TORCH_FILES = (".pth", ".pt", ".bin")
"""What `torch.save` writes; read with `weights_only`, so that no code of theirs runs."""


def load_weights(network: nn.Module, path: str) -> None:
    """Load a file of weights into a timm network, key by key.

    The classifier is left out. Position tables are resized by the network's own rule, and a stem
    for colour images is summed over its channels, as timm does.

    Raises:
        ConfigError: the file cannot be read, or has other keys or shapes than the network.
    """
    state = _own_rules(network, _read(path))
    known = network.state_dict()
    odd = [f"{key} missing" for key in known if key not in state]
    odd += [f"{key} unknown" for key in state if key not in known]
    odd += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(known[key].shape)}"
        for key in known
        if key in state and state[key].shape != known[key].shape
    ]
    if odd:
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise ConfigError(
            f"{path} does not fit the network: {'; '.join(odd[:5])}{more}",
            where="backbone.checkpoint",
            fix="give weights of the network that backbone.name names",
        )
    network.load_state_dict(state)


def _read(path: str) -> State:
    copy = local_copy(path)
    if Path(copy).suffix.lower() in TORCH_FILES:
        try:
            return read_state(copy)
        except RunError as error:
            raise ConfigError(
                f"{path} {error.message}", where="backbone.checkpoint", fix=error.fix
            ) from error
    try:
        return dict(load_file(copy))
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} is no readable safetensors file: {error}",
            where="backbone.checkpoint",
            fix="save weights with safetensors.torch.save_file, or name torch's own .pth",
        ) from error


def _own_rules(network: nn.Module, state: State) -> State:
    """Bring foreign weights into the network's own names and shapes."""
    module = import_extra(type(network).__module__, "timm")
    rename = getattr(module, "checkpoint_filter_fn", None)
    if rename is not None:
        state = dict(rename(state, network))
    classifiers = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    roots = tuple(f"{name}." for name in classifiers)
    state = {key: value for key, value in state.items() if not key.startswith(roots)}
    adapt = import_extra("timm.models", "timm").adapt_input_conv
    for key, own in network.state_dict().items():
        theirs = state.get(key, own)
        if own.ndim == 4 and own.shape[1] == 1 and theirs.ndim == 4 and theirs.shape[1] == 3:
            state[key] = adapt(1, theirs)
    return state
