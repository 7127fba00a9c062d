"""Reads across many short segments, with a limit at every byte: never a batch too few, too many, or out of order."""

from __future__ import annotations

import random
from typing import Any

import pytest

from logstore.record.batch import read_header


@pytest.fixture
def batches(harness: Any) -> list[tuple[int, int, bytes]]:
    """A log of about twenty segments; (first offset, last offset, bytes) of each batch in it."""
    chance = random.Random(20)
    harness.config = {"segment.bytes": "1024", "index.interval.bytes": "64"}
    log = harness.open()
    for number in range(60):
        harness.append(*(chance.randbytes(chance.choice((1, 40, 200))) for _ in range(1 + number % 3)))
    found = []
    offset = 0
    while offset < log.high_watermark:
        (piece, *_) = log.read(offset, 1).slices
        view = bytes(piece.view())
        header = read_header(view)
        assert header.size_bytes == len(view), "a limit of one byte gives one batch"
        found.append((header.base_offset, header.last_offset, view))
        offset = header.last_offset + 1
    assert len(harness.names(".log")) > 12
    return found


def expected(batches: list[tuple[int, int, bytes]], offset: int, bytes_max: int, min_one: bool) -> bytes:
    left = [data for _, last, data in batches if last >= offset]
    out = b""
    for data in left:
        if len(out) + len(data) > bytes_max and (out or not min_one):
            break
        out += data
        if len(out) > bytes_max:
            break
    return out


def got(log: Any, offset: int, bytes_max: int, min_one: bool) -> bytes:
    return b"".join(bytes(piece.view()) for piece in log.read(offset, bytes_max, min_one=min_one).slices)


@pytest.mark.parametrize("reopened", [False, True], ids=["as written", "reopened after a crash"])
def test_a_limit_at_every_byte(harness: Any, batches: list[tuple[int, int, bytes]], reopened: bool) -> None:
    if reopened:
        harness.crash()
        harness.open()
    sizes = [len(data) for _, _, data in batches]
    for at in (0, 7, 23, 41):
        offset = batches[at][0]
        for bytes_max in range(sum(sizes[at : at + 6]) + 2):
            assert got(harness.log, offset, bytes_max, True) == expected(batches, offset, bytes_max, True)


def test_every_offset_with_limits_on_both_sides_of_every_batch_end(
    harness: Any, batches: list[tuple[int, int, bytes]]
) -> None:
    end = batches[-1][1] + 1
    for offset in range(end):
        ends, total = [0], 0
        for _, last, data in batches:
            if last >= offset:
                total += len(data)
                ends.append(total)
        for bytes_max in {each + near for each in ends[:9] for near in (-1, 0, 1)} - {-1}:
            for min_one in (True, False):
                assert got(harness.log, offset, bytes_max, min_one) == expected(batches, offset, bytes_max, min_one)
    assert got(harness.log, end, 1 << 20, True) == b""
