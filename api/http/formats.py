"""The embedded formats: how keys and values of records stand inside JSON. Pure.

    json    a JSON value; the record holds its bytes exactly as they stood in the body, `null` is none
    binary  a string of standard base64, padded
    string  a JSON string; the record holds it as UTF-8

Media types are the REST proxy's, `application/vnd.kafka.<format>.v2+json`; plain `application/json` means json. Header
values are base64 in all three. Source: Confluent REST proxy v2 (json, binary), Strimzi bridge (text, headers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from api.http.errors import BAD_REQUEST, FORMAT_MISMATCH, JSON_CONVERSION, PAYLOAD, Problem
from logstore.types import Record

TIMESTAMP_MAX: Final = 2**63 - 1


class Format(StrEnum):
    JSON = "json"
    BINARY = "binary"
    STRING = "string"


MEDIA_TYPES: Final = {format_: f"application/vnd.kafka.{format_}.v2+json" for format_ in Format}
_BY_CONTENT_TYPE: Final = {media_type: format_ for format_, media_type in MEDIA_TYPES.items()} | {
    "application/json": Format.JSON
}
_BY_ACCEPT: Final = _BY_CONTENT_TYPE | dict.fromkeys(
    ("*/*", "application/*", "application/vnd.kafka.v2+json"), Format.BINARY
)


def format_of_content_type(value: str) -> Format:
    """The format a request body is in. Raises `Problem` 415."""
    format_ = _BY_CONTENT_TYPE.get(value.partition(";")[0].strip().lower())
    if format_ is None:
        raise Problem(
            415,
            41501,
            f"content-type {value or '(none)'} is not taken; send {', '.join(_BY_CONTENT_TYPE)}",
        )
    return format_


def format_of_accept(value: str) -> tuple[Format, str]:
    """The format of the answer and its media type; binary when everything is welcome. Raises `Problem` 406."""
    if not value or value == "*/*":
        return Format.BINARY, MEDIA_TYPES[Format.BINARY]
    ranges = []
    for part in value.split(","):
        media_type, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((_quality(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
        ranges.append((-quality, media_type))
    for negative, media_type in sorted(ranges, key=lambda each: each[0]):
        if negative < 0 and media_type in _BY_ACCEPT:
            format_ = _BY_ACCEPT[media_type]
            return format_, media_type if media_type in _BY_CONTENT_TYPE else MEDIA_TYPES[format_]
    raise Problem(406, FORMAT_MISMATCH, f"accept {value} names no format; accept {', '.join(_BY_CONTENT_TYPE)}")


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


# --- in --------------------------------------------------------------------------------------------------------------

_NULL: Final = Raw(b"null")
_Timestamp = Annotated[int, Meta(ge=0, le=TIMESTAMP_MAX)]


class HeaderJson(Struct, gc=False, forbid_unknown_fields=True):
    """One record header; `value` is base64 on the wire."""

    name: str
    value: bytes | None = None


class _JsonRecord(Struct, gc=False, forbid_unknown_fields=True):
    key: Raw = _NULL
    value: Raw = _NULL
    partition: int | None = None
    timestamp: _Timestamp | None = None
    headers: list[HeaderJson] | None = None


class _BinaryRecord(Struct, gc=False, forbid_unknown_fields=True):
    key: bytes | None = None
    value: bytes | None = None
    partition: int | None = None
    timestamp: _Timestamp | None = None
    headers: list[HeaderJson] | None = None


class _StringRecord(Struct, gc=False, forbid_unknown_fields=True):
    key: str | None = None
    value: str | None = None
    partition: int | None = None
    timestamp: _Timestamp | None = None
    headers: list[HeaderJson] | None = None


class _JsonBody(Struct):
    records: list[_JsonRecord]


class _BinaryBody(Struct):
    records: list[_BinaryRecord]


class _StringBody(Struct):
    records: list[_StringRecord]


InRecord = _JsonRecord | _BinaryRecord | _StringRecord
_DECODERS: Final[dict[Format, msgspec.json.Decoder[_JsonBody | _BinaryBody | _StringBody]]] = {
    Format.JSON: msgspec.json.Decoder(_JsonBody),
    Format.BINARY: msgspec.json.Decoder(_BinaryBody),
    Format.STRING: msgspec.json.Decoder(_StringBody),
}


def parse_body(body: bytes, format_: Format) -> Sequence[InRecord]:
    """The records of a produce request, their values still as they came.

    Raises `Problem`: 400 for what is no JSON, 422 for JSON of another shape, or without records.
    """
    try:
        if format_ is Format.JSON and not body.isascii():
            str(body, "utf-8")  # raw values pass the decoder unread
        records = _DECODERS[format_].decode(body).records
    except msgspec.ValidationError as error:
        raise Problem(
            422, JSON_CONVERSION, f'the body is not {{"records": [...]}} in {format_} format: {error}'
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, BAD_REQUEST, f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Problem(400, BAD_REQUEST, "the body is nested too deeply") from None
    if not records:
        raise Problem(422, PAYLOAD, "there are no records in the body")
    return records


def _raw_bytes(raw: Any) -> bytes | None:
    data = bytes(raw)
    return None if data == b"null" else data


def _utf8(text: Any) -> bytes | None:
    return None if text is None else text.encode()


def _same(data: Any) -> bytes | None:
    return data  # type: ignore[no-any-return]  # bytes or None, as the struct's field says


TO_BYTES: Final[dict[Format, Callable[[Any], bytes | None]]] = {
    Format.JSON: _raw_bytes,
    Format.BINARY: _same,
    Format.STRING: _utf8,
}
"""A key or value of an `InRecord` -> the bytes of the record."""


# --- out -------------------------------------------------------------------------------------------------------------


class OutRecord(Struct, gc=False):
    """One record as it is read. `key` and `value` are what the format makes of them; bytes become base64."""

    topic: str
    key: Raw | bytes | str | None
    value: Raw | bytes | str | None
    partition: int
    offset: int
    timestamp: int | UnsetType
    headers: list[HeaderJson]


class Unreadable(Exception):
    """A key or value is not what the format wants."""


_RAW: Final = msgspec.json.Decoder(Raw)


def out_record(topic: str, partition: int, record: Record, format_: Format) -> OutRecord:
    """`record` for the encoder. Raises `Unreadable`, naming the record and a format that can show it."""
    key: Raw | bytes | str | None = record.key
    value: Raw | bytes | str | None = record.value
    if format_ is not Format.BINARY:
        make = _as_json if format_ is Format.JSON else _as_text
        field = "key"
        try:
            key = None if record.key is None else make(record.key)
            field = "value"
            value = None if record.value is None else make(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            what = "JSON" if format_ is Format.JSON else "UTF-8"
            other = "string or binary" if format_ is Format.JSON else "binary"
            raise Unreadable(
                f"the {field} at offset {record.offset} of {topic}-{partition} is not {what} "
                f"(ask for {other}, e.g. {MEDIA_TYPES[Format.BINARY]})"
            ) from None
    headers = [HeaderJson(_header_name(name), content) for name, content in record.headers] if record.headers else []
    timestamp = UNSET if record.timestamp_ms < 0 else record.timestamp_ms
    return OutRecord(topic, key, value, partition, record.offset, timestamp, headers)


def _as_json(data: bytes) -> Raw:
    if not data.isascii():
        str(data, "utf-8")
    return _RAW.decode(data)


def _as_text(data: bytes) -> str:
    return str(data, "utf-8")


def _header_name(name: str) -> str:
    """Header names that are no UTF-8 come with surrogates, which JSON cannot hold."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
