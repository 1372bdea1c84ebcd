from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harken import storage
from harken.embeddings import Parts, clip_columns, format_of, read_embeddings, read_settings
from harken.errors import ConfigError, DataError, RunError
from harken.parts import parts_folder

FRAME = pl.DataFrame({"id": [f"ä{i}" for i in range(10)], "label": ["x", None] * 5})
VECTORS = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)


def write(out: Path, **options: object) -> Parts:
    parts = Parts(str(out), FRAME, {"level": "pt"}, rows=4, **options)  # type: ignore[arg-type]
    parts.open()
    for number, rows in parts.todo():
        parts.save(number, VECTORS[rows])
    assert parts.join() == 3
    return parts


@pytest.mark.parametrize(
    ("name", "options", "columns"),
    [
        ("e.parquet", {}, ["id", "label", "e0", "e1", "e2"]),
        ("e.parquet", {"columns": "list"}, ["id", "label", "embedding"]),
        ("e.npz", {"file_format": "npz"}, ["id"]),
        ("e.npz", {"file_format": "npz", "columns": "list"}, ["id"]),
    ],
)
def test_a_table_reads_back_as_it_was_written(
    tmp_path: Path, name: str, options: dict[str, object], columns: list[str]
) -> None:
    parts = write(tmp_path / name, **options)
    found = read_embeddings(str(tmp_path / name))
    assert found.frame["id"].to_list() == FRAME["id"].to_list()
    np.testing.assert_array_equal(found.vectors, VECTORS)
    assert found.settings["level"] == "pt"
    assert parts.is_done
    assert not parts_folder(str(tmp_path / name)).exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith("parquet"):
        assert pl.read_parquet(tmp_path / name).columns == columns


