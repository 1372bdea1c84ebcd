from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from harken.backbones import CnnBackbone
from harken.backbones.cnn import BaselineCnn, MaskedBatchNorm2d, Vgg
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec

SPEC = FeatureSpec("spectrogram", 64, 100.0, None)


def vgg(**options: Any) -> Vgg:
    torch.manual_seed(0)
    module = CnnBackbone(**{"widths": [4, 8], **options}).build(SPEC)
    assert isinstance(module, Vgg)
    return module


def run(module: nn.Module, seed: int = 0) -> torch.Tensor:
    features = torch.randn(2, 64, 40, generator=torch.Generator().manual_seed(seed))
    states: torch.Tensor = module(features, torch.tensor([40, 40])).states
    return states


def test_each_block_halves_bins_and_frames() -> None:
    module = CnnBackbone().build(SPEC)
    hidden = module(torch.randn(2, 64, 216), torch.tensor([216, 100]))
    assert hidden.grid == (4, 13)
    assert hidden.states.shape == (2, 52, 256)
    assert hidden.mask.view(2, 4, 13)[1].sum(1).tolist() == [6, 6, 6, 6]


def test_states_are_frequency_major() -> None:
    module = vgg().eval()
    features = torch.randn(1, 64, 40)
    hidden = module(features, torch.tensor([40]))
    assert hidden.grid is not None
    maps = hidden.states.view(1, *hidden.grid, -1)
    changed = features.clone()
    changed[:, :4] += 1.0  # the lowest bins only
    moved = module(changed, torch.tensor([40])).states.view_as(maps) - maps
    per_row = moved.abs().amax((0, 2, 3))
    assert per_row[0] > 0
    assert per_row[-1] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"convs_per_block": 1},
        {"pool": "max"},
        {"pool_before_norm": True, "pool": "max"},
        {"activation": "gelu"},
        {"activation": "silu"},
        {"residual": True},
        {"stem_kernel": 5},
        {"stem_stride": 2},
        {"freq_channel": True},
        {"widths": [4, 4, 8]},
    ],
)
def test_each_option_changes_the_states(options: dict[str, Any]) -> None:
    plain, changed = run(vgg().eval()), run(vgg(**options).eval())
    assert plain.shape != changed.shape or not torch.allclose(plain, changed)


def test_dropout_acts_in_training_only() -> None:
    module = vgg(dropout=0.5)
    module.eval()
    assert torch.equal(run(module), run(module))
    module.train()
    assert (run(module) == 0).float().mean() > 0.4


def test_the_bin_number_tells_bins_apart() -> None:
    flat = torch.ones(1, 64, 40)
    lengths = torch.tensor([40])
    middle = {}
    for asked in (False, True):
        module = vgg(freq_channel=asked).eval()
        maps = module(flat, lengths).states.view(16, 10, 8)
        middle[asked] = (maps[4, 5] - maps[11, 5]).abs().max()
    assert middle[False] < 1e-6
    assert middle[True] > 1e-3


def test_masked_batch_norm_equals_plain_batch_norm_over_the_true_frames() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 10) * 3 + 2
    lengths = torch.tensor([10, 6, 1])
    mask = (torch.arange(10) < lengths[:, None])[:, None, None].float()
    ours, plain = MaskedBatchNorm2d(5), nn.BatchNorm1d(5)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.uniform_(-1, 1)
        plain.load_state_dict(ours.state_dict())
    kept = torch.cat([x[i, :, :, :n].flatten(1) for i, n in enumerate(lengths.tolist())], dim=1)
    expected = plain(kept.T)
    y = ours(x, mask)
    got = torch.cat([y[i, :, :, :n].flatten(1) for i, n in enumerate(lengths.tolist())], dim=1)
    torch.testing.assert_close(got.T, expected)
    for name, value in plain.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), value)


def test_masked_batch_norm_is_torchs_where_nothing_is_padded() -> None:
    x = torch.randn(3, 5, 4, 10)
    ours, plain = MaskedBatchNorm2d(5), nn.BatchNorm2d(5)
    torch.testing.assert_close(ours(x, torch.ones(3, 1, 1, 10)), plain(x))
    assert torch.equal(ours.eval()(x, torch.zeros(3, 1, 1, 10)), ours(x))


def test_few_bins_still_pass() -> None:
    module = CnnBackbone(widths=[4, 4, 4]).build(FeatureSpec("spectrogram", 3, 100.0, None))
    hidden = module(torch.randn(2, 3, 20), torch.tensor([20, 1]))
    assert hidden.grid == (1, 2)


