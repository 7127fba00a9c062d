"""Runs of records of equal shape, decoded without a loop in Python. Pure.

Equal are the lengths of the record, of each varint, of key and value; offsets go up by one, there are no headers. Such
records are a matrix whose rows are as long as the first record:

    byte  0          size       2 * size
          | length   | length   | length        must be the same in every row
          | attr.    | attr.    | attr.         none is defined
          | time     | time     | time          may differ, but in value only
          | offset   | offset   | offset        must count up: compared with a table
          | key len  | key len  | key len       must be the same
          | key      | key      | key           whatever it is
          | value …  | value …  | value …       as the key
          | 0        | 0        | 0             must be 0: no headers

A strided slice of the body is a column, and comparing it is one call. What is not so is no run, and nor is what is
damaged: the decoder that reads records one by one says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from struct import iter_unpack
from typing import Final, TypeAlias

from logstore.types import TimestampMs

RUN_MIN: Final = 12
"""Records. Taking a matrix apart costs about as much as reading so many one by one."""

_RUN_MAX: Final = 1024  # records looked at in one go, so that many short runs cost little more than a long one
_DELTAS_1: Final = bytes(range(0, 128, 2))  # offset deltas 0..63, varints of one byte
_DELTAS_2_LOW: Final = bytes((delta << 1 & 0x7F) | 0x80 for delta in range(64, 8192))  # varints of two bytes
_DELTAS_2_HIGH: Final = bytes(delta >> 6 for delta in range(64, 8192))

Run: TypeAlias = tuple[int, int, Iterable[TimestampMs], Iterable[bytes | None], Iterable[bytes | None]]
"""How many records, the position after them, and their timestamps, keys and values, as long or longer."""


def run_at(body: bytes, position: int, offset_delta: int, left: int, base_timestamp_ms: TimestampMs) -> Run | None:
    """The run that begins at `position` with `offset_delta`, at most `left` records of it; None below `RUN_MIN`.

    Nothing is raised for damaged bytes: they are no run.
    """
    try:
        length, at = _short_varint(body, position)
        size = at - position + (length >> 1)
        count = min(left, _RUN_MAX, (len(body) - position) // size)
        if length & 1 or count < RUN_MIN or body[position + size] != body[position]:
            return None
        for one in range(position, at):
            lengths = body[one : position + count * size : size]
            count = len(lengths) - len(lengths.lstrip(lengths[:1]))
        if count < RUN_MIN:
            return None
        time_at = at + 1
        _, delta_at = _short_varint(body, time_at)
        key_at = delta_at + (1 if offset_delta < 64 else 2)
        key_size, key = _field(body, key_at)
        value_at = key + max(key_size, 0)
        value_size, value = _field(body, value_at)
        header_count = value + max(value_size, 0)
        if header_count + 1 != position + size or body[header_count]:
            return None
    except (IndexError, ValueError):
        return None
    end = position + count * size
    for one in (header_count, *range(value_at, value), *range(key_at, key)):
        if body[one:end:size].count(body[one]) != count:
            return None
    if not _counts_up([body[one:end:size] for one in range(delta_at, key_at)], offset_delta, count):
        return None
    timestamps = _timestamps([body[one:end:size] for one in range(time_at, delta_at)], count, base_timestamp_ms)
    if timestamps is None:
        return None
    region = memoryview(body)[position:end]
    keys = _column(region, key - position, key_size, size)
    return count, end, timestamps, keys, _column(region, value - position, value_size, size)


def _short_varint(body: bytes, position: int) -> tuple[int, int]:
    """A varint of one or two bytes, not yet unzigzagged, and the position after it. Raises ValueError for others."""
    number = body[position]
    if number < 0x80:
        return number, position + 1
    high = body[position + 1]
    if high >= 0x80:
        raise ValueError
    return number + (high << 7) - 0x80, position + 2


def _field(body: bytes, position: int) -> tuple[int, int]:
    """Size in bytes of a key or value, -1 for none, and where it begins. Raises ValueError for other sizes below 0."""
    number, position = _short_varint(body, position)
    if number & 1 and number != 1:
        raise ValueError
    return (number >> 1) ^ -(number & 1), position


def _timestamps(columns: list[bytes], count: int, base_ms: TimestampMs) -> Iterable[TimestampMs] | None:
    """From deltas whose varints have their first bytes in one column, their second in the other, if they have any."""
    low, high = columns[0], columns[-1]
    if low.count(low[0]) == high.count(high[0]) == count:
        delta, _ = _short_varint(bytes((low[0], high[0])), 0)
        return repeat(base_ms + (delta >> 1 ^ -(delta & 1)))
    if not high.isascii():
        return None
    if len(columns) == 1:
        return [base_ms + (one >> 1 ^ -(one & 1)) for one in low]
    if min(low) < 0x80:
        return None
    return [base_ms + ((a >> 1 & 0x3F | b << 6) ^ -(a & 1)) for a, b in zip(low, high, strict=True)]


def _counts_up(columns: list[bytes], offset_delta: int, count: int) -> bool:
    if len(columns) == 1:
        return columns[0] == _DELTAS_1[offset_delta : offset_delta + count]
    rows = slice(offset_delta - 64, offset_delta - 64 + count)
    return columns[0] == _DELTAS_2_LOW[rows] and columns[1] == _DELTAS_2_HIGH[rows]


def _column(region: memoryview, start: int, size_bytes: int, row_bytes: int) -> Iterator[bytes | None]:
    """The bytes `start..` of each row of `region`."""
    if size_bytes < 0:
        return repeat(None)
    rest = row_bytes - start - size_bytes
    return chain.from_iterable(iter_unpack(f"{start}x{size_bytes}s{rest}x", region))
