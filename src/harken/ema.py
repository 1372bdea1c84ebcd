"""The exponential moving average of a model's weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from harken.errors import RunError


class Ema:
    """A slowly moving copy of a model, which often generalises better than the model itself.

    After step n (from 0) every parameter moves to `d · average + (1 - d) · parameter`, where
    `d = min(decay, (1 + n) / (10 + n))` lets a young average follow quickly. The running means and
    variances of batch norms are averaged likewise, since they must fit the averaged weights; other
    saved buffers (filter banks, statistics of the data, counters) are copied exactly.

    Args:
        model: The model to follow; the average starts as a copy of it.
        decay: Share of the average that each step keeps, above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._owners = _owners(model)
        self._average = {
            name: value.clone() for name, value in _tensors(model, self._owners).items()
        }
        self._averaged = _averaged_names(model)

    def decay_at(self, step: int) -> float:
        """Return the share that is kept after `step`, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow the model after optimiser step `step`, counted from 0."""
        current = _tensors(model, self._owners)
        averaged = [name for name in current if name in self._averaged]
        copied = [name for name in current if name not in self._averaged]
        torch._foreach_lerp_(
            [self._average[name] for name in averaged],
            [current[name] for name in averaged],
            1 - self.decay_at(step),
        )
        for name in copied:
            self._average[name].copy_(current[name])

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into a model."""
        for name, value in _tensors(model, self._owners).items():
            value.copy_(self._average[name])

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average with a model's values; a second call exchanges them back."""
        for name, value in _tensors(model, self._owners).items():
            kept = value.clone()
            value.copy_(self._average[name])
            self._average[name].copy_(kept)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let a model hold the average inside a `with` block, and its own values after it."""
        self.swap(model)
        try:
            yield
        finally:
            self.swap(model)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average in the form of the model's own state: nothing else is needed."""
        return {name: self._average[owner] for name, owner in self._owners.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved average.

        Raises:
            RunError: it belongs to another model.
        """
        mine = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in state.items()}
        odd = sorted({name for name, _ in mine.items() ^ theirs.items()})
        if odd:
            raise RunError(f"the saved average is of another model: {', '.join(odd[:3])} differ")
        for name, value in self._average.items():
            value.copy_(state[name])


def _owners(model: nn.Module) -> dict[str, str]:
    """Return for every saved name the first name of its tensor: tied weights have several."""
    first: dict[int, str] = {}
    saved = model.state_dict(keep_vars=True)
    return {name: first.setdefault(id(value), name) for name, value in saved.items()}


def _tensors(model: nn.Module, owners: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the model's own parameters and saved buffers by name, each tensor once."""
    saved = model.state_dict()
    return {name: saved[name] for name in dict.fromkeys(owners.values())}


def _averaged_names(model: nn.Module) -> set[str]:
    names = {name for name, value in model.named_parameters() if value.is_floating_point()}
    for prefix, module in model.named_modules():
        if isinstance(module, _NormBase):
            names |= {
                f"{prefix}.{name}" if prefix else name
                for name, value in module.named_buffers(recurse=False)
                if value.is_floating_point()
            }
    return names
