from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from harken.backbones import AstBackbone, Backbone, CnnBackbone, MlpBackbone, TimmBackbone
from harken.choice import Config
from harken.errors import ConfigError
from harken.frontends import Frontend
from harken.frontends.frontend import FeatureSpec, FrontendModule
from harken.heads import Heads
from harken.labels import Labels
from harken.model import Classifier, without_weights
from harken.pooling import AttentionPooling, ClsPooling, MeanPooling, Pooling

LABELS = Labels("single", ("a", "b", "c"), ("label",))


class Slot(Config):
    frontend: Frontend


class FramesModule(FrontendModule):
    """Frames of 160 samples, each spread over bins by a fixed matrix."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer(
            "basis", torch.randn(160, spec.dim, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = waveform.unfold(1, 160, 160) @ self.get_buffer("basis")
        return frames.transpose(1, 2), lengths // 160


class Frames(Frontend):
    kind: Literal["test_frames"] = "test_frames"
    makes: Literal["spectrogram", "waveform", "tokens"] = "spectrogram"

    def build(self, sample_rate: int, max_samples: int | None) -> FrontendModule:
        longest = None if max_samples is None else max_samples // 160
        return FramesModule(FeatureSpec(self.makes, 40, sample_rate / 160, longest))


def make(
    backbone: Backbone | None = None,
    frontend: Frontend | None = None,
    pooling: Pooling | None = None,
    labels: Labels = LABELS,
    max_samples: int | None = 16000,
    **heads: Any,
) -> Classifier:
    torch.manual_seed(0)
    return Classifier.build(
        frontend or Frames(),
        backbone or CnnBackbone(widths=[4, 8]),
        pooling or MeanPooling(),
        Heads(**heads),
        labels,
        16000,
        max_samples,
    )


def log_mel() -> Frontend:
    return Slot.model_validate({"frontend": {"kind": "log_mel", "n_mels": 40}}).frontend


def waves(*lengths: int) -> tuple[Tensor, Tensor]:
    waveform = torch.zeros(len(lengths), max(lengths))
    for i, n in enumerate(lengths):
        waveform[i, :n] = 0.1 * torch.randn(n, generator=torch.Generator().manual_seed(i))
    return waveform, torch.tensor(lengths)


def test_waveforms_become_logits_and_embeddings() -> None:
    model = make()
    output = model(*waves(16000, 8000))
    assert output.logits.shape == (2, 3)
    assert output.embedding.shape == (2, 8)
    assert output.logits.dtype == output.embedding.dtype == torch.float32
    assert (model.sample_rate, model.labels) == (16000, LABELS)


def test_classify_after_features_is_forward() -> None:
    model = make().eval()
    waveform, lengths = waves(16000, 8000)
    features, frames = model.features(waveform, lengths)
    assert features.shape == (2, 40, 100)
    assert frames.tolist() == [100, 50]
    assert model.hidden(features, frames).grid == (10, 25)
    assert torch.equal(model.classify(features, frames).logits, model(waveform, lengths).logits)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("single", lambda x: x.exp() / x.exp().sum(1, keepdim=True)),
        ("multi", lambda x: 1 / (1 + (-x).exp())),
        ("regression", lambda x: x),
    ],
)
def test_scores_follow_the_task(task: Any, expected: Callable[[Tensor], Tensor]) -> None:
    logits = torch.randn(4, 3)
    model = make(labels=Labels(task, ("a", "b", "c"), ("label",)))
    torch.testing.assert_close(model.scores(logits), expected(logits))


@pytest.mark.parametrize("kind", ["waveform", "tokens"])
@pytest.mark.parametrize(
    "backbone", [AstBackbone(), CnnBackbone(), MlpBackbone(), TimmBackbone(name="resnet10t")]
)
def test_parts_that_do_not_fit_are_refused(backbone: Backbone, kind: Any) -> None:
    name = backbone.model_dump()["kind"]
    with pytest.raises(ConfigError) as caught:
        make(backbone, Frames(makes=kind))
    assert str(caught.value).startswith(f"backbone.kind: {name} cannot read {kind} features")


def test_the_real_waveform_front_end_is_refused_too() -> None:
    frontend = Slot.model_validate({"frontend": "waveform"}).frontend
    with pytest.raises(ConfigError, match="ast cannot read waveform features"):
        make(AstBackbone(), frontend)


def test_a_pooling_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="no class token"):
        make(pooling=ClsPooling())


def test_label_groups_become_heads() -> None:
    labels = Labels("multi", ("a", "b", "c"), ("label",), groups=(("a",), ("b", "c")))
    model = make(labels=labels, bottleneck=4)
    assert len(model.heads.groups) == 2
    assert model(*waves(16000)).logits.shape == (1, 3)
    assert len(make().heads.groups) == 1


def test_label_groups_out_of_order_are_refused() -> None:
    labels = Labels("multi", ("a", "b", "c"), ("label",), groups=(("b", "c"), ("a",)))
    with pytest.raises(ConfigError, match="the groups hold b, c, a; the labels are a, b, c"):
        make(labels=labels)


def test_parameters_are_counted() -> None:
    model = make(MlpBackbone(hidden=[8], summary="statistics"))
    assert model.num_parameters() == (160 * 8 + 8) + (8 * 3 + 3)
    model.backbone.requires_grad_(False)
    assert model.num_parameters() == 8 * 3 + 3
    assert model.num_parameters(trainable=False) == (160 * 8 + 8) + (8 * 3 + 3)


AST = {"dim": 16, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize("pooling", [MeanPooling(), AttentionPooling()])
@pytest.mark.parametrize(
    "backbone",
    [CnnBackbone(widths=[4, 8]), AstBackbone(**AST), MlpBackbone(summary="statistics", hidden=[8])],
)
def test_a_clip_has_the_same_logits_alone_and_in_a_batch(
    backbone: Backbone, pooling: Pooling
) -> None:
    model = make(backbone, log_mel(), pooling, max_samples=None).eval()
    batch, lengths = waves(5003, 16000, 9000)
    with torch.inference_mode():
        together = model(batch, lengths).logits
        for i, n in enumerate(lengths.tolist()):
            alone = model(batch[i : i + 1, :n], lengths[i : i + 1]).logits
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "backbone", [CnnBackbone(widths=[4, 8]), AstBackbone(**AST), MlpBackbone(hidden=[8])]
)
def test_the_logits_can_be_derived_by_the_waveform(backbone: Backbone) -> None:
    model = make(backbone, log_mel()).eval()
    waveform, lengths = waves(16000, 16000)
    waveform.requires_grad_()
    model(waveform, lengths).logits[0, 0].backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    assert (waveform.grad[0].abs() > 0).float().mean() > 0.9
    assert not waveform.grad[1].any()


def test_autocast_leaves_the_features_exact() -> None:
    model = make(frontend=log_mel()).eval()
    batch = waves(16000, 9000)
    exact, _ = model.features(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = model.features(*batch)
        output = model(*batch)
    assert torch.equal(features, exact)
    assert output.logits.dtype == torch.float32


def test_saved_weights_give_equal_logits() -> None:
    model, twin = make(frontend=log_mel()), make(frontend=log_mel())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = waves(16000, 9000)
    model(*batch)
    assert not torch.equal(twin.eval()(*batch).logits, model.eval()(*batch).logits)
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(twin(*batch).logits, model(*batch).logits)


def test_a_saved_run_fetches_nothing() -> None:
    asked = TimmBackbone(name="resnet10t", checkpoint="gone.safetensors")
    with pytest.raises(ConfigError):
        make(asked)
    model = Classifier.build(
        Frames(), asked, MeanPooling(), Heads(), LABELS, 16000, 16000, fetch=False
    )
    assert model(*waves(16000)).logits.shape == (1, 3)
    assert without_weights(TimmBackbone(name="x", pretrained=True)) == TimmBackbone(name="x")
    assert without_weights(CnnBackbone()) == CnnBackbone()


def test_it_overfits_a_batch() -> None:
    backbone = CnnBackbone(widths=[8, 16], convs_per_block=1, freq_channel=True)
    model = make(backbone, log_mel()).train()
    time = torch.arange(16000) / 16000
    waveform = torch.stack([torch.sin(6.2832 * f * time) for f in (300, 320, 900, 950, 3000, 3100)])
    target = torch.tensor([0, 0, 1, 1, 2, 2])
    lengths = torch.full((6,), 16000)
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    for _ in range(50):
        loss = nn.functional.cross_entropy(model(waveform, lengths).logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
