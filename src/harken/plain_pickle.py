"""Reading pickles of plain values without ever running one.

A pickle is a program for a stack machine, and its opcodes can call any function there is. This
reader knows only those that build plain values; it imports nothing and calls nothing that a file
names. What is read is None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset,
`argparse.Namespace` (as a dict) and `pathlib` paths (as str). All else is refused by its name.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from harken.errors import DataError

MAX_BYTES = 16 * 2**20
"""Larger files are no table of settings."""
MAX_VALUES = 200_000
"""Values in all, with shared ones counted as often as they are reached."""
MAX_COPIED = 2_000_000
"""Items and characters that the calls below may copy, so that a small file cannot fill memory."""
MAX_DEPTH = 100
"""Levels of values inside values; one that holds itself has no end."""

NAMESPACE = "argparse.Namespace"
_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}
_PATHS = {
    "pathlib.Path": PurePosixPath,
    "pathlib.PosixPath": PurePosixPath,
    "pathlib.PurePath": PurePosixPath,
    "pathlib.PurePosixPath": PurePosixPath,
    "pathlib.WindowsPath": PureWindowsPath,
    "pathlib.PureWindowsPath": PureWindowsPath,
}
_OTHERS = (
    "builtins.object", "builtins.set", "builtins.frozenset", "builtins.bytes",
    "copyreg._reconstructor", "_codecs.encode",
)  # fmt: skip
_SCALARS = (type(None), bool, int, float, str, bytes)

_VALUES = {
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4",
    "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Refusal(Exception):  # noqa: N818
    """Something that is no plain value; its text says what."""


class _Global:
    """The name of a class or function that a pickle asks for; never the thing itself."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Namespace(dict[str, Any]):
    """An `argparse.Namespace` in the making."""


def read_plain(path: str | Path) -> Any:
    """Read the value in a pickle file.

    Raises:
        DataError: there is no such file, it is no pickle, or it holds more than plain values; the
            class or function that it asks for is named.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None
    return loads_plain(data, where=str(path))


def loads_plain(data: bytes, where: str = "pickle") -> Any:
    """Read the value in a pickle's bytes; see `read_plain`."""
    if len(data) > MAX_BYTES:
        raise DataError(f"is larger than {MAX_BYTES >> 20} MiB; no settings are", where=where)
    try:
        return _Plain().of(_Machine().run(data))
    except _Refusal as refusal:
        raise DataError(
            f"holds more than plain values: {refusal}",
            where=where,
            fix="only None, numbers, text, bytes, lists, tuples, dicts, sets, argparse.Namespace "
            "and paths are read; nothing in the file was run",
        ) from None
    except (ValueError, LookupError, TypeError, OverflowError, struct.error) as error:
        text = str(error).split("\n")[0][:100]
        raise DataError(f"is no readable pickle: {text}", where=where) from None


