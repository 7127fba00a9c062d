"""Records as text: lines and JSON lines in, a template or JSON lines out.

The JSON of `consume -f json` is what `produce -f json` takes. Bytes that are not UTF-8 travel as `key_base64` and
`value_base64`, beside a null `key` or `value`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import typer

from logstore.types import Header, Record, TimestampMs, TopicPartition
from tools.output import Failure


class NewRecord(NamedTuple):
    """One record to write. None: no key, a tombstone, a partition chosen by key, the time of sending."""

    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
    partition: int | None = None
    timestamp_ms: TimestampMs | None = None


Parser: TypeAlias = Callable[[bytes], NewRecord]
"""One line without its end -> the record. Raises `ValueError` saying what is wrong with the line."""

Formatter: TypeAlias = Callable[[TopicPartition, Record], bytes]

_VERB: Final = re.compile(r"%([tpokvhd%])(?:\{(hex|base64)\})?|\\([nrt0\\])|%(.?)", re.DOTALL)
# What a line of JSON may have. `topic` and `offset` are what `consume` prints, and are not looked at.
_FIELDS: Final = {
    *("key", "key_base64", "value", "value_base64", "headers", "timestamp", "partition"),
    *("topic", "offset"),
}
_ESCAPES: Final[Mapping[str, bytes]] = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}


# --- in -------------------------------------------------------------------------------------------------------------


def line_parser(key: bytes | None, delimiter: bytes | None, headers: tuple[Header, ...], tombstone: bool) -> Parser:
    """Each line is a value, or a key and a value with `delimiter` between; `tombstone`: an empty value is none."""

    def parse(line: bytes) -> NewRecord:
        this_key, value = key, line
        if delimiter is not None:
            this_key, found, value = line.partition(delimiter)
            if not found:
                raise ValueError(f"has no {delimiter.decode()!r} between key and value")
        return NewRecord(this_key, None if tombstone and not value else value, headers)

    return parse


def json_parser(key: bytes | None, headers: tuple[Header, ...], tombstone: bool) -> Parser:
    """Each line is an object with `key`, `value`, `headers`, `timestamp` and `partition`, none of them required.

    Another field is refused: a misspelt `value` would be a tombstone.
    """

    def parse(line: bytes) -> NewRecord:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError("is not a JSON object")
        unknown = document.keys() - _FIELDS
        if unknown:
            raise ValueError(f"has an unknown field {min(unknown)!r}: known are {', '.join(sorted(_FIELDS))}")
        value = _bytes(document, "value")
        own_key = _bytes(document, "key")
        return NewRecord(
            key if own_key is None else own_key,
            None if tombstone and not value else value,
            headers + _headers(document.get("headers")),
            _whole(document, "partition"),
            _whole(document, "timestamp"),
        )

    return parse


def _bytes(document: Mapping[str, Any], name: str) -> bytes | None:
    """Text as UTF-8; another JSON value as JSON again; absent or null is None."""
    value = document.get(name)
    if value is None and (encoded := document.get(f"{name}_base64")) is not None:
        if not isinstance(encoded, str):
            raise ValueError(f"has a {name}_base64 that is not text")
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError:
            raise ValueError(f"has a {name}_base64 that is not base64") from None
    if value is None or isinstance(value, str):
        return None if value is None else value.encode()
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _headers(value: object) -> tuple[Header, ...]:
    """An object, or a list of objects with `key` and `value` when names repeat."""
    match value:
        case None:
            return ()
        case dict():
            return tuple((str(name), _bytes(value, name)) for name in value)
        case list() if all(isinstance(one, dict) and isinstance(one.get("key"), str) for one in value):
            return tuple((one["key"], _bytes(one, "value")) for one in value)
    raise ValueError('has headers that are neither {"name": "value"} nor [{"key": …, "value": …}]')


def _whole(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"has a {name} that is not a whole number from 0 on")
    return value


def parse_line(parser: Parser, line: bytes, where: str) -> NewRecord:
    """Parse, or raise `Failure` that says where: `orders.jsonl line 7`."""
    try:
        return parser(line)
    except json.JSONDecodeError as error:
        raise Failure(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise Failure(f"{where} {error}") from None


# --- out ------------------------------------------------------------------------------------------------------------


def template_formatter(template: str) -> Formatter:
    """`%t` topic, `%p` partition, `%o` offset, `%k` key, `%v` value, `%h` headers, `%d` timestamp in ms, `%%`.

    `{hex}` or `{base64}` behind a verb encodes it; `\\n`, `\\t` and the like are escapes. Raises wrong usage.
    """
    parts: list[bytes | tuple[str, str]] = []
    position = 0
    for match in _VERB.finditer(template):
        parts.append(template[position : match.start()].encode())
        position = match.end()
        verb, encoding, escape, unknown = match.groups()
        if unknown is not None:
            raise typer.BadParameter(f"-f: %{unknown} is not one of %t %p %o %k %v %h %d %%")
        if escape is not None:
            parts.append(_ESCAPES[escape])
        else:
            parts.append(b"%" if verb == "%" else (verb, encoding or ""))
    parts.append(template[position:].encode())

    def write(partition: TopicPartition, record: Record) -> bytes:
        return b"".join(
            part if isinstance(part, bytes) else _encoded(_field(part[0], partition, record), part[1]) for part in parts
        )

    return write


def json_formatter(partition: TopicPartition, record: Record) -> bytes:
    """One line of JSON."""
    document = {
        "topic": partition.topic,
        "partition": partition.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        **_text("key", record.key),
        **_text("value", record.value),
        "headers": [{"key": name, **_text("value", value)} for name, value in record.headers],
    }
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _field(verb: str, partition: TopicPartition, record: Record) -> bytes:
    match verb:
        case "t":
            return partition.topic.encode()
        case "p":
            return b"%d" % partition.partition
        case "o":
            return b"%d" % record.offset
        case "d":
            return b"%d" % record.timestamp_ms
        case "k":
            return record.key or b""
        case "v":
            return record.value or b""
        case _:
            return b",".join(name.encode() + b"=" + (value or b"") for name, value in record.headers)


def _encoded(raw: bytes, encoding: str) -> bytes:
    if encoding == "hex":
        return raw.hex().encode()
    return base64.b64encode(raw) if encoding == "base64" else raw


def _text(name: str, raw: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if raw is None else raw.decode()}
    except UnicodeDecodeError:
        return {name: None, f"{name}_base64": base64.b64encode(raw or b"").decode()}
