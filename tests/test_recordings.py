"""Recordings that augmentation draws on: parts, bounds, estimates of lengths."""

import threading

import numpy as np
import pytest
import soundfile

from harken.augment import recordings
from harken.augment.recordings import Part, Shelf, find_recordings, read_beginning, read_somewhere
from harken.errors import DataError
from harken.seeds import generator


@pytest.fixture
def hour(tmp_path):
    """A recording of 130 s whose samples say where they are."""
    ramp = np.repeat(np.arange(130) / 256, 1000)
    soundfile.write(tmp_path / "hour.wav", ramp, 1000, subtype="FLOAT")
    return str(tmp_path / "hour.wav")


def test_long_recordings_are_read_in_parts(hour, monkeypatch):
    monkeypatch.setattr(recordings, "shelf", Shelf(10**9))
    starts = set()
    for seed in range(40):
        part = read_somewhere(hour, 1000, 4000, generator(seed))
        first = round(float(part[0]) * 256)
        starts.add(first)
        assert len(part) == (40_000 if first == 90 else 30_000)
    assert starts == {0, 30, 60, 90}
    assert recordings.shelf.num_bytes == 4 * 130_000


def test_parts_are_as_long_as_long_clips(hour):
    for seed in range(10):
        assert len(read_somewhere(hour, 1000, 50_000, generator(seed))) >= 50_000
    assert len(read_somewhere(hour, 1000, 500_000, generator(0))) == 130_000


def test_beginnings(hour):
    assert len(read_beginning(hour, 1000, 10.0)) == 10_000
    assert len(read_beginning(hour, 1000, 1000.0)) == 130_000
    assert len(read_beginning(hour, 2000, 10.0)) == 20_000


def test_what_was_read_stays_within_the_bound(hour, monkeypatch):
    reads = []
    load = recordings.load
    monkeypatch.setattr(recordings, "load", lambda *args: reads.append(args) or load(*args))
    shelf = Shelf(3 * 4000)
    parts = [Part(hour, float(second), 1.0) for second in range(4)]
    for part in [*parts, *parts[1:]]:
        shelf.read(part, 1000)
    assert len(reads) == 4
    assert shelf.num_bytes == 3 * 4000
    shelf.read(parts[0], 1000)
    assert len(reads) == 5
    with pytest.raises(ValueError, match="read-only"):
        shelf.read(parts[0], 1000)[0] = 1


def test_a_part_larger_than_the_bound_is_read_all_the_same(hour):
    shelf = Shelf(10)
    assert len(shelf.read(Part(hour), 1000)) == 130_000
    assert shelf.num_bytes == 0


def test_threads_share_the_shelf(hour):
    shelf, found = Shelf(10**6), []

    def work(number):
        for second in range(20):
            part = shelf.read(Part(hour, float((second * number) % 7), 1.0), 1000)
            found.append(round(float(part[0]) * 256) == (second * number) % 7)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(found)
    assert shelf.num_bytes == sum(wave.nbytes for wave in shelf._parts.values())


def test_lengths_that_are_estimates_may_promise_too_much(hour, monkeypatch):
    monkeypatch.setattr(recordings, "_duration", lambda path: 300.0)
    for seed in range(10):
        assert len(read_somewhere(hour, 1000, 1000, generator(seed))) >= 1000
    assert len(read_beginning(hour, 1000, 200.0)) == 130_000


def test_folders_are_searched_deeply_and_in_order(tmp_path):
    for name in ("b.wav", "deep/a.FLAC", "deep/x.txt", ".hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_recordings(str(tmp_path), "background.path")
    assert [path.removeprefix(str(tmp_path) + "/") for path in found] == ["b.wav", "deep/a.FLAC"]
    assert find_recordings(found[0], "background.path") == (found[0],)
    with pytest.raises(DataError, match="empty"):
        read_beginning(found[0], 16000, 1.0)
