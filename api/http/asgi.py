"""The little that hot routes need of ASGI: a bounded body, a checked query, one whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from api.http.errors import BAD_REQUEST, PARTITION_NOT_FOUND, Problem
from logstore.config import nearest

_DISCARDED_BYTES_MAX = 256 << 20

ErrorHeaders = Sequence[tuple[bytes, bytes]]


def header(scope: Scope, name: bytes) -> str:
    """The first header of this (lower case) name, or the empty text."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def query(scope: Scope, known: Iterable[str]) -> dict[str, str]:
    """The query's parameters, the last of each name. Raises `Problem` for a name outside `known`."""
    raw: bytes = scope["query_string"]
    if not raw:
        return {}
    try:
        found = dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50))
    except ValueError as error:
        raise Problem(400, BAD_REQUEST, f"the query is malformed: {error}") from None
    for name in found:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
            raise Problem(400, BAD_REQUEST, f"unknown parameter {name} ({hint})")
    return found


def whole_number(name: str, text: str, *, low: int, high: int) -> int:
    """A parameter within its bounds. Raises `Problem`."""
    # 20 digits hold any i64; a longer text would cost quadratic time to convert.
    digits = text[1:] if text.startswith("-") else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and low <= int(text) <= high):
        raise Problem(400, BAD_REQUEST, f"{name}={text[:40]} is not a whole number in {low}..{high}")
    return int(text)


async def read_body(scope: Scope, receive: Receive, *, bytes_max: int, wait_s: float) -> bytes:
    """The whole body, read within `wait_s`. Raises `Problem` 413, 408, or 415 for a compressed one."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > bytes_max:
            raise _too_large(bytes_max, close=int(value) > _DISCARDED_BYTES_MAX)
        if name == b"content-encoding" and value.lower() != b"identity":
            raise Problem(415, 41501, f"content-encoding {str(value, 'latin-1')} is not taken; send the body as it is")
    parts: list[bytes] = []
    size_bytes = 0
    try:
        async with asyncio.timeout(wait_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGone
                part: bytes = message.get("body", b"")
                more: bool = message.get("more_body", False)
                if not parts and not more:
                    size_bytes = len(part)
                    parts.append(part)
                    break
                size_bytes += len(part)
                if size_bytes > bytes_max:
                    break
                parts.append(part)
                if not more:
                    break
    except TimeoutError:
        message_text = f"the body did not arrive within {wait_s:g} s"
        raise Problem(408, 40801, message_text, headers=[(b"connection", b"close")]) from None
    if size_bytes > bytes_max:
        raise _too_large(bytes_max, close=True)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class ClientGone(Exception):
    """Nobody is left to answer."""


def _too_large(bytes_max: int, *, close: bool) -> Problem:
    # Reading a body's rest lets every client see this answer; closing under one that still sends may reset it instead.
    message = f"the body is larger than {bytes_max} bytes; send fewer records per request"
    return Problem(413, 41301, message, headers=[(b"connection", b"close")] if close else [])


async def respond(
    send: Send, status: int, body: bytes, content_type: bytes = b"application/json", headers: ErrorHeaders = ()
) -> None:
    """One whole answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


def partition_number(text: str) -> int:
    """A partition of a path. Raises `Problem` 404: a path that names no partition leads nowhere."""
    try:
        return whole_number("partition", text, low=0, high=2**31 - 1)
    except Problem as problem:
        raise Problem(404, PARTITION_NOT_FOUND, problem.message) from None
