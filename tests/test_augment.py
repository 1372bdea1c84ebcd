"""What holds for every waveform augmentation: identity, seeds, rates, options, evaluation."""

import numpy as np
import pytest
import soundfile
import yaml
from pydantic import ValidationError

from harken.audio import Audio
from harken.augment import Augment, WaveformAugment, apply_waveform_augments
from harken.dataset import ClipDataset
from harken.seeds import generator

KINDS = sorted(
    kind
    for kind, member in Augment.kinds().items()
    if issubclass(member, WaveformAugment) and member.__module__.startswith("harken.")
)
FIXED = {"peak_normalize", "polarity_inversion", "reverse"}  # draw nothing
NARROW = {"min_gain_db": 0, "max_gain_db": 0}
FAST = {"min_rate": 1.5, "max_rate": 1.5}
SHIFT = {"min_semitones": 4, "max_semitones": 4}
ROOM = {"min_direct_db": 0, "max_direct_db": 0, "min_rt60": 0.3, "max_rt60": 0.3}
SNR = {"min_snr_db": 0, "max_snr_db": 0}

# Two values of every option of every kind, beside which other options that it needs.
OPTIONS = {
    "alias": {"min_factor": (1.5, 3), "max_factor": (4, 8)},
    "background": {"path": None, "min_snr_db": (3, 6), "max_snr_db": (30, 20)},
    "band_pass": {
        "min_centre_hz": (300, 500),
        "max_centre_hz": (2000, 3000),
        "min_octaves": (1, 2),
        "max_octaves": (3, 4),
        "order": (2, 4),
    },
    "band_stop": {
        "min_centre_hz": (300, 500),
        "max_centre_hz": (2000, 3000),
        "min_octaves": (0.5, 1),
        "max_octaves": (1.5, 2),
        "order": (2, 4),
    },
    "bit_crush": {"min_bits": (2, 9), "max_bits": (10, 16)},
    "clipping": {"min_share": (0.01, 0.2), "max_share": (0.3, 0.6)},
    "codec": {
        "format": ("mp3", "opus"),
        "min_kbps": (8, 60),
        "max_kbps": (64, 250, {"min_kbps": 8, "format": "opus"}),
    },
    "colour_noise": {
        "min_exponent": (-1, 1),
        "max_exponent": (1, 2),
        "min_snr_db": (0, 10),
        "max_snr_db": (20, 30),
    },
    "cutout": {
        "num": (1, 3),
        "min_share": (0.05, 0.2),
        "max_share": (0.3, 0.6),
        "max_seconds": (None, 0.001),
        "fill_noise": (0, 0.01),
    },
    "gain": {"min_gain_db": (-12, 0), "max_gain_db": (6, 12)},
    "gain_transition": {
        "min_gain_db": (-24, -6),
        "max_gain_db": (0, 6),
        "min_seconds": (0, 0.2),
        "max_seconds": (0.3, 2),
    },
    "gaussian_noise": {"min_amplitude": (0, 0.005), "max_amplitude": (0.01, 0.1)},
    "high_pass": {"min_cutoff_hz": (50, 200), "max_cutoff_hz": (500, 1000), "order": (2, 4)},
    "impulse_response": {"path": None, "min_wet": (0.1, 0.9), "max_wet": (0.5, 1)},
    "low_pass": {"min_cutoff_hz": (500, 1000), "max_cutoff_hz": (2000, 3000), "order": (2, 4)},
    "noise": {"min_snr_db": (0, 10), "max_snr_db": (20, 30)},
    "peak_normalize": {"peak": (1, 0.5)},
    "pitch": {
        "min_semitones": (-2, 0),
        "max_semitones": (2, 4),
        "tonality_limit_hz": (None, 500, SHIFT),
        "keep_formants": (False, True, SHIFT),
        "fast": (False, True),
    },
    "polarity_inversion": {},
    "repeat_part": {
        "min_seconds": (0.01, 0.1),
        "max_seconds": (0.2, 0.15),
        "num_repeats": (1, 2),
        "mode": ("replace", "insert"),
    },
    "reverse": {},
    "roll": {"max_shift": (None, 0.01)},
    "room": {
        "min_rt60": (0.1, 0.5),
        "max_rt60": (0.8, 2),
        "min_direct_db": (0, 6),
        "max_direct_db": (12, 20),
    },
    "speed": {
        "min_rate": (0.5, 0.9),
        "max_rate": (1.1, 2),
        "keep_length": (True, False, FAST),
        "align": ("start", "centre", FAST),
        "fill_noise": (0, 0.01, FAST),
        "resampler": ("soxr", "linear"),
    },
    "stretch": {
        "min_rate": (0.5, 0.9),
        "max_rate": (1.1, 2),
        "keep_length": (True, False, FAST),
        "align": ("start", "centre", FAST),
        "fill_noise": (0, 0.01, FAST),
        "fast": (False, True),
    },
    "tanh_distortion": {"min_drive_db": (0, 12), "max_drive_db": (24, 36)},
    "time_shift": {"max_shift": (0.1, 0.2), "fill_noise": (0, 0.01)},
}

