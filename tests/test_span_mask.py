"""Spans that an encoder hides from itself: in training only, inside the clip, by torch's draws."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harken.backbones.span_mask import SpanMask

BLANK = torch.full((6,), 9.0)


def hidden(mask: SpanMask, lengths: list[int], frames: int = 200, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    out = mask.train()(torch.zeros(len(lengths), frames, 6), torch.tensor(lengths), BLANK)
    return (out == 9.0).all(-1)


def test_evaluation_hides_nothing() -> None:
    states = torch.randn(2, 50, 6)
    mask = SpanMask(0.5, 10, 2, 0.5, 2, 1).eval()
    assert torch.equal(mask(states, torch.tensor([50, 40]), BLANK), states)


def test_the_share_of_hidden_frames_follows_the_setting() -> None:
    for share in (0.1, 0.4):
        found = hidden(SpanMask(share, 10, 0, 0.0, 1, 0), [200] * 300).float().mean()
        # Spans overlap, so a little less than the share is hidden (Baevski et al., 2020).
        assert 0.75 * share < found < share


def test_spans_lie_inside_each_clip_and_have_their_length() -> None:
    found = hidden(SpanMask(0.05, 10, 1, 0.0, 1, 0), [200, 60, 12, 5] * 20)
    for row, length in zip(found, [200, 60, 12, 5] * 20, strict=True):
        assert not row[length:].any()
        assert int(row.sum()) >= 10 or length < 10
        edges = torch.diff(row.int(), prepend=torch.zeros(1), append=torch.zeros(1))
        starts, ends = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
        assert bool((ends - starts >= 10).all())


def test_draws_come_from_torch_and_leave_numpys_alone() -> None:
    mask = SpanMask(0.3, 5, 1, 0.0, 1, 0)
    before = np.random.get_state()[1].copy()
    assert torch.equal(hidden(mask, [100], seed=3), hidden(mask, [100], seed=3))
    assert not torch.equal(hidden(mask, [100], seed=3), hidden(mask, [100], seed=4))
    assert (np.random.get_state()[1] == before).all()


def test_dimensions_are_hidden_over_the_whole_clip() -> None:
    torch.manual_seed(0)
    mask = SpanMask(0.0, 10, 0, 0.4, 2, 1).train()
    out = mask(torch.ones(8, 30, 6), torch.full((8,), 30), None)
    zero = out == 0
    assert torch.equal(zero.all(1), zero.any(1))
    assert bool((zero.all(1).sum(1) >= 2).all())


def test_a_gradient_reaches_the_blank() -> None:
    blank = torch.zeros(6, requires_grad=True)
    mask = SpanMask(0.5, 5, 1, 0.0, 1, 0).train()
    mask(torch.ones(2, 40, 6), torch.tensor([40, 40]), blank).sum().backward()
    assert blank.grad is not None
    assert bool((blank.grad > 0).all())
