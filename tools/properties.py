"""Reads Java's `.properties` text, the format of Kafka's `server.properties`.

One `key=value` a line; `:` or white space separate as well; `#` and `!` begin comments; a backslash at the end joins
the next line; `\\t \\n \\r \\f \\uXXXX` and a backslash before any other character are escapes. The last of equal keys
wins. Source: the documentation of java.util.Properties.load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from logstore.errors import InvalidConfig

_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(u)|(.))", re.DOTALL)
_CONTROL: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_SEPARATOR: Final = re.compile(r"((?:\\.|[^\\=:\s])*)\s*(?:[=:]\s*)?(.*)", re.DOTALL)


class Property(NamedTuple):
    key: str
    value: str
    line: int
    """Where it begins, from 1."""


def parse_properties(text: str) -> list[Property]:
    """The properties in the order of the text. Raises `InvalidConfig` for a broken `\\u` escape."""
    found = []
    for number, line in _logical_lines(text):
        match = _SEPARATOR.fullmatch(line)
        key, value = match.groups() if match else (line, "")
        found.append(Property(_unescape(key, number), _unescape(value, number).rstrip(), number))
    return found


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations joined, without comments and blank ones."""
    joined, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.lstrip(" \t\f")
        if not joined:
            if not line or line[0] in "#!":
                continue
            start = number
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            joined += line[:-1]
        else:
            yield start, joined + line
            joined = ""
    if joined:
        yield start, joined


def _unescape(text: str, line: int) -> str:
    def one(match: re.Match[str]) -> str:
        code, broken, char = match.groups()
        if broken:
            raise InvalidConfig(f"line {line}: \\u is not followed by four hexadecimal digits", hint="as in \\u00e9")
        return chr(int(code, 16)) if code else _CONTROL.get(char, char)

    return _ESCAPE.sub(one, text)
