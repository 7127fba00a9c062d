"""Where to read from, as people write it: `start`, `end`, `47`, `+2`, `-3`, `@1767225600000`, `@2026-01-01T00:00Z`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum, auto
from typing import NamedTuple

import typer


class Kind(Enum):
    START = auto()
    END = auto()
    OFFSET = auto()
    PLUS = auto()
    MINUS = auto()
    TIME = auto()


class Position(NamedTuple):
    kind: Kind
    value: int = 0
    """The offset, the distance (not negative), or the timestamp in milliseconds since 1970 UTC."""


def parse_position(option: str, text: str) -> Position:
    """One position. A date without a zone is UTC. Raises wrong usage naming `option`."""
    match text.strip():
        case "start" | "earliest" | "beginning":
            return Position(Kind.START)
        case "end" | "latest":
            return Position(Kind.END)
        case number if number.isascii() and number.isdigit():
            return Position(Kind.OFFSET, int(number))
        case number if number[:1] == "+" and number[1:].isascii() and number[1:].isdigit():
            return Position(Kind.PLUS, int(number))
        case number if number[:1] == "-" and number[1:].isascii() and number[1:].isdigit():
            return Position(Kind.MINUS, -int(number))
        case moment if moment[:1] == "@":
            return Position(Kind.TIME, _timestamp_ms(option, moment[1:]))
    raise typer.BadParameter(f"{option} {text} is not start, end, an offset, +N, -N or @TIME")


def _timestamp_ms(option: str, text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        example = "@2026-01-01T00:00:00Z or @1767225600000"
        raise typer.BadParameter(f"{option} @{text} is not a time, as in {option} {example}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
