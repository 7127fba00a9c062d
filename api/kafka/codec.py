"""Kafka requests and responses: bytes to structs and back, for every API in `messages`. Pure.

Readers and writers are compiled from the tables on first use and kept. Readers check every length and count against
the bytes that are left before they allocate, take at most ELEMENTS_MAX elements in a request, skip tagged fields they
do not know (KIP-482), and ignore bytes behind the message, as Kafka does. `records` come out as views of the buffer,
everything else is copied.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from api.kafka import wire
from api.kafka.compile_reader import Reader, compile_reader
from api.kafka.compile_writer import Writer, compile_writer
from api.kafka.errors import MalformedMessage
from api.kafka.messages import APIS
from api.kafka.schema import Message
from logstore.errors import InvalidRequest

API_VERSIONS_KEY: Final = 18
ELEMENTS_MAX: Final = 1 << 18  # of all arrays of a request: more than the partitions one node can serve

_HEADER_START = struct.Struct(">hhi")
assert _HEADER_START.size == 8
_HEADER_WITH_CLIENT = struct.Struct(">hhih")
assert _HEADER_WITH_CLIENT.size == 10
_CORRELATION = struct.Struct(">i")
assert _CORRELATION.size == 4

# Every API and version that has tables -> is it flexible (KIP-482)
_FLEXIBLE: Final = {
    (api.key, version): api.is_flexible(version) for api in APIS.values() for version in range(api.first, api.last + 1)
}

_request_readers: dict[tuple[int, int], Reader] = {}
_request_writers: dict[tuple[int, int], Writer] = {}
_response_readers: dict[tuple[int, int], Reader] = {}
_response_writers: dict[tuple[int, int], Writer] = {}
_payload_readers: dict[tuple[str, int], Reader] = {}
_payload_writers: dict[tuple[str, int], Writer] = {}


class RequestHeader(msgspec.Struct, gc=False):
    """What comes before a request's body; `body_position` is where that begins in the buffer."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body_position: int


def supports(api_key: int, version: int) -> bool:
    """Whether there are tables for this API at this version. What a node advertises may be less."""
    return (api_key, version) in _FLEXIBLE


