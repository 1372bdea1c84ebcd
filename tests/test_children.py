from __future__ import annotations

import time
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from harken.hangul import difficulty, syllables
from harken.sources.children import (
    PROCESSES,
    WORDS,
    articulate,
    children,
    choose_words,
    draw_children,
    processes_in,
    record,
    shares,
    simplify,
)
from harken.sources.utterance import pieces_of
from harken.sources.voice import Row, Signal

RATE = 16000
EASY = [word for word in WORDS if not processes_in(word)]


def made(
    speakers: int, clips: int, seconds: float = 0.8, seed: int = 0
) -> list[tuple[Row, Signal]]:
    return list(children(speakers, clips, seconds, RATE, seed))


def test_columns_are_those_that_are_promised() -> None:
    columns = "id label speaker age word said distortion sex severity site".split()  # noqa: SIM905
    rows = [row for row, _ in made(6, 3)]
    assert all(list(row) == columns for row in rows)
    assert len({row["id"] for row in rows}) == 18
    by_speaker = {
        row["speaker"]: (row["label"], row["age"], row["sex"], row["site"], row["severity"])
        for row in rows
    }
    assert all(by_speaker[row["speaker"]][1] == row["age"] for row in rows)
    assert len(by_speaker) == 6


@settings(max_examples=20, deadline=None)
@given(count=st.integers(30, 200), seed=st.integers(0, 99))
def test_a_third_is_disordered_and_every_age_has_both_classes(count: int, seed: int) -> None:
    people = draw_children(count, seed)
    ill = [child for child in people if child.label == "ssd"]
    assert abs(3 * len(ill) - count) <= 2
    assert all(2 <= child.age <= 10 and 0 <= child.severity <= 1 for child in people)
    assert {child.age for child in ill} == set(range(2, 11))
    assert {child.age for child in people if child.label == "td"} == set(range(2, 11))


def test_words_are_hangul_of_which_some_are_easy_and_two_become_another_word() -> None:
    assert len(WORDS) == len(set(WORDS)) >= 12
    assert all(syllables(word) and difficulty(word) for word in WORDS)
    assert len(EASY) >= 2
    assert simplify("오리", processes_in("오리")) == "오이"
    assert simplify("물", processes_in("물")) == "무"
    assert {"오이", "무"} <= set(EASY)
    assert simplify("사과", ["stopping"]) == "다과"
    assert simplify("토끼", ["fronting"]) == "토띠"
    assert simplify("기차", ["fronting", "deaffrication"]) == "디타"


def test_no_two_processes_concern_one_letter() -> None:
    onsets = Counter(letter for process in PROCESSES.values() for letter in process.onsets)
    finals = Counter(letter for process in PROCESSES.values() for letter in process.finals)
    assert max([*onsets.values(), *finals.values()]) == 1


@pytest.mark.parametrize("word", WORDS)
def test_distortion_is_only_where_a_difficult_sound_is(word: str) -> None:
    plain = pieces_of(word)
    names = processes_in(word)
    changed = articulate(word, dict.fromkeys(names, 1.0))
    assert [a.seconds for a in changed] == pytest.approx(
        [b.seconds for b in pieces_of(simplify(word, names))]
    )
    assert articulate(word, dict.fromkeys(names, 0.0)) == plain
    assert (changed == plain) == (word in EASY)
    for process in names:
        touched = articulate(word, {process: 0.5})
        spared = [p for p, q in zip(plain, touched, strict=True) if p == q]
        assert 0 < len(spared) < len(plain)


def test_easy_words_are_said_alike_by_both_classes_and_their_rows_say_so() -> None:
    for row, _ in made(15, 4, 0.4):
        if row["word"] in EASY:
            assert (row["said"], row["distortion"]) == (row["word"], 0.0)
        else:
            assert (row["said"] != row["word"]) == (float(row["distortion"]) > 0.5)


def test_distortion_falls_with_age_and_rises_with_severity() -> None:
    people, rng = draw_children(600, 0), np.random.default_rng(0)
    far = np.array([np.mean(list(shares(child, "시소", rng).values())) for child in people])
    age = np.array([child.age for child in people])
    ill = np.array([child.label == "ssd" for child in people])
    severity = np.array([child.severity for child in people])
    assert far[ill & (age > 6)].mean() > far[~ill & (age > 6)].mean() + 0.3
    assert far[~ill & (age < 4)].mean() > far[~ill & (age > 8)].mean() + 0.5
    # Young typical children distort as older disordered ones do, so that age decides.
    assert far[~ill & (age < 5)].mean() > far[ill & (age > 8)].mean()
    assert np.corrcoef(far[age > 6], severity[age > 6])[0, 1] > 0.5


def test_classes_are_uneven_within_words_in_the_way_that_is_told() -> None:
    people = draw_children(900, 0)
    counts: dict[tuple[bool, str], int] = Counter()
    for number, child in enumerate(people):
        for word in choose_words(child, 6, np.random.default_rng(number)):
            counts[word in EASY, child.label] += 1
    shares_of_ill = [
        counts[easy, "ssd"] / (counts[easy, "ssd"] + counts[easy, "td"]) for easy in (True, False)
    ]
    assert shares_of_ill[0] > shares_of_ill[1] + 0.05
    assert 0.2 < shares_of_ill[1] < 0.34


def test_words_come_again_only_when_all_have_come() -> None:
    chosen = choose_words(draw_children(4, 0)[0], 30, np.random.default_rng(0))
    assert len(chosen) == 30
    assert len(set(chosen[: len(WORDS)])) == len(WORDS)


