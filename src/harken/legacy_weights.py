"""State dicts of foreign classifiers, taken apart: backbone, shared dense layer, heads, the rest.

Names of heads differ between versions, so they are told by their shapes and their order. Nothing is
left out in silence: what has no place is an error, or is named as ignored where it is known to be
dead.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harken.errors import RunError

State = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which some trainers save the state dict."""
OLD_NAMES = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
"""Torch's former and present names of a weight norm's two factors."""
DEAD = ("projector.", "classifier.", "layer_weights", "lm_head.")
"""What a task class of `transformers` has beside its encoder; 001 never used it."""


@dataclass(frozen=True)
class Layer:
    """A linear layer or a layer norm: its name in the state dict, weight and bias."""

    name: str
    weight: Tensor
    bias: Tensor

    @property
    def is_linear(self) -> bool:
        """Whether it is no layer norm."""
        return self.weight.ndim == 2


@dataclass(frozen=True)
class HeadParts:
    """One classifier: bottleneck, layer norm or None, and last layer."""

    first: Layer
    norm: Layer | None
    last: Layer


def read_state(path: str | Path, where: str | None = None) -> State:
    """Read a state dict that `torch.save` wrote, zipped or not, without running any code of it.

    Args:
        path: The file.
        where: What errors call it; None is the path.

    Raises:
        RunError: there is none, or it holds more than tensors.
    """
    where = where or str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError("there is no such file", where=where) from None
    except Exception as error:  # the unpickler's error class may not be named without pickle
        # torch's own text begins with the advice to load the file unsafely.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it asks for {asked[1]}" if asked else "it is damaged, or no file of torch.save"
        raise RunError(
            f"cannot be read as weights: {what}",
            where=where,
            fix="save the state dict: torch.save(model.state_dict(), path)",
        ) from None
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    good = isinstance(found, Mapping) and all(isinstance(v, Tensor) for v in found.values())
    if not good or not found:
        raise RunError("is no state dict: a mapping of names to tensors", where=where)
    return _renamed({str(name): value for name, value in found.items()})


def _renamed(state: State) -> State:
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for old, new in OLD_NAMES.items():
        state = {_swap(name, old, new): value for name, value in state.items()}
    return state


def _swap(name: str, old: str, new: str) -> str:
    return name.removesuffix(old) + new if name.endswith(old) else name


def find_prefix(state: Mapping[str, Tensor], known: Sequence[str], where: str) -> str:
    """Return what stands before a backbone's own names in a state dict, such as `model.`.

    Raises:
        RunError: no part of the state dict has such names.
    """
    prefixes = {
        name[: len(name) - len(key)]
        for key in known
        for name in state
        if name.endswith(key) and (len(name) == len(key) or name[-len(key) - 1] == ".")
    }
    names = set(state)
    counts = {prefix: sum(prefix + key in names for key in known) for prefix in prefixes}
    best = max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")
    if not counts or counts[best] < len(known) / 2:
        raise RunError(
            f"these are weights of another network: of its {len(known)} weights "
            f"{counts.get(best, 0)} are there ({', '.join(list(state)[:3])} …)",
            where=where,
            fix="check which network the arguments name",
        )
    return best


def take(state: State, prefix: str, known: Mapping[str, torch.Size], where: str) -> State:
    """Move a backbone's weights out of a state dict, under their own names.

    Raises:
        RunError: one is missing or has another shape; the first few are named.
    """
    odd = [f"{prefix}{key} is missing" for key in known if prefix + key not in state]
    odd += [
        f"{prefix}{key} is {tuple(state[prefix + key].shape)}, not {tuple(shape)}"
        for key, shape in known.items()
        if prefix + key in state and state[prefix + key].shape != shape
    ]
    if odd:
        more = f"; and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise RunError(f"the weights do not fit: {'; '.join(odd[:5])}{more}", where=where)
    return {key: state.pop(prefix + key) for key in known}


