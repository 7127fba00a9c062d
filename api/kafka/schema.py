"""The tables that describe Kafka's messages: what `messages/` holds and `codec` compiles. Pure.

Version ranges name their first and their last version, both included, as Kafka's own schema files write them.
Source: the message definitions of Apache Kafka, section "validVersions", "flexibleVersions" and "taggedVersions"
(KIP-482 for the flexible ones, KIP-893 for structs that may be null).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Final, NamedTuple, TypeAlias, cast
from uuid import UUID

import msgspec

VersionRange: TypeAlias = tuple[int, int]

ZERO_UUID: Final = UUID(int=0)

# Types of a fixed size, and how `struct` writes them (big-endian).
FIXED_FORMATS: Final[dict[str, str]] = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "float64": "d",
    "uuid": "16s",
}

_IMPLICIT_DEFAULTS: Final[dict[str, object]] = {
    "bool": False,
    "float64": 0.0,
    "uuid": ZERO_UUID,
    "string": "",
    "bytes": b"",
    "records": None,
}


class _Implicit:
    """Stands for "the type's own default": zero, empty, or null for records and for nested structs."""


IMPLICIT: Final = _Implicit()


class Field(NamedTuple):
    """One field over all versions: `first`..`last` have it, `nullable` names those in which it may be null.

    A field with a `tag` travels in the tagged section of every version it is in, and is left out there when it
    equals its default. `type` is a name of `FIXED_FORMATS`, "string", "bytes", "records", or a nested struct's table.
    """

    name: str
    type: str | Message
    first: int
    last: int
    array: bool = False
    nullable: VersionRange | None = None
    tag: int | None = None
    default: object = IMPLICIT

    def is_in(self, version: int) -> bool:
        return self.first <= version <= self.last

    def is_nullable(self, version: int) -> bool:
        return self.nullable is not None and self.nullable[0] <= version <= self.nullable[1]

    @property
    def default_value(self) -> object:
        """What a message has here when nobody said anything; a list is fresh at each call."""
        if self.default is not IMPLICIT:
            return self.default
        if self.array:
            return []
        if isinstance(self.type, Message):
            return None if self.tag is not None else self.type.struct()
        return _IMPLICIT_DEFAULTS.get(self.type, 0)


class Message(NamedTuple):
    """One struct of the protocol, top level or nested: its class, its valid versions and its fields in wire order."""

    struct: type[msgspec.Struct]
    first: int
    last: int
    flexible_since: int | None
    fields: tuple[Field, ...]

    @property
    def name(self) -> str:
        return self.struct.__name__

    def is_flexible(self, version: int) -> bool:
        return self.flexible_since is not None and version >= self.flexible_since

    def fields_in(self, version: int) -> Iterator[Field]:
        return (field for field in self.fields if field.is_in(version))


class Api(NamedTuple):
    """One API key. Cheap: the tables of its request and response are imported when first asked for."""

    key: int
    name: str
    module: str
    first: int
    last: int
    flexible_since: int | None

    def has(self, version: int) -> bool:
        return self.first <= version <= self.last

    def is_flexible(self, version: int) -> bool:
        return self.flexible_since is not None and version >= self.flexible_since

    @property
    def request(self) -> Message:
        return _tables(self.module)[0]

    @property
    def response(self) -> Message:
        return _tables(self.module)[1]


@cache
def _tables(module: str) -> tuple[Message, Message]:
    tables = import_module(f"api.kafka.messages.{module}")
    return cast(Message, tables.REQUEST), cast(Message, tables.RESPONSE)
