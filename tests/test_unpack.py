"""Archives are unpacked into shards, and nothing is written outside."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harken import storage
from harken.errors import ConfigError, DataError, RunError
from harken.unpack import unpack
from harken.verbs.unpack import describe, unpack_archives

FILES = {"eval/--ab.flac": b"one" * 1000, "eval/deep/xyz.flac": b"two", "./a.wav": b"three"}


def archive(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> str:
    mode = "w:gz" if path.suffix == ".gz" else "w"
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for other in others:
            tar.addfile(other)
    return str(path)


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz"])
def test_files_go_to_folders_of_their_first_two_letters(tmp_path: Path, name: str) -> None:
    done = unpack([archive(tmp_path / name, FILES)], tmp_path / "out")
    assert tree(tmp_path / "out") == {
        "--/--ab.flac": FILES["eval/--ab.flac"],
        "xy/xyz.flac": b"two",
        "a/a.wav": b"three",
    }
    assert (done.written, done.skipped, done.bytes) == (3, 0, 3008)


def test_the_archives_own_folders_can_be_kept(tmp_path: Path) -> None:
    file = archive(tmp_path / "set.tar", FILES)
    unpack([file], tmp_path / "out", shards="none")
    assert set(tree(tmp_path / "out")) == {"eval/--ab.flac", "eval/deep/xyz.flac", "a.wav"}


def test_a_folder_stands_for_its_archives(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    archive(tmp_path / "sets" / "1.tar", {"one.wav": b"1"})
    archive(tmp_path / "sets" / "2.tar.gz", {"two.wav": b"2"})
    seen: list[str] = []
    done = unpack_archives([str(tmp_path / "sets")], str(tmp_path / "out"), told=seen.append)
    assert [line.partition(": ")[2] for line in seen] == [
        "1 files written (0.0 MB), 0 there already so far",
        "2 files written (0.0 MB), 0 there already so far",
    ]
    assert describe(done) == "2 files written (0.0 MB), 0 there already"
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no archive here"):
        unpack([str(tmp_path / "none")], tmp_path / "other")


@pytest.mark.parametrize("shards", ["id2", "none"])
@pytest.mark.parametrize(
    "name", ["/etc/evil.wav", "../evil.wav", "a/../../evil.wav", "a\\..\\evil.wav"]
)
def test_members_outside_are_refused(tmp_path: Path, name: str, shards: str) -> None:
    file = archive(tmp_path / "set.tar", {"good.wav": b"1", name: b"2"})
    with pytest.raises(DataError, match="lies outside") as caught:
        unpack_archives([file], str(tmp_path / "in" / "out"), shards=shards)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("set.tar: ")
    assert sorted(tree(tmp_path / "in")) == [
        "out/go/good.wav" if shards == "id2" else "out/good.wav"
    ]
    assert not (tmp_path / "evil.wav").exists()


@pytest.mark.parametrize("name", ["..x.wav", ".wav", ".hidden"])
def test_names_that_make_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    file = archive(tmp_path / "set.tar", {name: b"1"})
    with pytest.raises(DataError, match="no name to make a folder of"):
        unpack([file], tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "told"),
    [(tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"), (tarfile.FIFOTYPE, "a device")],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, told: str) -> None:
    member = tarfile.TarInfo("link.wav")
    member.type, member.linkname = kind, "/etc/passwd"
    file = archive(tmp_path / "set.tar", {}, member)
    with pytest.raises(DataError, match=f"'link.wav' is {told}"):
        unpack([file], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_the_folder_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "out" / "xy").symlink_to(tmp_path / "else")
    file = archive(tmp_path / "set.tar", {"xyz.wav": b"1"})
    with pytest.raises(DataError, match="is a link to another place"):
        unpack([file], tmp_path / "out", resume=True)
    assert not tree(tmp_path / "else")


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    file = archive(tmp_path / "set.tar", FILES)
    for suffix in (".tar", ".tar.gz"):
        cut = tmp_path / f"cut{suffix}"
        whole = Path(archive(tmp_path / f"whole{suffix}", {"big.wav": bytes(range(256)) * 400}))
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(DataError, match=r"cut\.tar(\.gz)?: this archive"):
            unpack([str(cut)], tmp_path / "out", resume=True)
        assert tree(tmp_path / "out") == {}
    unpack([archive(tmp_path / "first.tar", {"a.wav": b"three"})], tmp_path / "out", resume=True)
    (tmp_path / "out" / "xy").mkdir()
    (tmp_path / "out" / "xy" / "xyz.flac").write_bytes(b"t")
    with pytest.raises(RunError, match="not empty"):
        unpack([file], tmp_path / "out")
    done = unpack([file], tmp_path / "out", resume=True)
    assert (done.written, done.skipped) == (2, 1)
    assert tree(tmp_path / "out")["xy/xyz.flac"] == b"two"


@pytest.mark.parametrize("damage", ["header", "cut in a header", "cut before a header"])
def test_a_damaged_archive_is_not_taken_for_a_short_one(tmp_path: Path, damage: str) -> None:
    content = bytearray(Path(archive(tmp_path / "set.tar", FILES)).read_bytes())
    second = content.index(b"eval/deep")
    if damage == "header":
        content[second + 100 : second + 108] = b"\xff" * 8
    else:
        del content[second + (200 if damage == "cut in a header" else 0) :]
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.tar: .* damaged or cut off after {second} bytes"):
        unpack([str(tmp_path / "bad.tar")], tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"--/--ab.flac"}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_checksums_of_compressed_archives_are_looked_at(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    plain = Path(archive(tmp_path / "set.tar", FILES)).read_bytes()
    (tmp_path / "good.tgz").write_bytes(pack(plain[:700]) + pack(plain[700:]))
    assert unpack([str(tmp_path / "good.tgz")], tmp_path / "out").written == 3
    packed = pack(plain)
    (tmp_path / "cut.tgz").write_bytes(packed[:-4])
    with pytest.raises(DataError, match=r"cut\.tgz: this archive cannot be read"):
        unpack([str(tmp_path / "cut.tgz")], tmp_path / "other")


def test_what_follows_the_end_is_not_passed_over(tmp_path: Path) -> None:
    plain = Path(archive(tmp_path / "set.tar", FILES)).read_bytes()
    (tmp_path / "padded.tar").write_bytes(plain + bytes(50_000))
    assert unpack([str(tmp_path / "padded.tar")], tmp_path / "out").written == 3
    (tmp_path / "both.tar").write_bytes(plain + plain)
    with pytest.raises(DataError, match=r"both\.tar: .* more follows after its end"):
        unpack([str(tmp_path / "both.tar")], tmp_path / "other")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    file = archive(tmp_path / "set.tar", {"a" * 300 + ".wav": b"1"})
    with pytest.raises(RunError, match="name too long"):
        unpack([file], tmp_path / "out")


def test_a_file_of_another_size_in_a_bucket_is_written_anew(bucket: str, tmp_path: Path) -> None:
    unpack([archive(tmp_path / "old.tar", FILES)], f"{bucket}/out")
    file = archive(tmp_path / "new.tar", FILES | {"eval/deep/xyz.flac": b"second"})
    done = unpack([file], f"{bucket}/out", resume=True)
    assert (done.written, done.skipped) == (1, 2)
    assert storage.read_bytes(f"{bucket}/out/xy/xyz.flac") == b"second"


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no archive at all" * 100)
    with pytest.raises(DataError, match=r"text\.tar: this archive cannot be read"):
        unpack([str(tmp_path / "text.tar")], tmp_path / "out")
    with pytest.raises(DataError, match="no such file"):
        unpack([str(tmp_path / "none.tar")], tmp_path / "out")
    with pytest.raises(ConfigError, match="id2 or none"):
        unpack_archives(["x.tar"], str(tmp_path / "out"), shards="id3")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    file = archive(tmp_path / "set.tar", {"a/one.wav": b"1", "b/one.wav": b"2"})
    with pytest.raises(DataError, match=r"two members are both to be on/one\.wav"):
        unpack([file], tmp_path / "out")


def test_a_person_can_type_it(tmp_path: Path) -> None:
    file = archive(tmp_path / "set.tar", FILES)
    words = [sys.executable, "-m", "harken", "prepare", "unpack", file, "--out"]
    said = subprocess.run([*words, str(tmp_path / "out")], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "3 files written" in said.stdout.splitlines()[-1]
    again = subprocess.run([*words, str(tmp_path / "out")], capture_output=True, text=True)
    assert again.returncode == 1
    assert "not empty" in again.stderr