def split_heads(
    state: State, sizes: Sequence[int], where: str
) -> tuple[Layer | None, list[HeadParts]]:
    """Find the shared dense layer, if any, and one head per classifier in what remains.

    Args:
        state: Linear layers and layer norms, in the order in which the model holds them.
        sizes: Labels of each classifier.
        where: The file, for errors.

    Raises:
        RunError: the layers do not form such heads; all of them are listed.
    """
    layers = _layers(state, where)
    linears = [index for index, layer in enumerate(layers) if layer.is_linear]
    shared = [None, *linears] if len(linears) % 2 == 0 else linears
    for index in shared:
        rest = [layer for place, layer in enumerate(layers) if place != index]
        heads = _pairs(rest)
        dense = None if index is None else layers[index]
        if heads is not None and _fits(dense, heads, sizes):
            return dense, heads
    listed = ", ".join(f"{layer.name} {tuple(layer.weight.shape)}" for layer in layers)
    wanted = " + ".join(map(str, sizes))
    raise RunError(
        f"the layers beside the backbone form no heads for {wanted} labels: {listed or 'none'}",
        where=where,
        fix="check the label file: a line is a classifier, commas part its labels",
    )


def _layers(state: State, where: str) -> list[Layer]:
    grouped: dict[str, State] = {}
    for name, value in state.items():
        module, _, part = name.rpartition(".")
        grouped.setdefault(module, {})[part] = value
    odd = [
        f"{n}.{p}".lstrip(".")
        for n, parts in grouped.items()
        for p in parts
        if not _is_layer(parts)
    ]
    if odd:
        raise RunError(f"these weights have no place: {', '.join(odd[:10])}", where=where)
    return [Layer(name, parts["weight"], parts["bias"]) for name, parts in grouped.items()]


def _is_layer(parts: State) -> bool:
    if parts.keys() != {"weight", "bias"}:
        return False
    weight, bias = parts["weight"], parts["bias"]
    return weight.ndim in (1, 2) and bias.ndim == 1 and len(weight) == len(bias)


def _pairs(layers: list[Layer]) -> list[HeadParts] | None:
    heads, queue = [], list(layers)
    while queue:
        first = queue.pop(0)
        norm = queue.pop(0) if queue and not queue[0].is_linear else None
        last = queue.pop(0) if queue else None
        if last is None or not first.is_linear or not last.is_linear:
            return None
        heads.append(HeadParts(first, norm, last))
    return heads


def _fits(shared: Layer | None, heads: list[HeadParts], sizes: Sequence[int]) -> bool:
    chained = all(
        head.first.weight.shape[0] == head.last.weight.shape[1]
        and (head.norm is None or len(head.norm.weight) == head.first.weight.shape[0])
        and (shared is None or head.first.weight.shape[1] == shared.weight.shape[0])
        for head in heads
    )
    alike = len({(h.first.weight.shape, h.norm is None) for h in heads}) == 1
    return chained and alike and [len(head.last.bias) for head in heads] == list(sizes)


def head_weights(shared: Layer | None, heads: Sequence[HeadParts]) -> State:
    """Return the weights under the names that `harken.heads` gives them."""
    placed = {} if shared is None else {"shared.0": shared}
    for number, head in enumerate(heads):
        # Linear, [LayerNorm], activation, dropout, Linear: see harken.heads.
        parts = [head.first, head.norm, None, None, head.last]
        if head.norm is None:
            parts = [head.first, None, None, head.last]
        layers = {f"groups.{number}.{i}": part for i, part in enumerate(parts) if part is not None}
        placed |= layers
    return {
        f"heads.{name}.{part}": getattr(layer, part)
        for name, layer in placed.items()
        for part in ("weight", "bias")
    }


def fold_shared(shared: Layer, head: HeadParts) -> HeadParts:
    """Return a head that does what it does after a shared layer without activation."""
    first = head.first
    weight = first.weight.double() @ shared.weight.double()
    bias = first.weight.double() @ shared.bias.double() + first.bias.double()
    folded = Layer(first.name, weight.to(first.weight.dtype), bias.to(first.bias.dtype))
    return HeadParts(folded, head.norm, head.last)