def test_npz_is_plain(tmp_path: Path) -> None:
    write(tmp_path / "e.npz", file_format="npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].dtype.kind == "U"
        assert arrays["ids"].tolist() == FRAME["id"].to_list()
        assert arrays["embeddings"].dtype == np.float32


def test_finished_parts_are_not_computed_again(tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    first = Parts(str(out), FRAME, {"a": 1}, rows=4)
    assert not first.open()
    first.save(1, VECTORS[4:8])
    again = Parts(str(out), FRAME, {"a": 1}, rows=4)
    assert not again.open()
    assert [number for number, _ in again.todo()] == [0, 2]
    for number, rows in list(again.todo()):
        again.save(number, VECTORS[rows])
    again.join()
    np.testing.assert_array_equal(read_embeddings(str(out)).vectors, VECTORS)


@pytest.mark.parametrize("change", ["settings", "rows", "columns", "clips", "label"])
def test_parts_of_other_settings_are_thrown_away(tmp_path: Path, change: str) -> None:
    out = str(tmp_path / "e.parquet")
    first = Parts(out, FRAME, {"a": 1}, rows=4)
    first.open()
    first.save(0, VECTORS[:4])
    other = {
        "settings": lambda: Parts(out, FRAME, {"a": 2}, rows=4),
        "rows": lambda: Parts(out, FRAME, {"a": 1}, rows=5),
        "columns": lambda: Parts(out, FRAME, {"a": 1}, rows=4, columns="list"),
        "clips": lambda: Parts(out, FRAME.reverse(), {"a": 1}, rows=4),
        "label": lambda: Parts(out, FRAME.with_columns(label=pl.lit("y")), {"a": 1}, rows=4),
    }[change]()
    assert other.open()
    assert next(number for number, _ in other.todo()) == 0


def test_what_is_only_told_changes_nothing(tmp_path: Path) -> None:
    out = str(tmp_path / "e.parquet")
    one = Parts(out, FRAME, {"a": 1}, about={"model": "runs/a"})
    two = Parts(out, FRAME, {"a": 1}, about={"model": "/home/me/runs/a"})
    assert one.settings["fingerprint"] == two.settings["fingerprint"]
    assert one.settings["model"] == "runs/a"


def test_a_half_written_part_does_not_count(tmp_path: Path) -> None:
    parts = Parts(str(tmp_path / "e.parquet"), FRAME, {}, rows=4)
    parts.open()
    (parts.folder / ".part-000000.1a2b3c4d.parquet").write_bytes(b"PAR1")
    assert [number for number, _ in parts.todo()] == [0, 1, 2]


def test_columns_that_would_hide_embeddings_are_renamed() -> None:
    frame = pl.DataFrame(
        {"id": ["a"], "path": ["/a"], "start": [None], "duration": [None], "row": [1]}
        | {"e0": [1], "e01": [2], "embedding": [3], "energy": [4]}
    )
    kept = clip_columns(frame)
    assert kept.columns == ["id", "path", "table_e0", "e01", "table_embedding", "energy"]
    timed = frame.with_columns(duration=pl.lit(1.5))
    assert {"start", "duration"} <= set(clip_columns(timed).columns)


@pytest.mark.parametrize(
    ("out", "wanted", "expected"),
    [
        ("a.parquet", None, "parquet"),
        ("a.pqt", None, "parquet"),
        ("a.npz", None, "npz"),
        ("gs://b/a.NPZ", None, "npz"),
        ("a", "npz", "npz"),
        ("a", None, "parquet"),
        ("dir.npz/a", None, "parquet"),
    ],
)
def test_the_format_is_what_name_or_option_say(out: str, wanted: str, expected: str) -> None:
    assert format_of(out, wanted) == expected


@pytest.mark.parametrize(
    ("out", "wanted"),
    [
        ("a.npz", "parquet"),
        ("a.parquet", "csv"),
        ("a.csv", None),
        ("b/a.CSV", "npz"),
        ("a.pt", None),
    ],
)
def test_contradicting_formats_are_refused(out: str, wanted: str | None) -> None:
    with pytest.raises(ConfigError):
        format_of(out, wanted)


def test_embeddings_of_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "others.pqt"
    lists = pl.Series("embedding", VECTORS.tolist(), dtype=pl.List(pl.Float64))
    FRAME.with_columns(lists).write_parquet(path)
    found = read_embeddings(str(path))
    np.testing.assert_allclose(found.vectors, VECTORS)
    assert found.settings == {}
    assert found.frame.columns == ["id", "label"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME, "neither columns e0"),
        (FRAME.drop("id").with_columns(e0=pl.lit(1.0)), "no column 'id'"),
        (
            pl.DataFrame({"id": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}),
            "all of one length",
        ),
        (pl.DataFrame({"id": ["a"], "embedding": ["[1.0]"]}), "lists of numbers"),
        (pl.DataFrame({"id": ["a"], "embedding": [["x", "y"]]}), "lists of numbers"),
        (pl.DataFrame({"id": ["a"], "e0": [1.0], "e1": ["x"]}), "column 'e1' must hold numbers"),
        (pl.DataFrame({"id": ["a", "b", "a"], "e0": [1.0, 2.0, 3.0]}), "'a' stands in .* twice"),
    ],
)
def test_tables_without_embeddings_are_refused(
    tmp_path: Path, frame: pl.DataFrame, message: str
) -> None:
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read_embeddings(str(tmp_path / "a.parquet"))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read_embeddings(str(tmp_path / "absent.parquet"))
    (tmp_path / "text.parquet").write_text("id,e0\na,1\n")
    with pytest.raises(RunError, match="no table of embeddings"):
        read_settings(str(tmp_path / "text.parquet"))
    np.savez(tmp_path / "a.npz", vectors=VECTORS)
    with pytest.raises(DataError, match="`ids` and `embeddings`"):
        read_embeddings(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", ids=np.array(["a", None], object), embeddings=VECTORS[:2])
    with pytest.raises(DataError, match="save texts and numbers"):
        read_embeddings(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", ids=np.array(["a", "b"]), embeddings=VECTORS)
    with pytest.raises(DataError, match="a row for each of `ids`"):
        read_embeddings(str(tmp_path / "a.npz"))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-40])
    with pytest.raises(RunError, match="no table of embeddings"):
        read_embeddings(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_ids_are_text_whatever_they_were_written_as(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"e.{suffix}"
    if suffix == "npz":
        np.savez(path, ids=np.arange(10), embeddings=VECTORS)
    else:
        frame = pl.from_numpy(VECTORS, schema=["e0", "e1", "e2"])
        frame.with_columns(id=pl.int_range(10)).write_parquet(path)
    found = read_embeddings(str(path))
    assert found.frame["id"].to_list() == [str(number) for number in range(10)]
    np.testing.assert_array_equal(found.vectors, VECTORS)


def test_a_table_in_a_bucket_has_its_parts_beside_it() -> None:
    parts = Parts("memory://bucket/e.parquet", FRAME, {}, rows=20)
    parts.open()
    parts.save(0, VECTORS)
    assert {e.name for e in storage.entries("memory://bucket/.e.parquet.parts")} == {
        "part-000000.parquet",
        "settings.json",
    }
    parts.join()
    assert not storage.entries("memory://bucket/.e.parquet.parts")
    np.testing.assert_array_equal(read_embeddings("memory://bucket/e.parquet").vectors, VECTORS)
    assert parts.is_done
