"""`integrated_gradients`: the label's gradient on the way from nothing to the clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from harken.backbones.backbone import BackboneModule
from harken.backbones.speech import SpeechModule
from harken.errors import ConfigError
from harken.explain.method import Explain, Relevance
from harken.explain.subject import Subject
from harken.model import Classifier

_VALUES_PER_PASS = {"spectrogram": 2**18, "waveform": 2**17}  # networks on samples need more room


class IntegratedGradients(Explain):
    """Integrated gradients of the features or samples (Sundararajan, Taly & Yan, 2017).

    (x - x0) times the mean gradient between the baseline x0, in which everything is deleted, and
    the clip x. The parts sum to the difference of the evidence, f(x) - f(x0); `completeness_error`
    says how far from it the sum is, as a share of that difference.
    """

    kind: Literal["integrated_gradients"] = "integrated_gradients"
    points: int = Field(64, ge=2)
    """Points on the way at which the gradient is taken; they lie denser near its beginning."""

    def fits(self, model: Classifier) -> bool:
        """Whether gradients reach the features: every network but those that read tokens."""
        return model.frontend.spec.kind != "tokens"

    def relevance(self, subject: Subject) -> Relevance:
        """Return the map of a clip."""
        way = subject.features - subject.baseline
        places, weights = self._places(way.device)
        slope = torch.zeros_like(subject.features[0])
        size = max(1, min(16, _VALUES_PER_PASS[subject.model.frontend.spec.kind] // way.numel()))
        shape = (-1, *[1] * (way.ndim - 1))
        with _thawed(subject.model.backbone):
            for at, weight in zip(
                torch.split(places, size), torch.split(weights, size), strict=True
            ):
                slopes = _slopes(subject, subject.baseline + at.view(shape) * way)
                slope += (weight.view(shape) * slopes).sum(0)
        values = (way[0] * slope).double().cpu().numpy()
        values = subject.per_step(values if values.ndim == 2 else values[None])
        notes = _completeness(subject, float(values.sum()))
        return Relevance(values, notes)

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return places between 0 and 1 and their weights: the midpoint rule on the fourth root.

        Group and instance norms do not feel how loud the clip is until it nearly vanishes, so
        that speech encoders change their mind within the first thousandth of the way.
        """
        root = (torch.arange(self.points, device=device) + 0.5) / self.points
        weights = root**3
        return root**4, weights / weights.sum()


@contextmanager
def _thawed(backbone: BackboneModule) -> Iterator[None]:
    """Let gradients through the frozen layers of a speech encoder, which otherwise keeps none."""
    if not isinstance(backbone, SpeechModule):
        yield
        return
    frozen, still = backbone.frozen, backbone.still
    backbone.frozen, backbone.still = "none", 0
    try:
        yield
    finally:
        backbone.frozen, backbone.still = frozen, still


def _slopes(subject: Subject, features: Tensor) -> Tensor:
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        evidence = subject.evidence(features).sum()
    if not evidence.requires_grad:
        raise ConfigError(
            "no gradient reaches what this network hears",
            where="--method",
            fix="--method gradcam, or occlusion",
        )
    return torch.autograd.grad(evidence, features)[0]


@torch.no_grad()
def _completeness(subject: Subject, total: float) -> dict[str, float]:
    ends = torch.cat([subject.features, subject.baseline])
    full, nothing = subject.evidence(ends).double().tolist()
    error = abs(total - (full - nothing)) / max(abs(full - nothing), 1e-6)
    return {"sum": total, "difference": full - nothing, "completeness_error": error}
