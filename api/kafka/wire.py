"""What compiled readers and writers call: variable-length integers, tagged sections, cached structs. Pure.

Every reader takes the buffer, a position and the position where the message ends (exclusive), checks before it
allocates, and raises `MalformedMessage`. `IndexError` and `struct.error` from running off the buffer are turned into
it by the callers. Source: Kafka protocol guide, "Protocol Primitive Types"; KIP-482 for tagged fields.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NoReturn, TypeVar
from uuid import UUID

from api.kafka.errors import MalformedMessage

T = TypeVar("T")

EMPTY_TAGS: Final = b"\x00"
# Of a text in any version: a longer one that a flexible version brought could not be told to clients of the others.
STRING_BYTES_MAX: Final = 2**15 - 1
# Unsigned varints of every value that one byte holds.
VARINTS: Final = tuple(bytes((value,)) for value in range(128))

compiled_struct = lru_cache(maxsize=512)(struct.Struct)


def too_long(what: str, wanted: int, left: int) -> NoReturn:
    """The bytes left cannot hold a length or count that the message claims, or no message may have so long a text."""
    raise MalformedMessage(f"{what}: {wanted} wanted where {max(left, 0)} bytes are left")


def too_many(what: str) -> NoReturn:
    raise MalformedMessage(f"{what}: more elements than one request may have")


def not_nullable(what: str) -> NoReturn:
    raise MalformedMessage(f"{what}: null is not allowed here")


def longer_varint(buffer: memoryview, position: int, first: int) -> tuple[int, int]:
    """The rest of an unsigned 32-bit varint whose `first` byte, just before `position`, has its high bit set.

    Returns the value and the position behind it. Raises `MalformedMessage` above five bytes or 32 bits.
    """
    value = first & 0x7F
    for shift in (7, 14, 21, 28):
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 32:
                break
            return value, position
    raise MalformedMessage("a varint of more than 32 bits")


def read_varint(buffer: memoryview, position: int) -> tuple[int, int]:
    """One unsigned 32-bit varint at `position`, and the position behind it."""
    first = buffer[position]
    return longer_varint(buffer, position + 1, first) if first > 127 else (first, position + 1)


def varint(value: int) -> bytes:
    """`value`, 0 to 2^32-1, as an unsigned varint."""
    if 0 <= value < 128:
        return VARINTS[value]
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value} is not an unsigned 32-bit number")
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def skip_tags(buffer: memoryview, position: int, end: int, count: int) -> int:
    """Step over a tagged section nobody here knows; `count` is its first byte. Returns the position behind it."""
    if count > 127:
        count, position = longer_varint(buffer, position, count)
    for _ in range(count):
        _, position = read_varint(buffer, position)
        position = tag_end(buffer, position, end)[1]
    return position


def tag_end(buffer: memoryview, position: int, end: int) -> tuple[int, int]:
    """Where the value of a tagged field begins and where it ends, from its size at `position`."""
    size, position = read_varint(buffer, position)
    if size > end - position:
        too_long("tagged field", size, end - position)
    return position, position + size


def count_of_tags(buffer: memoryview, position: int, end: int, count: int) -> tuple[int, int]:
    """How many tagged fields follow: each takes two bytes or more."""
    if count > 127:
        count, position = longer_varint(buffer, position, count)
    if count * 2 > end - position:
        too_long("tagged fields", count, end - position)
    return count, position


@lru_cache(maxsize=4096)
def uuid_of(raw: bytes) -> UUID:
    """Topic ids repeat in every request: building one costs ten times as much as finding it here."""
    return UUID(bytes=raw)
