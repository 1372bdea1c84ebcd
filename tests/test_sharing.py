"""Work shared out among threads: all of it, in the caller's mode, with torch left as it was."""

import pytest
import torch

from harken.frontends import KaldiFbank, LogMel
from harken.frontends import spectrum as spectrum_module
from harken.frontends.sharing import cut, share_out


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_parts_cover_everything_once():
    assert cut(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert cut(2, 5) == [slice(0, 2)]


@pytest.mark.parametrize("inference", [True, False])
def test_all_parts_are_done_in_the_callers_mode(inference, threads):
    out, modes = torch.zeros(10), []

    def work(part):
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        out[part] += 1

    with torch.inference_mode(inference):
        share_out(work, cut(10, 1))
    assert out.tolist() == [1] * 10
    assert set(modes) == {(inference, False)}
    assert torch.get_num_threads() == threads


def test_each_thread_works_alone(threads):
    seen = []
    share_out(lambda part: seen.append(torch.get_num_threads()), cut(8, 1))
    assert set(seen) == {1}


def test_a_failing_part_fails_the_call(threads):
    def fail(part):
        raise ValueError("broken part")

    with pytest.raises(ValueError, match="broken part"):
        share_out(fail, cut(4, 1))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("config", [LogMel(dynamic_range=5.0), KaldiFbank()])
@pytest.mark.parametrize("inference", [True, False])
def test_features_do_not_depend_on_the_sharing(config, inference, threads, noise, monkeypatch):
    module = config.build(16000, None)
    waveform = torch.zeros(5, 9000)
    lengths = torch.tensor([9000, 400, 8000, 1, 5000])
    for seed, (row, length) in enumerate(zip(waveform, lengths.tolist(), strict=True)):
        row[:length] = torch.from_numpy(noise(1, seed=seed)[:length])
    whole, _ = module(waveform, lengths)
    monkeypatch.setattr(spectrum_module, "_BLOCK_SAMPLES", 2**12)
    with torch.inference_mode(inference):
        shared, _ = module(waveform, lengths)
    assert shared.is_inference() == inference
    torch.testing.assert_close(shared, whole, atol=1e-5, rtol=1e-5)
