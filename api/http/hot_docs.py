"""The OpenAPI entries of the routes that FastAPI does not see inside: produce, read and the live tail."""

from __future__ import annotations

from typing import Any, Final

from api.http.formats import MEDIA_TYPES, Format
from api.http.models import Error, Schema

_ERROR: Final = {"model": Error}


def refusals(**statuses: str) -> dict[int | str, dict[str, Any]]:
    """`s404="text"` -> OpenAPI responses with the error body."""
    return {int(status[1:]): {**_ERROR, "description": text} for status, text in statuses.items()}


_HEADERS: Final[Schema] = {
    "type": ["array", "null"],
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "value": {"type": ["string", "null"], "contentEncoding": "base64"},
        },
    },
}
_EMBEDDED: Final[dict[Format, Schema]] = {
    Format.JSON: {"description": "Any JSON; the record holds its bytes as they stand here, null is none"},
    Format.BINARY: {"type": ["string", "null"], "contentEncoding": "base64"},
    Format.STRING: {"type": ["string", "null"]},
}
_EXAMPLES: Final[dict[Format, tuple[Any, Any]]] = {
    Format.JSON: ("user-7", {"total": 12.5}),
    Format.BINARY: ("dXNlci03", "eyJ0b3RhbCI6MTIuNX0="),
    Format.STRING: ("user-7", "total 12.5"),
}


def _record_in(format_: Format) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "key": _EMBEDDED[format_],
            "value": _EMBEDDED[format_],
            "partition": {"type": ["integer", "null"], "description": "Default: by the key, as Kafka's clients do"},
            "timestamp": {"type": ["integer", "null"], "minimum": 0, "description": "Milliseconds; default: now"},
            "headers": _HEADERS,
        },
    }


def _record_out(format_: Format) -> Schema:
    return {
        "type": "object",
        "required": ["topic", "key", "value", "partition", "offset", "headers"],
        "properties": {
            "topic": {"type": "string"},
            "key": _EMBEDDED[format_],
            "value": _EMBEDDED[format_],
            "partition": {"type": "integer"},
            "offset": {"type": "integer"},
            "timestamp": {"type": "integer"},
            "headers": _HEADERS,
        },
    }


def _body(format_: Format) -> Schema:
    key, value = _EXAMPLES[format_]
    return {
        "schema": {
            "type": "object",
            "required": ["records"],
            "properties": {"records": {"type": "array", "minItems": 1, "items": _record_in(format_)}},
        },
        "example": {"records": [{"key": key, "value": value}]},
    }


def _query(name: str, description: str, **schema: Any) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_NULL_INTEGER: Final = {"type": ["integer", "null"]}
_OFFSETS: Final[Schema] = {
    "type": "object",
    "required": ["offsets", "key_schema_id", "value_schema_id"],
    "properties": {
        "offsets": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["partition", "offset", "error_code", "error"],
                "properties": {
                    "partition": _NULL_INTEGER,
                    "offset": _NULL_INTEGER,
                    "error_code": _NULL_INTEGER,
                    "error": {"type": ["string", "null"]},
                },
            },
        },
        "key_schema_id": _NULL_INTEGER,
        "value_schema_id": _NULL_INTEGER,
    },
}

PRODUCE: Final[Schema] = {
    "parameters": [
        _query("acks", "What to wait for: all (fsync), 1 (written), 0", enum=["all", "-1", "1", "0"], default="all")
    ],
    "requestBody": {
        "required": True,
        "content": {MEDIA_TYPES[format_]: _body(format_) for format_ in Format}
        | {"application/json": _body(Format.JSON)},
    },
}
PRODUCE_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One entry per record, in order; a refused one has error_code and error",
        "content": {"application/vnd.kafka.v2+json": {"schema": _OFFSETS}},
    },
    **refusals(
        s400="Not JSON, or a malformed query (40002)",
        s404="No such topic (40401) or partition (40402)",
        s408="The body came too slowly (40801)",
        s413="The body is too large (41301)",
        s415="A content type or encoding that is not taken (41501)",
        s422="JSON of another shape (42203), no records (42206), or no topic name (40002)",
    ),
}

_START: Final = [
    _query("offset", "A number, earliest or latest", type="string"),
    _query("timestamp", "Instead of offset: the first record at or after it, in milliseconds", type="integer"),
]
READ: Final[Schema] = {
    "parameters": [
        *_START,
        _query("max_bytes", "About how many bytes of keys and values", type="integer", default=1 << 20, minimum=1),
        _query("timeout", "Milliseconds to wait for a first record", type="integer", default=1000, minimum=0),
    ]
}
READ_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Records in order; Accept chooses the format, binary by default",
        "headers": {"logstore-next-offset": {"description": "Where to go on", "schema": {"type": "integer"}}},
        "content": {
            media_type: {"schema": {"type": "array", "items": _record_out(format_)}}
            for format_, media_type in [*MEDIA_TYPES.items(), (Format.JSON, "application/json")]
        },
    },
    **refusals(
        s400="A malformed query (40002)",
        s404="No such topic (40401) or partition (40402)",
        s406="No format of Accept is served, or a record is not in it (40601)",
        s416="The offset is outside the log; the message names the bounds (41601)",
    ),
}

TAIL: Final[Schema] = {
    "parameters": [
        _query("partition", "Default: all of them", type="integer", minimum=0),
        *_START,
        _query("format", "How keys and values stand in data", enum=[*Format], default=Format.BINARY),
        {
            "name": "last-event-id",
            "in": "header",
            "description": "The id of the last event seen: the stream goes on after it",
            "schema": {"type": "string"},
        },
    ]
}
TAIL_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events with id partition:offset and a record as data; also events unreadable, gap and error",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **refusals(
        s400="A malformed query or last-event-id (40002)",
        s404="No such topic (40401) or partition (40402)",
        s416="The offset is outside the log (41601)",
        s422="Too many partitions, or an offset without a partition",
    ),
}