def test_the_same_seed_gives_the_same_sound_and_more_clips_leave_the_first_as_they_were() -> None:
    few, again = made(4, 2), made(4, 2)
    assert all(np.array_equal(a, b) and r == s for (r, a), (s, b) in zip(few, again, strict=True))
    more = {row["id"]: wave for row, wave in made(4, 3)}
    assert all(np.array_equal(wave, more[row["id"]]) for row, wave in few)
    assert not any(np.array_equal(wave, more[row["id"]]) for row, wave in made(4, 2, seed=1))


@pytest.mark.parametrize("seconds", [0.2, 1.2])
def test_clips_last_as_asked_and_stay_within_one(seconds: float) -> None:
    lengths = []
    for _, wave in made(4, 4, seconds):
        assert np.isfinite(wave).all()
        assert 0.29 < np.abs(wave).max() < 0.91
        lengths.append(len(wave) / RATE)
    assert 0.79 * seconds < min(lengths) <= max(lengths) < 1.21 * seconds


def test_the_school_is_noisier_and_duller() -> None:
    floors: dict[str, list[float]] = {"clinic": [], "school": []}
    for row, wave in made(24, 2, 1.2):
        frames = wave[: len(wave) // 400 * 400].reshape(-1, 400).std(1)
        floors[str(row["site"])].append(float(frames.min() / frames.max()))
    assert np.median(floors["school"]) > 2 * np.median(floors["clinic"])


def test_young_children_have_higher_formants_and_pitch() -> None:
    people = draw_children(400, 0)
    young = [child.voice for child in people if child.age < 4]
    old = [child.voice for child in people if child.age > 8]
    assert np.mean([v.tract for v in young]) > 1.1 * np.mean([v.tract for v in old])
    assert np.mean([v.f0 for v in young]) > 1.1 * np.mean([v.f0 for v in old])


def statistics(wave: Signal) -> npt.NDArray[np.float64]:
    """Means and deviations of a log spectrogram and of its changes, in 40 bands."""
    frames = np.lib.stride_tricks.sliding_window_view(wave / wave.std(), 512)[::160]
    power = np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2
    edges = np.unique(np.geomspace(2, 250, 41).astype(int))
    bands = np.log(np.add.reduceat(power, edges, axis=1) + 1e-3)
    return np.concatenate([bands.mean(0), bands.std(0), np.diff(bands, axis=0).std(0)])


def test_it_is_made_fast() -> None:
    made(1, 1)  # imports
    began = time.process_time()
    count = len(made(20, 5, 1.25))
    assert count / (time.process_time() - began) > 80  # 250 on a quiet core


def test_the_sound_of_older_children_tells_the_class_but_not_always() -> None:
    older = [child for child in draw_children(240, 0) if child.age > 6]
    features, label, group = [], [], []
    for number, child in enumerate(older):
        rng = np.random.default_rng(number)
        for word in choose_words(child, 5, rng):
            pieces = articulate(word, shares(child, word, rng))
            features.append(statistics(record(child, pieces, 0.7, RATE, rng)))
            label.append(child.label == "ssd")
            group.append(number)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.003, max_iter=500, class_weight="balanced")
    )
    decided = cross_val_predict(model, np.array(features), label, groups=group, cv=GroupKFold(4))
    assert 0.55 < balanced_accuracy_score(label, decided) < 0.8


def test_age_and_word_belong_to_the_decision() -> None:
    rows, label, group = [], [], []
    for number, child in enumerate(draw_children(450, 0)):
        rng = np.random.default_rng(number)
        for word in choose_words(child, 6, rng):
            far = shares(child, word, rng)
            # Who does not know the word hears no s both in 오이 and in a 사과 without it.
            sounds = [1 - far.get(name, 1.0) for name in PROCESSES]
            rows.append([*sounds, WORDS.index(word), child.age])
            label.append(child.label == "ssd")
            group.append(number)
    table, target, child_of = np.array(rows), np.array(label), np.array(group)

    def right(columns: list[int]) -> npt.NDArray[np.bool_]:
        model = HistGradientBoostingClassifier(max_iter=25, class_weight="balanced")
        inputs, cv = table[:, columns], GroupKFold(2)
        decided = cross_val_predict(model, inputs, target, groups=child_of, cv=cv)
        return np.asarray(decided == target)

    def uar(hits: npt.NDArray[np.bool_], times: npt.NDArray[np.int64]) -> float:
        weight = times[child_of]
        return float(np.mean([np.average(hits[c], weights=weight[c]) for c in (target, ~target)]))

    heard = list(range(len(PROCESSES)))
    sound, everything = right(heard), right([*heard, 5, 6])
    assert 0.6 < uar(everything, np.ones(450, dtype=np.int64)) < 0.92
    rng = np.random.default_rng(0)
    draws = [np.bincount(rng.integers(450, size=450), minlength=450) for _ in range(200)]
    assert np.percentile([uar(everything, n) - uar(sound, n) for n in draws], 2.5) > 0


def test_the_same_sounds_mean_another_class_where_another_word_was_asked_for() -> None:
    ill: dict[bool, list[bool]] = {True: [], False: []}
    for number, child in enumerate(draw_children(600, 0)):
        rng = np.random.default_rng(number)
        for word in ("오리", "물", "오이", "무") if child.age > 6 else ():
            far = shares(child, word, rng)
            if simplify(word, [name for name, share in far.items() if share > 0.5]) in EASY:
                ill[word in EASY].append(child.label == "ssd")
    assert min(map(len, ill.values())) > 50
    assert np.mean(ill[False]) > np.mean(ill[True]) + 0.3
