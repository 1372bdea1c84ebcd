"""Configs and slots: frozen pydantic models, and open unions whose member is picked by `kind`.

A *slot* is a direct subclass of `Choice` (`Frontend`, `Backbone`, …). Subclassing a slot and giving
the field `kind` a default registers the subclass, so a user's plug-in joins by being imported:

    class Mine(Backbone):
        kind: Literal["mine"] = "mine"
        width: int = 64

A field annotated with the slot then accepts `{kind: mine, width: 8}`, the bare string `mine`, or
the config object itself, and answers an unknown kind or key with the nearest name.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from harken.errors import ConfigError

_COMPARED = 1000


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the closest known name, or an empty string."""
    names = list(known)
    if len(names) > _COMPARED:
        # A comparison takes 0.1 ms, so of many names only those that begin most alike are compared.
        names = heapq.nlargest(_COMPARED, names, key=lambda name: _beginning(word, name))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def _beginning(one: str, other: str) -> int:
    """Return how many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


class Config(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_nearest_key(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            details = [cls._teach(dict(line)) for line in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(error.title, details) from None

    @classmethod
    def _teach(cls, line: dict[str, Any]) -> InitErrorDetails:
        text = line["msg"]
        if line["type"] == "extra_forbidden" and len(line["loc"]) == 1:
            text = f"unknown key{nearest(str(line['loc'][0]), cls.model_fields)}"
        kind = PydanticCustomError("harken", "{text}", {"text": text})
        return InitErrorDetails(type=kind, loc=line["loc"], input=line["input"])


class Choice(Config):
    """Base of every slot; see the module's text."""

    _kinds: ClassVar[dict[str, type[Choice]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls._is_slot():
            cls._kinds = {}
        kind = cls.model_fields.get("kind")
        if kind is not None and isinstance(kind.default, str):
            cls._register(kind.default)

    @classmethod
    def _register(cls, kind: str) -> None:
        known = cls._kinds.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ConfigError(
                f"two components call themselves {kind!r}: {known.__module__} and {cls.__module__}",
                fix="give the plug-in's component another kind",
            )
        cls._kinds[kind] = cls

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """Return the registered kinds of this slot, by name."""
        return dict(cls._kinds)  # type: ignore[arg-type]

    @classmethod
    def member(cls, kind: object) -> type[Self]:
        """Return the class registered as `kind`.

        Raises:
            ConfigError: nothing of that kind is registered in this slot.
        """
        if not isinstance(kind, str) or kind not in cls._kinds:
            names = ", ".join(sorted(cls._kinds))
            hint = nearest(str(kind), cls._kinds)
            raise ConfigError(f"unknown kind {kind!r}; one of {names}{hint}")
        return cls._kinds[kind]  # type: ignore[return-value]

    @classmethod
    def _is_slot(cls) -> bool:
        return cls.__base__ is not None and cls.__base__.__base__ is Config

    @classmethod
    def _dispatch(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict) or "kind" not in value:
            names = ", ".join(sorted(cls._kinds))
            raise PydanticCustomError("kind_missing", f"must say its kind: one of {names}")
        try:
            member = cls.member(value["kind"])
        except ConfigError as error:
            raise PydanticCustomError("kind_unknown", "{text}", {"text": error.message}) from error
        return member.model_validate(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls._is_slot():
            return handler(source)
        return core_schema.no_info_plain_validator_function(
            cls._dispatch,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value.model_dump()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        if not cls._is_slot():
            return handler(schema)
        kinds = sorted(cls._kinds.items())
        members = [handler(member.__pydantic_core_schema__) for _, member in kinds]
        return {"anyOf": [{"enum": sorted(cls._kinds)}, *members]}
