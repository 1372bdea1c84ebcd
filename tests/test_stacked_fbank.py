"""The filter banks of w2v-BERT equal those of its own extractor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harken.errors import ConfigError
from harken.frontends import StackedFbank


def noise(samples: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, samples, generator=draw)


@pytest.mark.parametrize("samples", [16000, 16160, 8000, 721])
def test_features_equal_the_librarys(samples: int) -> None:
    import transformers

    wave = noise(samples)
    extractor = transformers.SeamlessM4TFeatureExtractor()
    found = extractor(wave[0].numpy(), sampling_rate=16000, return_tensors="pt")
    wanted = found["input_features"][found["attention_mask"].bool()]
    mine, lengths = StackedFbank().build(16000, None)(wave, torch.tensor([samples]))
    assert lengths.tolist() == [len(wanted)]
    torch.testing.assert_close(mine[0].T, wanted, atol=3e-4, rtol=0)


def test_a_clip_is_the_same_alone_and_padded() -> None:
    front = StackedFbank().build(16000, None)
    sizes = torch.tensor([9000, 5000, 561])
    waves = noise(9000).repeat(3, 1).masked_fill(torch.arange(9000) >= sizes[:, None], 0.0)
    together, lengths = front(waves, sizes)
    for row, size in enumerate(sizes.tolist()):
        alone, count = front(waves[row : row + 1, :size], sizes[row : row + 1])
        assert count[0] == lengths[row]
        torch.testing.assert_close(together[row, :, : count[0]], alone[0], atol=1e-4, rtol=0)
        assert (together[row, :, count[0] :] == 0).all()


def test_the_spec_and_the_options() -> None:
    spec = StackedFbank().build(16000, 16000).spec
    assert (spec.kind, spec.dim, spec.rate, spec.max_frames) == ("spectrogram", 160, 50.0, 49)
    assert StackedFbank(n_mels=40).build(16000, None).spec.dim == 80
    three = StackedFbank(stack=3).build(16000, None)
    features, lengths = three(noise(16000), torch.tensor([16000]))
    assert features.shape == (1, 240, 32)
    assert lengths.tolist() == [32]


def test_a_clip_of_one_frame_is_filled_up() -> None:
    features, lengths = StackedFbank().build(16000, None)(noise(410), torch.tensor([410]))
    assert features.shape == (1, 160, 1)
    assert lengths.tolist() == [1]
    assert features.isfinite().all()
    with pytest.raises(ConfigError, match="clips have 1 frames and 2 are stacked"):
        StackedFbank().build(16000, 410)