def baseline(bins: int = 128, frames: int = 498, share: bool = False) -> BaselineCnn:
    spec = FeatureSpec("spectrogram", bins, 99.6, frames)
    module = CnnBackbone(style="baseline", share_conv=share).build(spec)
    assert isinstance(module, BaselineCnn)
    return module


def test_the_baseline_flattens_128_by_498_to_4176() -> None:
    module = baseline()
    assert module.dense1.in_features == 4176
    hidden = module(torch.randn(2, 128, 498), torch.tensor([498, 300]))
    assert hidden.states.shape == (2, 1, 84)
    assert hidden.mask.all()


def test_the_baseline_is_the_published_network() -> None:
    torch.manual_seed(0)
    module = baseline()
    flat = nn.Sequential(
        *(module.conv1, nn.ReLU(), nn.MaxPool2d(2)),
        *(module.conv2, nn.ReLU(), nn.MaxPool2d(2)),
        *(module.conv3, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), module.dense1, nn.ReLU(), module.dense2, nn.ReLU()),
    )
    features = torch.randn(2, 128, 498)
    states = module(features, torch.tensor([498, 498])).states[:, 0]
    torch.testing.assert_close(states, flat(features[:, None]))


def test_sharing_a_convolution_saves_its_weights() -> None:
    count = {s: sum(p.numel() for p in baseline(share=s).parameters()) for s in (False, True)}
    assert count[False] - count[True] == 6 * 6 * 25 + 6


def test_the_baseline_refuses_small_spectrograms() -> None:
    baseline(36, 36)
    with pytest.raises(ConfigError, match="at least 36 bins and frames, not 35 × 498"):
        baseline(35, 498)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"style": "vgg", "share_conv": True}, "share_conv"),
        ({"style": "baseline", "residual": True}, "residual"),
        ({"style": "baseline", "widths": [8]}, "widths"),
        ({"style": "baseline", "dropout": 0.1}, "dropout"),
    ],
)
def test_options_of_the_other_style_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=f"{word} does nothing with style"):
        CnnBackbone(**options)


@pytest.mark.parametrize(
    "options",
    [{"widths": []}, {"widths": [0]}, {"convs_per_block": 0}, {"pool": "min"}, {"dropout": 1}],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CnnBackbone(**options)


def test_pooling_comes_before_the_normalisation() -> None:
    torch.manual_seed(0)
    module = vgg(pool_before_norm=True, pool="max", convs_per_block=1).train()
    features, lengths = torch.randn(2, 64, 40), torch.tensor([40, 40])
    x = features[:, None]
    for block in module.blocks:
        x = F.max_pool2d(block.convs[0](x), 2)
        x = F.relu(
            (x - x.mean((0, 2, 3), keepdim=True))
            / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        )
    torch.testing.assert_close(module(features, lengths).states, x.flatten(2).transpose(1, 2))
    with pytest.raises(ValidationError, match="no pool_before_norm"):
        CnnBackbone(residual=True, pool_before_norm=True)


def test_the_stem_makes_channels_last_maps_without_another_order_of_its_weights() -> None:
    stem = vgg(stem_kernel=5, stem_stride=2).blocks[0].convs[0]
    maps = stem(torch.randn(4, 1, 64, 40))
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert stem.weight.is_contiguous()
    assert stem.weight.grad_fn is None


def test_it_learns_where_a_tone_is() -> None:
    torch.manual_seed(0)
    module = vgg(freq_channel=True).train()
    head = nn.Linear(8, 2)
    features = torch.randn(16, 64, 20) * 0.1
    target = torch.arange(16) % 2
    features[target == 0, 10] += 2
    features[target == 1, 40:42] += 2
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], 0.02)
    for _ in range(40):
        logits = head(module(features, torch.full((16,), 20)).states.mean(1))
        loss = nn.functional.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize("frames", [1, 2, 3, 21, 22, 40])
@pytest.mark.parametrize("more", [{}, {"residual": True}, {"pool_before_norm": True}])
def test_a_strided_stem_keeps_a_clip_apart_from_its_batch(
    frames: int, more: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    module = vgg(stem_kernel=5, stem_stride=2, **more).eval()
    clip = torch.randn(1, 64, frames)
    beside = torch.cat([F.pad(clip, (0, 41 - frames)), torch.randn(1, 64, 41)])
    alone = module(clip, torch.tensor([frames]))
    together = module(beside, torch.tensor([frames, 41]))
    own = together.states[:1][together.mask[:1]]
    torch.testing.assert_close(alone.states[alone.mask], own, atol=1e-5, rtol=0)
