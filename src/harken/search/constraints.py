"""Conditions between settings, such as `heads.bottleneck <= heads.shared`, in a grammar of our own.

    either     = both {"or" both}
    both       = negated {"and" negated}
    negated    = "not" negated | "(" either ")" | comparison
    comparison = term ("<" | "<=" | ">" | ">=" | "==" | "!=") term {…}
    term       = number | 'text' | true | false | null | a path of the recipe

Nothing is ever evaluated as Python. An order (`<`, `<=`, `>`, `>=`) that involves null holds: what
is not there limits nothing.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harken.errors import ConfigError

Lookup = Callable[[str], Any]
Term = Callable[[Lookup], Any]
Test = Callable[[Lookup], bool]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<sign><=|>=|==|!=|<|>)"
    r"|(?P<bracket>[()])"
    r"|(?P<word>[A-Za-z_][\w-]*(?:\.[\w-]+)*))"
)
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_NAMED = {"true": True, "false": False, "null": None}
_JOINING = ("and", "or", "not")
_EXAMPLE = "write it like: heads.bottleneck <= heads.shared and train.batch_size >= 8"


@dataclass(frozen=True)
class Constraint:
    """A condition that a combination of settings meets or does not.

    Attributes:
        text: As it was written.
        paths: The paths of the recipe that it names.
        holds: Called with a function from path to value; the condition's answer.
    """

    text: str
    paths: tuple[str, ...]
    holds: Test


@lru_cache(maxsize=256)
def read_constraint(text: str) -> Constraint:
    """Parse a condition.

    Raises:
        ConfigError: it is none.
    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.paths = text, list[str]()
        self.tokens, self.at = list(_tokens(text)), 0

    def whole(self) -> Constraint:
        test = self.either()
        if self.at < len(self.tokens):
            raise self.unexpected()
        return Constraint(self.text, tuple(dict.fromkeys(self.paths)), test)

    def either(self) -> Test:
        tests = [self.both()]
        while self.take("or"):
            tests.append(self.both())
        return lambda of: any(test(of) for test in tests)

    def both(self) -> Test:
        tests = [self.negated()]
        while self.take("and"):
            tests.append(self.negated())
        return lambda of: all(test(of) for test in tests)

    def negated(self) -> Test:
        if self.take("not"):
            test = self.negated()
            return lambda of: not test(of)
        if self.take("("):
            test = self.either()
            if not self.take(")"):
                raise self.unexpected()
            return test
        return self.comparison()

    def comparison(self) -> Test:
        terms, signs = [self.term()], list[str]()
        while self.kind == "sign":
            signs.append(self.next())
            terms.append(self.term())
        if not signs:
            raise self.unexpected()
        steps = list(zip(terms, signs, terms[1:], strict=False))
        return lambda of: all(self.compare(a(of), sign, b(of)) for a, sign, b in steps)

    def term(self) -> Term:
        kind = self.kind
        if kind not in ("number", "text", "word") or self.tokens[self.at][1] in _JOINING:
            raise self.unexpected()
        token = self.next()
        if kind == "word" and token not in _NAMED:
            self.paths.append(token)
            return lambda of: of(token)
        value = _NAMED[token] if kind == "word" else _literal(token)
        return lambda of: value

    def compare(self, left: Any, sign: str, right: Any) -> bool:
        if sign not in ("==", "!=") and (left is None or right is None):
            return True
        try:
            return bool(_SIGNS[sign](left, right))
        except TypeError:
            raise ConfigError(
                f"{left!r} {sign} {right!r} cannot be told in {self.text!r}",
                where="search.constraints",
                fix="put numbers in an order, and ask of texts whether they are == or !=",
            ) from None

    # --- the tokens ---

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "end"

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][1]

    def take(self, token: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at][1] == token
        self.at += found
        return found

    def unexpected(self) -> ConfigError:
        at_end = self.at >= len(self.tokens)
        found = "its end" if at_end else repr(self.tokens[self.at][1])
        return ConfigError(f"cannot read {self.text!r} at {found}", fix=_EXAMPLE)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise ConfigError(f"cannot read {text!r} at {text[at:].strip()!r}", fix=_EXAMPLE)
        found.append((str(match.lastgroup), match[str(match.lastgroup)]))
        at = match.end()
    return found


def _literal(token: str) -> float | int | str:
    if token[0] in "'\"":
        return token[1:-1]
    return int(token) if re.fullmatch(r"[-+]?\d+", token) else float(token)
