"""Frame counts, edges and windows beside numpy, scipy and torch."""

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.frontends.framing import Framing, frame_mask, window


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman"])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("length", [7, 400])
def test_windows_equal_scipy(name, periodic, length):
    theirs = scipy.signal.get_window(name, length, fftbins=periodic)
    np.testing.assert_allclose(window(name, length, periodic=periodic), theirs, atol=1e-6)


def test_povey_is_between_hann_and_rectangular():
    povey = window("povey", 400, periodic=False)
    hann = window("hann", 400, periodic=False)
    assert povey[0] == 0
    np.testing.assert_allclose(povey, hann.double() ** 0.85, atol=1e-6)
    assert window("rectangular", 3, periodic=True).tolist() == [1, 1, 1]


@settings(deadline=None)
@given(samples=st.integers(1, 3000), win=st.integers(1, 400), hop=st.integers(1, 200))
def test_frames_inside_a_clip_end_before_it_does(samples, win, hop):
    frames = Framing.inside(win, hop).num_frames(samples)
    if samples < win:
        assert frames == 1
    else:
        assert (frames - 1) * hop + win <= samples < frames * hop + win


@settings(deadline=None)
@given(samples=st.integers(1, 3000), hop=st.integers(1, 200))
def test_centred_frames_are_counted_as_torch_does(samples, hop):
    padded = torch.zeros(1, samples + 256)
    theirs = torch.stft(padded, 256, hop, window=torch.ones(256), center=False, return_complex=True)
    framing = Framing.centred(256, 200, hop, "reflect", drop_last=False)
    assert framing.num_frames(samples) == theirs.shape[2]
    shorter = Framing.centred(256, 200, hop, "reflect", drop_last=True)
    assert shorter.num_frames(samples) == max(1, theirs.shape[2] - 1)


@settings(deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5))
def test_counts_of_tensors_equal_counts_of_numbers(lengths):
    for framing in (
        Framing.inside(400, 160),
        Framing.kaldi(400, 160),
        Framing.centred(512, 400, 160, "constant", drop_last=True),
    ):
        counts = framing.frame_lengths(torch.tensor(lengths))
        assert counts.tolist() == [framing.num_frames(n) for n in lengths]


@pytest.mark.parametrize("edge", ["reflect", "symmetric", "constant"])
@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), left=st.integers(0, 30))
def test_edges_are_filled_as_numpy_does_at_each_true_end(edge, lengths, left):
    framing = Framing(25, 10, left, 0, 1, edge)
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(n).astype(np.float32) for n in lengths]
    batch = torch.zeros(len(clips), max(lengths))
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    filled = framing.fill_edges(batch, torch.tensor(lengths))
    for row, clip in zip(filled, clips, strict=True):
        theirs = np.pad(clip, (left, 25), mode=edge)
        np.testing.assert_array_equal(row[: len(theirs)], theirs)


def test_clips_shorter_than_a_frame_are_padded_with_zeros():
    filled = Framing.inside(10, 5).fill_edges(torch.ones(1, 4), torch.tensor([4]))
    assert filled.tolist() == [[1] * 4 + [0] * 6]


def test_mask_marks_true_frames():
    assert frame_mask(torch.tensor([2, 0]), 3).tolist() == [[[True, True, False]], [[False] * 3]]
