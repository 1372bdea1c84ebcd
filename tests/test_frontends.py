"""What every registered front-end promises."""

import copy
import pickle

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.frontends import Frontend

RATE = 16000
VARIANTS = {
    "waveform": [{}, {"normalize": "none"}],
    "log_mel": [
        {},
        {"center": False, "power": 1, "log": "db"},
        {"pad_mode": "constant", "dynamic_range": 8.0, "normalize": "minmax"},
        {"drop_last": True, "normalize": {"kind": "dataset", "mean": -4, "std": 4}},
        {"normalize": "none", "win_length": 201, "hop_length": 77},
    ],
    "kaldi_fbank": [
        {},
        {"snip_edges": False, "window": "hamming", "normalize": "none"},
        {"normalize": {"kind": "clip", "per_bin": True}},
    ],
    "tokens": [{"k": 20}, {"k": 20, "num_kernels": 2, "l2_normalize": True}],
}
CASES = [
    pytest.param({"kind": kind, **options}, id=f"{kind}-{number}")
    for kind in sorted(k for k, c in Frontend.kinds().items() if c.__module__.startswith("harken."))
    for number, options in enumerate(VARIANTS.get(kind, [{}]))
]


def build(tree, max_samples=None):
    module = Frontend.member(tree["kind"]).model_validate(tree).build(RATE, max_samples)
    if module.needs_statistics():
        module.fit([collate([make_clip(8000, seed=9), make_clip(8000, seed=8)])])
    return module


def make_clip(samples, seed=0):
    """Noise, a tone and silence in one clip: loud, quiet and empty frames."""
    rng = np.random.default_rng(seed)
    clip = 0.1 * rng.standard_normal(samples) + 0.4 * np.sin(0.2 * np.arange(samples))
    clip[samples // 2 : samples // 2 + samples // 5] = 0
    return torch.from_numpy(clip.astype(np.float32))


def collate(clips, extra=0):
    lengths = torch.tensor([len(clip) for clip in clips])
    batch = torch.zeros(len(clips), int(lengths.max()) + extra)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return batch, lengths


@pytest.mark.parametrize("tree", CASES)
def test_shapes_agree_with_the_spec(tree):
    module = build(tree, max_samples=8000)
    features, lengths = module(*collate([make_clip(8000), make_clip(5000)]))
    spec = module.spec
    assert features.dtype == (torch.int64 if module.spec.kind == "tokens" else torch.float32)
    assert lengths.dtype == torch.int64
    assert features.shape[-1] == int(lengths.max()) == spec.max_frames
    if spec.kind == "spectrogram":
        assert features.shape[:2] == (2, spec.dim)
        assert spec.rate == pytest.approx(100, rel=1.2)
    assert torch.isfinite(features).all()
    assert features[1, ..., int(lengths[1]) :].abs().max() == 0


@pytest.mark.parametrize("tree", CASES)
@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=4), extra=st.integers(0, 700))
def test_a_clip_does_not_feel_its_batch(tree, lengths, extra):
    module = build(tree)
    # Bins that are divided by their deviation over a few frames show more of what is rounded off.
    atol = 1e-4 if tree["kind"] == "stacked_fbank" else 1e-5
    clips = [make_clip(n, seed) for seed, n in enumerate(lengths)]
    features, counts = module(*collate(clips, extra))
    for row, count, clip in zip(features, counts.tolist(), clips, strict=True):
        alone, single = module(clip[None], torch.tensor([len(clip)]))
        assert single.tolist() == [count] == [alone.shape[-1]]
        torch.testing.assert_close(row[..., :count], alone[0], atol=atol, rtol=1e-5)
        assert not row[..., count:].any()


@pytest.mark.parametrize("tree", CASES)
def test_long_clips_do_not_feel_their_batch_either(tree):
    clips = [make_clip(n, n) for n in (40000, 160000, 16001)]
    module = build(tree)
    features, counts = module(*collate(clips))
    for row, count, clip in zip(features, counts.tolist(), clips, strict=True):
        alone, _ = module(clip[None], torch.tensor([len(clip)]))
        torch.testing.assert_close(row[..., :count], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tree", CASES)
@pytest.mark.parametrize("samples", [1, 2, 40, 399])
def test_a_clip_shorter_than_a_window_gives_a_frame(tree, samples):
    module = build(tree)
    features, lengths = module(*collate([make_clip(samples)]))
    assert torch.isfinite(features).all()
    if module.spec.kind == "spectrogram":
        assert lengths.tolist()[0] >= 1
        if samples < 80:  # half of the shortest hop: no kind has a second frame there
            assert lengths.tolist() == [1]


@pytest.mark.parametrize("tree", CASES)
def test_configs_survive_yaml_and_json(tree):
    config = Frontend.member(tree["kind"]).model_validate(tree)
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert Frontend.member(tree["kind"]).model_validate(yaml.safe_load(text)) == config
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("tree", CASES)
def test_modules_are_pickled_and_copied_whole(tree):
    module = build(tree)
    inputs = collate([make_clip(4000)])
    expected, _ = module(*inputs)
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(twin(*inputs)[0], expected)
    fresh = build(tree)
    fresh.load_state_dict(module.state_dict(), strict=True)
    assert sum(value.numel() for value in module.state_dict().values()) < 3000


@pytest.mark.parametrize("tree", CASES)
def test_training_mode_makes_no_difference(tree):
    module = build(tree)
    inputs = collate([make_clip(4000)])
    with torch.inference_mode():
        expected, _ = module.eval()(*inputs)
    assert torch.equal(module.train()(*inputs)[0], expected)


@pytest.mark.gpu
@pytest.mark.parametrize("tree", CASES)
def test_an_accelerator_gives_the_same(tree):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    inputs = collate([make_clip(16000), make_clip(9000)])
    expected, _ = build(tree)(*inputs)
    features, _ = build(tree).cuda()(*(tensor.cuda() for tensor in inputs))
    torch.testing.assert_close(features.cpu(), expected, atol=1e-2, rtol=1e-3)
    assert (features.cpu() - expected).abs().mean() < 1e-4
