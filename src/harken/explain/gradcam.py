"""`gradcam`: the last map of a network, weighted by what the label gains from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from harken.backbones.backbone import Hidden
from harken.backbones.timm import TimmModule
from harken.explain.attention import is_transformer
from harken.explain.grid import spread, stretch
from harken.explain.method import Explain, Relevance
from harken.explain.subject import Subject
from harken.model import Classifier
from harken.pooling import Cls

Array = npt.NDArray[np.float64]


class GradCam(Explain):
    """Gradient-weighted class activation maps (Selvaraju et al., 2017).

    On a convolutional map the channels are weighted by the mean gradient of the label's evidence
    over the map, and summed. Transformers have no such map: there each token's states are
    multiplied with their own gradients (Draelos & Carin, 2020). Where the class token is all that
    is read, the tokens are those that enter the last attention.
    """

    kind: Literal["gradcam"] = "gradcam"
    signed: bool = False
    """Keep what speaks against the label as negative values, instead of cutting it off at zero."""

    def fits(self, model: Classifier) -> bool:
        """Whether the network has a last map or tokens."""
        if model.frontend.spec.kind == "tokens":
            return False
        if isinstance(model.pooling, Cls):
            return _last_norm(model) is not None
        features = _nothing(model)
        return _num_states(model, features) > 1 or _last_map(model, features) is not None

    def relevance(self, subject: Subject) -> Relevance:
        """Return the map of a clip."""
        model, features = subject.model, subject.features
        if isinstance(model.pooling, Cls):
            values = _of_tokens(subject, _last_norm(model))
        elif _num_states(model, features) > 1:
            values = _of_tokens(subject, None)
        else:
            values = _of_map(subject, _last_map(model, features))
        return Relevance(values if self.signed else np.maximum(values, 0))


def _of_tokens(subject: Subject, norm: nn.Module | None) -> Array:
    """Weigh the states that pooling reads, or those that leave a norm."""
    seen: dict[str, Any] = {}

    def pool(_: nn.Module, arguments: tuple[Hidden]) -> tuple[Hidden]:
        seen["hidden"] = arguments[0]
        if norm is not None:
            return arguments
        # A leaf of its own gets a gradient even where all layers below are frozen.
        seen["states"] = arguments[0].states.detach().requires_grad_()
        return (replace(arguments[0], states=seen["states"]),)

    hooks = [subject.model.pooling.register_forward_pre_hook(pool)]
    if norm is not None:
        hooks.append(norm.register_forward_hook(_catch(seen)))
    slopes = _slopes(subject, seen, hooks)
    hidden, states = seen["hidden"], seen["states"].detach()[0]
    extra = len(states) - hidden.states.shape[1]
    states, slopes = states[extra:], slopes[extra:]
    if not is_transformer(subject.model.backbone):
        slopes = slopes[hidden.mask[0]].mean(0, keepdim=True)
    return spread((states * slopes).sum(-1).double().cpu().numpy(), hidden, subject)


def _of_map(subject: Subject, convolution: nn.Module | None) -> Array:
    """Weigh a convolution's output, for networks that end in a single state."""
    seen: dict[str, Any] = {}
    assert convolution is not None
    slopes = _slopes(subject, seen, [convolution.register_forward_hook(_catch(seen))])
    weights = slopes.mean((1, 2), keepdim=True)
    table = (seen["states"].detach()[0] * weights).sum(0).double().cpu().numpy()
    frames = getattr(subject.model.backbone, "frames", None) or subject.features.shape[-1]
    rows, columns = ((np.arange(n) + 0.5) / n for n in table.shape)
    return stretch(table, (rows * subject.bins, columns * frames), subject)


def _catch(seen: dict[str, Any]) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def leave(_: nn.Module, __: object, out: Tensor) -> Tensor:
        seen["states"] = leaf = out.detach().requires_grad_()
        return leaf

    return leave


def _slopes(subject: Subject, seen: dict[str, Any], hooks: list[Any]) -> Tensor:
    """Return the gradient of the evidence in what the hooks caught as `states`."""
    try:
        with torch.enable_grad():
            evidence = subject.evidence(subject.features).sum()
            slopes: Tensor = torch.autograd.grad(evidence, seen["states"])[0][0]
            return slopes
    finally:
        for hook in hooks:
            hook.remove()


def _nothing(model: Classifier) -> Tensor:
    """Return features of silence, to see what the network makes of them."""
    spec, device = model.frontend.spec, next(model.parameters()).device
    frames = spec.max_frames or round(2 * spec.rate)
    shape = (1, frames) if spec.kind == "waveform" else (1, spec.dim, frames)
    return torch.zeros(shape, device=device)


@torch.no_grad()
def _num_states(model: Classifier, features: Tensor) -> int:
    counts = torch.tensor([features.shape[-1]], device=features.device)
    nothing_known = torch.zeros(1, 1 + max(model.places, default=0), device=features.device)
    return model.hidden(features, counts, nothing_known).states.shape[1]


@torch.no_grad()
def _last_map(model: Classifier, features: Tensor) -> nn.Module | None:
    """Return the convolution that makes the last map with more than one column, if any does."""
    found: list[nn.Module] = []

    def look(module: nn.Module, _: object, out: Tensor) -> None:
        if out.ndim == 4 and out.shape[3] > 1:
            found.append(module)

    convolutions = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    hooks = [module.register_forward_hook(look) for module in convolutions]
    try:
        _num_states(model, features)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1] if found else None


def _last_norm(model: Classifier) -> nn.Module | None:
    """Return the norm before a transformer's last attention, if it is known.

    Not the states before it: a layer norm does not feel their scale, so their product with their
    own gradient is always zero.
    """
    backbone = model.backbone
    network: Any = backbone.network if isinstance(backbone, TimmModule) else backbone
    blocks = getattr(network, "blocks", None)
    if is_transformer(backbone) and isinstance(blocks, nn.ModuleList | nn.Sequential):
        return getattr(blocks[-1], "norm1", None)
    return None
