"""The restricted reader agrees with pickle on plain values and runs nothing else."""

from __future__ import annotations

import argparse
import collections
import pickle
import pickletools
import struct
import time
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.errors import DataError
from harken.plain_pickle import MAX_BYTES, loads_plain, read_plain

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
)
keys = scalars | st.tuples(scalars, scalars)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=5)
        | st.sets(keys, max_size=5)
        | st.frozensets(keys, max_size=5)
    ),
    max_leaves=12,
)
protocols = st.integers(0, pickle.HIGHEST_PROTOCOL)


def tagged(value: Any) -> tuple[Any, ...]:
    """Tell True from 1 and 1 from 1.0, at any depth."""
    name = type(value).__name__
    if isinstance(value, dict):
        return name, tuple((tagged(k), tagged(v)) for k, v in value.items())
    if isinstance(value, set | frozenset):
        return name, frozenset(map(tagged, value))
    if isinstance(value, list | tuple):
        return name, tuple(map(tagged, value))
    return name, value


@settings(max_examples=120, deadline=None)
@given(plain, protocols)
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    read = loads_plain(pickle.dumps(value, protocol))
    assert tagged(read) == tagged(value)


# A namespace has attributes of its own, such as __dict__, which no option is called.
names = st.text(min_size=1, max_size=8).filter(lambda name: not name.startswith("__"))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, plain, max_size=6), protocols)
def test_namespaces_become_dicts(values: dict[str, Any], protocol: int) -> None:
    namespace = argparse.Namespace(**values)
    assert loads_plain(pickle.dumps(namespace, protocol)) == values
    assert loads_plain(pickletools.optimize(pickle.dumps(namespace, protocol))) == values


@pytest.mark.parametrize("protocol", range(6))
def test_paths_sets_and_shared_values(protocol: int) -> None:
    shared = ["slow rate"]
    value = {
        "out": Path("experiments/a"),
        "pure": PurePosixPath("/x"),
        "windows": PureWindowsPath("C:\\data"),
        "sets": {1, 2},
        "empty": [set(), frozenset(), b"", b"\xff", (), [], {}, ""],
        "groups": [shared, shared],
        "nested": argparse.Namespace(inner=argparse.Namespace(a=1)),
    }
    read = loads_plain(pickle.dumps(value, protocol))
    assert read["out"] == "experiments/a"
    assert read["pure"] == "/x"
    assert read["windows"] == "C:\\data"
    assert read["sets"] == {1, 2}
    assert read["empty"] == value["empty"]
    assert read["groups"] == [["slow rate"], ["slow rate"]]
    assert read["nested"] == {"inner": {"a": 1}}


