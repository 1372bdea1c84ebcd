"""The two routes to mel energies: beside a slow float64 reference, and beside each other."""

import numpy as np
import pytest
import torch

from harken.frontends import spectrum
from harken.frontends.framing import Framing, window
from harken.frontends.mel import mel_filters
from harken.frontends.spectrum import MelEnergy


def make(win=400, hop=160, n_fft=512, power=2, name="hann", n_mels=40, **options):
    filters = mel_filters(n_mels, n_fft, 16000, 20, 8000, scale="kaldi")
    shape = window(name, win, periodic=False)
    return MelEnergy(Framing.inside(win, hop), shape, filters, n_fft=n_fft, power=power, **options)


def reference(module, clip):
    """Frame by frame and sample by sample, as Kaldi describes it."""
    framing, coefficient = module.framing, module.preemphasis
    columns = []
    for t in range(framing.num_frames(len(clip))):
        frame = clip[t * framing.hop_length :][: framing.win_length].astype(np.float64)
        if module.remove_dc_offset:
            frame = frame - frame.mean()
        frame = frame - coefficient * np.concatenate([frame[:1], frame[:-1]])
        spectrum = np.abs(np.fft.rfft(frame * module.window.double().numpy(), module.n_fft))
        columns.append(module.filters.double().numpy() @ spectrum**module.power)
    return np.stack(columns, axis=1)


OPTIONS = [
    {},
    {"power": 1},
    {"preemphasis": 0.97},
    {"remove_dc_offset": True},
    {"preemphasis": 0.97, "remove_dc_offset": True},
    {"preemphasis": 0.5, "remove_dc_offset": True, "name": "hamming"},
    {"preemphasis": 0.97, "name": "rectangular"},
    {"win": 401, "hop": 163, "remove_dc_offset": True},  # no common divisor
    {"n_mels": 7},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("block", [2**10, 2**13, 2**20])
def test_both_routes_equal_the_reference(options, block, noise, monkeypatch):
    monkeypatch.setattr(spectrum, "_BLOCK_SAMPLES", block)
    module = make(**options)
    clips = np.stack([0.3 + noise(0.2, seed=seed) for seed in range(3)])
    waveform, lengths = torch.from_numpy(clips), torch.full((3,), clips.shape[1])
    fast = module(waveform, lengths)
    plain = module(waveform.clone().requires_grad_(), lengths)
    for clip, ours, differentiable in zip(clips, fast, plain.detach(), strict=True):
        theirs = reference(module, clip)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6 * theirs.max())
        np.testing.assert_allclose(differentiable, theirs, rtol=1e-3, atol=1e-6 * theirs.max())


@pytest.mark.parametrize("options", OPTIONS)
def test_a_clip_has_the_same_energies_alone_and_in_a_batch(options, noise):
    module = make(**options)
    lengths = torch.tensor([500, 401, 16000, 3000, 9000])
    batch = torch.zeros(5, 17000)
    for row, length in zip(batch, lengths.tolist(), strict=True):
        row[:length] = torch.from_numpy(noise(2)[:length])
    together, counts = module(batch, lengths), module.framing.frame_lengths(lengths)
    for row, length, count in zip(batch, lengths, counts.tolist(), strict=True):
        alone = module(row[None, : int(length)], length[None])
        clip = together[int((lengths == length).nonzero()), :, :count]
        torch.testing.assert_close(alone[0], clip, rtol=1e-6, atol=0)


@pytest.mark.parametrize("power", [1, 2])
def test_gradients_reach_the_waveform(power, noise):
    module = make(power=power, preemphasis=0.97, remove_dc_offset=True, name="hamming")
    waveform = torch.from_numpy(noise(0.05))[None].requires_grad_()
    energies = module(waveform, torch.tensor([waveform.shape[1]]))
    energies.sum().backward()
    assert torch.isfinite(waveform.grad).all()
    direction = torch.randn_like(waveform)
    step = 1e-3
    with torch.no_grad():
        up = module(waveform + step * direction, torch.tensor([800]))
        down = module(waveform - step * direction, torch.tensor([800]))
    slope = (up.double().sum() - down.double().sum()) / (2 * step)
    assert float((waveform.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-2)


def test_silence_has_finite_gradients():
    waveform = torch.zeros(1, 800, requires_grad=True)
    energies = make(power=1)(waveform, torch.tensor([800]))
    energies.sum().backward()
    assert torch.isfinite(waveform.grad).all()


def test_the_module_exports_to_plain_torch(noise):
    module = make(preemphasis=0.97, remove_dc_offset=True)
    waveform, lengths = torch.from_numpy(noise(0.1))[None], torch.tensor([1600])
    program = torch.export.export(module, (waveform, lengths)).module()
    torch.testing.assert_close(program(waveform, lengths), module(waveform, lengths))


def test_nothing_is_saved_because_everything_follows_from_the_recipe():
    assert make().state_dict() == {}


def test_bands_hold_the_whole_bank_and_few_zeros():
    filters = mel_filters(128, 512, 16000, 20, 8000, scale="kaldi", triangles="mel")
    whole = torch.zeros_like(filters)
    bands = spectrum._cut_bands(filters, interleave=False)
    for rows, columns, weights in bands:
        whole[rows, columns] = weights.T
    assert torch.equal(whole, filters)
    assert sum(weights.numel() for *_, weights in bands) < 0.2 * filters.numel()
