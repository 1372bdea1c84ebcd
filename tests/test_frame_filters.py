from __future__ import annotations

import numpy as np
import torch

from harken.tokens.frame_filters import draw_filters, shape_frames, unfilter

FRAMES = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32))


def test_filters_are_drawn_from_the_seed_alone() -> None:
    assert torch.equal(draw_filters(3, 10, 3), draw_filters(3, 10, 3))
    assert not torch.equal(draw_filters(3, 10, 3), draw_filters(4, 10, 3))
    assert draw_filters(3, 10, 5).shape == (10, 5)
    assert float(draw_filters(0, 100, 4).abs().max()) <= 0.5


def test_filters_run_along_frequency_as_numpy_correlates() -> None:
    filters = draw_filters(0, 3, 5)
    shaped = shape_frames(FRAMES, filters, False).view(20, 3, 8)
    for kernel in range(3):
        expected = np.correlate(FRAMES[7].numpy(), filters[kernel].numpy(), "same")
        np.testing.assert_allclose(shaped[7, kernel].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_unit_length() -> None:
    shaped = shape_frames(torch.cat([FRAMES, torch.zeros(1, 8)]), None, True)
    torch.testing.assert_close(shaped[:-1].norm(dim=1), torch.ones(20))
    assert torch.equal(shaped[-1], torch.zeros(8))
    assert torch.equal(shape_frames(FRAMES, None, False), FRAMES)


def test_filters_are_undone() -> None:
    filters = draw_filters(0, 4, 3)
    back = unfilter(shape_frames(FRAMES, filters, False), filters, 8)
    torch.testing.assert_close(back, FRAMES, atol=1e-4, rtol=1e-4)
    assert torch.equal(unfilter(FRAMES, None, 8), FRAMES)