def read_request_header(buffer: memoryview, position: int = 0) -> RequestHeader:
    """The request header at `position` (behind the frame's size).

    Of an API or version without tables only the first three fields are read, `client_id` is None and `body_position`
    is behind those fields: enough to refuse it. Raises `MalformedMessage`.
    """
    try:
        api_key, version, correlation_id, size = _HEADER_WITH_CLIENT.unpack_from(buffer, position)
    except struct.error:
        if len(buffer) - position >= _HEADER_START.size:
            api_key, version, correlation_id = _HEADER_START.unpack_from(buffer, position)
            if not supports(api_key, version):
                return RequestHeader(api_key, version, correlation_id, None, position + _HEADER_START.size)
        raise MalformedMessage(f"request header of {len(buffer) - position} bytes") from None
    flexible = _FLEXIBLE.get((api_key, version))
    if flexible is None:
        return RequestHeader(api_key, version, correlation_id, None, position + _HEADER_START.size)
    position += _HEADER_WITH_CLIENT.size
    client_id = None
    if size >= 0:
        # The client id keeps the old string form in every header version, so that any broker can read it.
        body_position = position + size
        if body_position > len(buffer):
            wire.too_long("client_id", size, len(buffer) - position)
        try:
            client_id = str(buffer[position:body_position], "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedMessage(f"client_id is not UTF-8: {error.reason}") from None
        position = body_position
    return RequestHeader(
        api_key, version, correlation_id, client_id, _behind_tags(buffer, position) if flexible else position
    )


def read_request(api_key: int, version: int, buffer: memoryview, position: int = 0) -> msgspec.Struct:
    """The request body at `position`. Raises `MalformedMessage`; `InvalidRequest` for a version without tables."""
    read = _request_readers.get((api_key, version))
    if read is None:
        read = compile_reader(_table(api_key, version, response=False), version, elements_max=ELEMENTS_MAX)
        _request_readers[api_key, version] = read
    return read(buffer, position)[0]


def write_response(api_key: int, version: int, message: msgspec.Struct) -> bytearray:
    """The response body. Raises `ValueError` for a message that this version cannot express."""
    write = _response_writers.get((api_key, version))
    if write is None:
        write = compile_writer(_table(api_key, version, response=True), version)
        _response_writers[api_key, version] = write
    return write(message)


def write_request(api_key: int, version: int, message: msgspec.Struct) -> bytearray:
    """The request body, as a client sends it. Raises `ValueError` as `write_response` does."""
    write = _request_writers.get((api_key, version))
    if write is None:
        write = compile_writer(_table(api_key, version, response=False), version)
        _request_writers[api_key, version] = write
    return write(message)


def read_response(api_key: int, version: int, buffer: memoryview, position: int = 0) -> msgspec.Struct:
    """The response body at `position`, as a client gets it. Raises `MalformedMessage`."""
    read = _response_readers.get((api_key, version))
    if read is None:
        read = compile_reader(_table(api_key, version, response=True), version)
        _response_readers[api_key, version] = read
    return read(buffer, position)[0]


def response_header(api_key: int, version: int, correlation_id: int) -> bytes:
    """The response header: with a tagged section (v1) for flexible versions, except for ApiVersions.

    A client that does not know the broker's versions yet must be able to read that answer (KIP-511).
    """
    encoded = _CORRELATION.pack(correlation_id)
    return encoded + wire.EMPTY_TAGS if _has_response_tags(api_key, version) else encoded


def write_request_header(api_key: int, version: int, correlation_id: int, client_id: str | None) -> bytes:
    """The request header, v1 or v2 (flexible versions)."""
    raw = b"" if client_id is None else client_id.encode()
    size = -1 if client_id is None else len(raw)
    tags = wire.EMPTY_TAGS if _FLEXIBLE.get((api_key, version)) else b""
    return _HEADER_WITH_CLIENT.pack(api_key, version, correlation_id, size) + raw + tags


def read_response_header(api_key: int, version: int, buffer: memoryview, position: int = 0) -> tuple[int, int]:
    """The correlation id and the position of the body. Raises `MalformedMessage`."""
    try:
        (correlation_id,) = _CORRELATION.unpack_from(buffer, position)
    except struct.error:
        raise MalformedMessage(f"response header of {len(buffer) - position} bytes") from None
    position += _CORRELATION.size
    return correlation_id, _behind_tags(buffer, position) if _has_response_tags(api_key, version) else position


def read_payload(table: Message, version: int, buffer: memoryview, position: int = 0) -> msgspec.Struct:
    """A message inside another one's bytes, such as a consumer's subscription (behind its int16 version)."""
    read = _payload_readers.get((table.name, version))
    if read is None:
        read = _payload_readers[table.name, version] = compile_reader(_checked(table, version), version)
    return read(buffer, position)[0]


def write_payload(table: Message, version: int, message: msgspec.Struct) -> bytearray:
    """The counterpart of `read_payload`."""
    write = _payload_writers.get((table.name, version))
    if write is None:
        write = _payload_writers[table.name, version] = compile_writer(_checked(table, version), version)
    return write(message)


def _table(api_key: int, version: int, *, response: bool) -> Message:
    api = APIS.get(api_key)
    if api is None:
        raise InvalidRequest(f"API key {api_key} is not known here")
    return _checked(api.response if response else api.request, version)


def _checked(table: Message, version: int) -> Message:
    if not table.first <= version <= table.last:
        hint = f"versions {table.first} to {table.last} are"
        raise InvalidRequest(f"{table.name} version {version} is not known here", hint=hint)
    return table


def _has_response_tags(api_key: int, version: int) -> bool:
    return api_key != API_VERSIONS_KEY and _FLEXIBLE.get((api_key, version), False)


def _behind_tags(buffer: memoryview, position: int) -> int:
    try:
        if not buffer[position]:
            return position + 1
        return wire.skip_tags(buffer, position + 1, len(buffer), buffer[position])
    except IndexError:
        raise MalformedMessage("header: cut short in its tagged fields") from None