class Evil:
    """Would write a file if anything ran it."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


class Sly(argparse.Namespace):
    """A subclass is not the class."""


def evil_payloads(mark: Path) -> dict[str, tuple[Any, str]]:
    import os
    import subprocess

    return {
        "system": (Evil(os.system, f"touch {mark}"), "posix.system"),
        "eval": (Evil(eval, f"open({str(mark)!r}, 'w')"), "eval"),
        "popen": (Evil(subprocess.Popen, ["touch", str(mark)]), "Popen"),
        "getattr": (Evil(getattr, argparse.Namespace, "__init__"), "getattr"),
        "open": (Evil(open, str(mark), "w"), "io.open"),
        "touch": (Evil(Path.touch, mark), "getattr|Path.touch"),
        "subclass": (Sly(a=1), "Sly"),
        "ordered": (collections.OrderedDict(a=1), "collections.OrderedDict"),
        "complex": (1j, "complex"),
        "bytearray": (bytearray(b"x"), "bytearray|BYTEARRAY8"),
        "function": (argparse.ArgumentParser, "argparse.ArgumentParser"),
        "class": (argparse.Namespace, "argparse.Namespace itself"),
        "range": (range(3), "range"),
        "set of a string": (Evil(set, "abc"), "builtins.set"),
        "bytes of a number": (Evil(bytes, 10**12), "builtins.bytes"),
    }


@pytest.mark.parametrize("protocol", range(6))
def test_whatever_would_run_is_refused_and_named(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    for name, (payload, asked) in evil_payloads(mark).items():
        wrapped = argparse.Namespace(lr=0.1, trap=payload)
        for value in (payload, wrapped, [1, payload], {"a": (payload,)}):
            with pytest.raises(DataError, match=asked) as caught:
                loads_plain(pickle.dumps(value, protocol), where="args.pkl")
            assert "\n" not in str(caught.value), name
    assert not mark.exists()


RAW = {
    "inst": (b"(S'touch /tmp/x'\nios\nsystem\n.", "os.system"),
    "obj": (b"(cos\nsystem\nS'x'\no.", "os.system"),
    "dotted": (b"\x80\x04\x8c\x08builtins\x8c\x0cobject.__cls\x93.", "builtins.object.__cls"),
    "extension": (b"\x82\x01.", "EXT1"),
    "persistent": (b"Pid\n.", "PERSID"),
    "newobj_ex": (b"\x80\x04)}\x92.", "NEWOBJ_EX"),
    "build on a dict": (b"}}b.", "BUILD"),
    "build with a list": (b"cargparse\nNamespace\n)\x81]b.", "made of list"),
    "reduce a string": (b"S'os'\n)R.", "a call of str"),
    "list itself": (b"]q\x00h\x00a.", "holds itself"),
    "dict itself": (b"}q\x00(U\x01ah\x00u.", "holds itself"),
    "each other": (b"]q\x00]q\x01h\x00ah\x00h\x01a0.", "holds itself|leaves"),
    "encode to another": (b"c_codecs\nencode\n(X\x01\x00\x00\x00aU\x03rottR.", "_codecs.encode"),
    "unhashable key": (b"}(]K\x01u.", "a key or set item that is list"),
    "deep key": (b"}(" + b")" + b"\x85" * 50_000 + b"K\x01u.", "a key or set item"),
    "deep list": (b"]" * 500 + b"a" * 499 + b".", "levels"),
    "odd items": (b"}(K\x01u.", "no readable pickle"),
    "underflow": (b"a.", "no readable pickle"),
    "no value": (b"\x80\x02.", "leaves no value"),
    "open mark": (b"(K\x01.", "leaves no value"),
    "unknown memo": (b"h\x05.", "no readable pickle"),
    "no stop": (b"\x80\x02K\x01", "no readable pickle"),
    "text": (b"hello world", "no readable pickle"),
    "empty": (b"", "no readable pickle"),
    "huge string": (b"X\xff\xff\xff\x7fabc.", "no readable pickle"),
    "huge bytes": (b"\x8e" + struct.pack("<Q", 2**62) + b"abc.", "no readable pickle"),
    "huge long": (b"\x8b\xff\xff\xff\x7f\x01.", "no readable pickle"),
    "unknown opcode": (b"\x80\x02\xfe.", "no readable pickle"),
}


@pytest.mark.parametrize("name", RAW)
def test_crafted_bytes_are_refused(name: str) -> None:
    data, said = RAW[name]
    with pytest.raises(DataError, match=said):
        loads_plain(data)


def test_small_files_cannot_take_long_or_fill_memory() -> None:
    doubling = b"(]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(60)) + b"l."
    sets = b"]q\x00(" + b"K\x01" * 50_000 + b"e0("
    sets += b"c__builtin__\nset\nh\x00\x85R" * 5_000 + b"l."
    builds = b"}q\x00(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(50_000)) + b"u"
    builds += b"cargparse\nNamespace\n)\x81" + b"h\x00b" * 100_000 + b"."
    for data, said in ((doubling, "values"), (sets, "copies"), (builds, "copies")):
        began = time.monotonic()
        with pytest.raises(DataError, match=said):
            loads_plain(data)
        assert time.monotonic() - began < 5


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_refusal(data: bytes) -> None:
    for prefix in (b"", b"\x80\x04", b"(", b"](}"):
        try:
            loads_plain(prefix + data + b".")
        except DataError:
            continue


@settings(max_examples=120, deadline=None)
@given(plain, protocols, st.data())
def test_damaged_pickles_give_a_value_or_a_refusal(value: Any, protocol: int, data: Any) -> None:
    raw = bytearray(pickle.dumps(argparse.Namespace(a=value), protocol))
    for _ in range(3):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        loads_plain(bytes(raw))
    except DataError:
        return


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "args.pkl"
    path.write_bytes(pickle.dumps(argparse.Namespace(epochs=3)))
    assert read_plain(path) == {"epochs": 3}
    with pytest.raises(DataError, match="No such file"):
        read_plain(tmp_path / "none.pkl")
    path.write_bytes(b"\x80" * (MAX_BYTES + 1))
    with pytest.raises(DataError, match="16 MiB"):
        read_plain(path)