EXTENDED = {  # the later redesign's 19, by probability alone
    "gauss": "gaussian_noise", "gausssnr": "noise", "alias": "alias", "bandstop": "band_stop",
    "bitcrush": "bit_crush", "clipd": "clipping", "gain": "gain", "gaint": "gain_transition",
    "mp3": "codec", "norm": "peak_normalize", "pshift": "pitch",
    "pinversion": "polarity_inversion", "tstretch": "stretch", "tmask": "cutout",
    "tanh": "tanh_distortion", "repeat": "repeat_part", "reverse": "reverse", "room": "room",
    "tshift": "time_shift",
}  # fmt: skip


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder with two recordings, which serve as backgrounds and as impulse responses."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(5)
    for name, samples in (("a.wav", 3000), ("b.wav", 20000)):
        wave = rng.standard_normal(samples) * np.exp(-np.arange(samples) / 2000)
        soundfile.write(folder / name, 0.1 * wave, 16000)
    return folder


@pytest.fixture(scope="module")
def tree_of(sounds):
    def tree(kind, **options):
        needed = Augment.member(kind).model_fields
        given = {"path": str(sounds)} if "path" in needed else {}
        return {"kind": kind} | given | options

    return tree


def make(samples=8000, seed=0, rate=16000):
    """A hum with partials and hiss, so that every band holds something."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    hum = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20))
    return (0.1 * hum + 0.02 * rng.standard_normal(samples)).astype(np.float32)


def change(tree, waveform, seed=0, rate=16000):
    augment = Augment.member(tree["kind"]).model_validate(tree)
    return apply_waveform_augments([augment], waveform, rate, generator(seed, "augment"))


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("kind", KINDS)
def test_probability_one_changes_and_zero_does_not(kind, rate, tree_of):
    for seed in range(3):
        waveform = make(rate // 3, seed, rate)
        before = waveform.copy()
        waveform.setflags(write=False)
        changed = change(tree_of(kind), waveform, seed, rate)
        assert changed.dtype == np.float32
        assert changed.shape == waveform.shape
        assert np.isfinite(changed).all()
        assert not np.array_equal(changed, before)
        assert waveform.tobytes() == before.tobytes()
        assert change(tree_of(kind, p=0), waveform, seed, rate).tobytes() == before.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_same_generator_same_change_other_generator_other_change(kind, tree_of):
    waveform, tree = make(), tree_of(kind)
    assert np.array_equal(change(tree, waveform, 1), change(tree, waveform, 1))
    alike = np.array_equal(change(tree, waveform, 1), change(tree, waveform, 2))
    assert alike == (kind in FIXED)


@pytest.mark.parametrize("kind", KINDS)
def test_p_is_the_share_of_changed_clips(kind, tree_of):
    waveform = make(200)
    changed = [
        not np.array_equal(change(tree_of(kind, p=0.3), waveform, seed), waveform)
        for seed in range(60)
    ]
    assert abs(np.mean(changed) - 0.3) < 0.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [0, 1, 2, 3, 17])
def test_tiny_clips_pass(kind, samples, tree_of):
    changed = change(tree_of(kind), make(samples))
    assert changed.shape == (samples,)
    assert np.isfinite(changed).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-6, 30.0])
def test_silence_and_any_level_stay_finite(kind, level, tree_of):
    for seed in range(2):
        changed = change(tree_of(kind), np.float32(level) * np.sign(make(4000)), seed)
        assert np.isfinite(changed).all()
        assert changed.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_changes_something(kind, tree_of, sounds):
    options = set(Augment.member(kind).model_fields) - {"kind", "p"}
    assert set(OPTIONS[kind]) == options, f"give OPTIONS two values of each option of {kind}"
    for name, values in OPTIONS[kind].items():
        values = values or (str(sounds / "a.wav"), str(sounds / "b.wav"))
        beside = values[2] if len(values) == 3 else {}
        one, two = (
            [
                change(tree_of(kind, **{**beside, name: value}), make(), seed).tolist()
                for seed in range(8)
            ]
            for value in values[:2]
        )
        assert one != two, f"{kind}.{name} changes nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_are_ordered(kind, tree_of):
    fields = Augment.member(kind).model_fields
    for low in [name for name in fields if name.startswith("min_")]:
        high = "max_" + low.removeprefix("min_")
        tree = tree_of(kind, **{low: fields[high].default + 1})
        with pytest.raises(ValidationError, match=rf"{low}"):
            Augment.member(kind).model_validate(tree)


@pytest.mark.parametrize("kind", KINDS)
def test_configs_survive_yaml(kind, tree_of):
    config = Augment.member(kind).model_validate(tree_of(kind, p=0.5))
    tree = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert Augment.member(tree["kind"]).model_validate(tree) == config
    config.check(16000)


@pytest.mark.parametrize("name", EXTENDED)
def test_extended_augmentations_are_enabled_by_probability_alone(name):
    augment = Augment.member(EXTENDED[name]).model_validate({"kind": EXTENDED[name], "p": 1})
    changed = augment.apply(make(), 16000, generator(0))
    assert not np.array_equal(changed, make())


class Memory:
    """Stands for the cache of decoded audio."""

    lengths = np.array([8000, 6000, 4001])

    def read(self, row):
        return make(self.lengths[row], row)


@pytest.mark.parametrize("clip_seconds", [None, 0.4])
@pytest.mark.parametrize("keep_length", [True, False])
def test_evaluation_never_augments_and_lengths_stay_right(clip_seconds, keep_length, tree_of):
    trees = [tree_of(kind) for kind in KINDS if kind not in ("speed", "stretch")]
    trees += [tree_of(kind, keep_length=keep_length) for kind in ("speed", "stretch")]
    augments = [Augment.member(tree["kind"]).model_validate(tree) for tree in trees]
    audio = Audio(clip_seconds=clip_seconds)
    rows, target, weight = np.arange(3), np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    plain = ClipDataset(Memory(), rows, target, weight, audio)
    evaluation = ClipDataset(Memory(), rows, target, weight, audio, augments, seed=None)
    training = ClipDataset(Memory(), rows, target, weight, audio, augments, seed=3)
    seen, kept, changed = (d.batch(rows, 0) for d in (plain, evaluation, training))
    assert seen.waveform.numpy().tobytes() == kept.waveform.numpy().tobytes()
    assert seen.lengths.equal(kept.lengths)
    assert (changed.waveform[:, :4000] != seen.waveform[:, :4000]).any(dim=1).all()
    if keep_length:
        assert changed.lengths.equal(seen.lengths)
    for waveform, length in zip(changed.waveform, changed.lengths.tolist(), strict=True):
        assert not waveform[length:].any()
        assert 1000 < length <= changed.waveform.shape[1]


def test_the_corpus_of_a_recipe_with_augmentations_evaluates_without_them(tiny_table):
    from harken.verbs.prepare import prepare
    from test_trainer import tiny_recipe

    rows = np.arange(36)
    clips = [{"kind": "time_shift"}, {"kind": "noise"}, {"kind": "cutout"}]
    batches = []
    for augment in ([], clips):
        recipe = tiny_recipe(tiny_table, augment=augment)
        corpus, _ = prepare(recipe)
        batches.append(corpus.dataset(rows, recipe.audio).batch(rows, 0).waveform)
    assert batches[0].equal(batches[1])