class _Machine:
    """The stack machine, without its calls."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self, data: bytes) -> Any:
        """Run the opcodes up to STOP and return what they leave."""
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                break
            if name in _VALUES:
                self.stack.append(_CONSTANTS.get(name, argument))
            elif name in _STEPS:
                _STEPS[name](self, argument)
            else:
                raise _Refusal(_foreign(name, argument))
        if self.below or len(self.stack) != 1:
            raise ValueError("it leaves no value, or several")
        return self.stack[0]

    # --- the stack and the memo ---

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def unmark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.unmark()

    def top(self, kind: type, what: str) -> Any:
        if type(self.stack[-1]) is not kind:
            raise _Refusal(f"{what} on {_called(self.stack[-1])}")
        return self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    # --- containers ---

    def tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def append(self, _: Any) -> None:
        item = self.stack.pop()
        self.top(list, "APPEND").append(item)

    def appends(self, _: Any) -> None:
        items = self.unmark()
        self.top(list, "APPENDS").extend(items)

    def setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.top(dict, "SETITEM")[_hashable(key)] = value

    def setitems(self, _: Any) -> None:
        items = self.unmark()
        self.top(dict, "SETITEMS").update(_pairs(items))

    def additems(self, _: Any) -> None:
        items = self.unmark()
        self.top(set, "ADDITEMS").update(map(_hashable, items))

    # --- what would be calls ---

    def find(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_known(module, name))

    def find_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name is not text")
        self.stack.append(_known(module, name))

    def reduce(self, _: Any) -> None:
        arguments, asked = self.stack.pop(), self.stack.pop()
        if not isinstance(asked, _Global) or not isinstance(arguments, tuple):
            raise _Refusal(f"a call of {_called(asked)}")
        self.count(sum(len(a) for a in arguments if hasattr(a, "__len__")))
        self.stack.append(_made(asked.name, arguments))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        namespace = self.top(_Namespace, "BUILD")
        if not isinstance(state, dict):
            raise _Refusal(f"an argparse.Namespace made of {_called(state)}")
        self.count(len(state))
        namespace.update(state)

    def count(self, items: int) -> None:
        self.copied += 1 + items
        if self.copied > MAX_COPIED:
            raise _Refusal(f"copies of more than {MAX_COPIED} items")


def _pushes(make: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    """Return a step that puts what `make` makes of the items above the mark on the stack."""

    def step(machine: _Machine, _: Any) -> None:
        items = machine.unmark()
        machine.stack.append(make(items))

    return step


def _empty(make: type) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _tuples(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.tuple_of(count)


def _drop(machine: _Machine, _: Any) -> None:
    machine.unmark()


def _duplicate(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.stack[-1])


def _ignore(machine: _Machine, argument: Any) -> None:
    """Versions and frames say nothing about the value."""


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys, values = items[::2], items[1::2]
    return dict(zip(map(_hashable, keys), values, strict=True))


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _ignore,
    "FRAME": _ignore,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _drop,
    "DUP": _duplicate,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    "EMPTY_LIST": _empty(list),
    "EMPTY_DICT": _empty(dict),
    "EMPTY_SET": _empty(set),
    "EMPTY_TUPLE": _empty(tuple),
    "LIST": _pushes(list),
    "TUPLE": _pushes(tuple),
    "DICT": _pushes(_pairs),
    "FROZENSET": _pushes(lambda items: frozenset(map(_hashable, items))),
    "TUPLE1": _tuples(1),
    "TUPLE2": _tuples(2),
    "TUPLE3": _tuples(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "ADDITEMS": _Machine.additems,
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _known(module: str, name: str) -> _Global:
    full = f"{_MODULES.get(module, module)}.{name}"
    if full != NAMESPACE and full not in _PATHS and full not in _OTHERS:
        raise _Refusal(f"it asks for {_short(f'{module}.{name}')}")
    return _Global(full)


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a call of a known name would give; the calls of pickles of plain values only."""
    texts = all(isinstance(argument, str) for argument in arguments)
    if name == NAMESPACE and not arguments:
        return _Namespace()
    if name == "copyreg._reconstructor":
        asked = [a.name if isinstance(a, _Global) else a for a in arguments]
        if asked == [NAMESPACE, "builtins.object", None]:
            return _Namespace()
    if name in _PATHS and texts:
        return str(_PATHS[name](*arguments))
    if name == "_codecs.encode" and texts and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin1")
    if name == "builtins.bytes" and not arguments:
        return b""
    if name in ("builtins.set", "builtins.frozenset") and len(arguments) <= 1:
        items = arguments[0] if arguments else []
        if type(items) is list:
            made = set if name == "builtins.set" else frozenset
            return made(map(_hashable, items))
    raise _Refusal(f"a call of {name} with {len(arguments)} arguments")


def _hashable(key: Any) -> Any:
    """Return a key of a dict or a set.

    Nested tuples would be hashed by C code that recurses without a bound, or for ever where they
    share their parts, so only tuples of scalars are taken.
    """
    if type(key) is frozenset:
        return key
    for part in key if type(key) is tuple else (key,):
        if type(part) not in _SCALARS:
            raise _Refusal(f"a key or set item that is {_called(part)}")
    return key


class _Plain:
    """Copies what the machine left, and refuses what is no value, endless or enormous."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, int, int]] = {}
        self.open: set[int] = set()

    def of(self, value: Any) -> Any:
        return self.visit(value, 1)[0]

    def visit(self, value: Any, depth: int) -> tuple[Any, int, int]:
        """Return the copy, the values in it, and its height."""
        if type(value) in _SCALARS:
            return value, 1, 1
        if isinstance(value, _Global):
            raise _Refusal(f"{value.name} itself is no value")
        if id(value) in self.done:
            found = self.done[id(value)]
        elif id(value) in self.open or depth > MAX_DEPTH:
            raise _Refusal(f"a value that holds itself, or more than {MAX_DEPTH} levels")
        else:
            self.open.add(id(value))
            found = self.copy(value, depth)
            self.open.discard(id(value))
            self.done[id(value)] = found
        if found[1] > MAX_VALUES or depth + found[2] > MAX_DEPTH + 2:
            raise _Refusal(f"more than {MAX_VALUES} values or {MAX_DEPTH} levels")
        return found

    def copy(self, value: Any, depth: int) -> tuple[Any, int, int]:
        if isinstance(value, dict):
            parts = [self.visit(item, depth + 1) for item in value.values()]
            made: Any = dict(zip(value, (part[0] for part in parts), strict=True))
        else:
            parts = [self.visit(item, depth + 1) for item in value]
            made = type(value)(part[0] for part in parts)
        size = 1 + sum(part[1] for part in parts)
        return made, size, 1 + max((part[2] for part in parts), default=0)


def _foreign(name: str, argument: Any) -> str:
    asked = f" for {_short(str(argument).replace(' ', '.'))}" if name == "INST" else ""
    return f"the opcode {name}{asked}"


def _called(value: Any) -> str:
    return _short(value.name) if isinstance(value, _Global) else type(value).__name__.lstrip("_")


def _short(text: str) -> str:
    return ascii(text)[1:-1][:80]
