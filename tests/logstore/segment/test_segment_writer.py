"""Writes to a growing segment: every byte where it belongs, in pieces the page cache likes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from logstore.files import OsFiles
from logstore.segment.writer import PIECE_BYTES_END, PIECE_VIEWS_MAX, IndexBuilder, write_pieces
from logstore.types import Buffer, Position

KIB = 1 << 10


class Pieces(OsFiles):
    """Keeps what is written, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.pieces: list[tuple[int, int]] = []  # views, bytes

    def pwritev(self, handle: int, views: Sequence[Buffer], position: Position, size_bytes: int) -> None:
        assert position == 5 + len(self.data)
        assert sum(len(view) for view in views) == size_bytes
        self.data += b"".join(views)
        self.pieces.append((len(views), size_bytes))


def written(*sizes: int) -> Pieces:
    pieces, source = Pieces(), random.Random(sum(sizes))
    views = [memoryview(source.randbytes(size)) for size in sizes]
    write_pieces(pieces, 3, views, 5, sum(sizes))
    assert pieces.data == b"".join(views)
    assert all(0 < size_bytes < PIECE_BYTES_END and count <= PIECE_VIEWS_MAX for count, size_bytes in pieces.pieces)
    return pieces


@pytest.mark.parametrize("sizes", [(61,), (100,) * 1024, (PIECE_BYTES_END - 1,), (16 * KIB,) * 7])
def test_what_fits_goes_in_one_call(sizes: tuple[int, ...]) -> None:
    assert len(written(*sizes).pieces) == 1


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ((61,) * 1025, 2),
        ((16 * KIB + 61,) * 15, 3),
        ((PIECE_BYTES_END,), 2),
        ((PIECE_BYTES_END + 1,), 2),
        ((1 << 20,), 16),
        ((100, 1 << 20, 100), 17),
        ((PIECE_BYTES_END - 1, 61), 2),
        ((61, PIECE_BYTES_END - 1), 2),
    ],
)
def test_more_goes_in_pieces_that_end_between_batches_where_they_can(sizes: tuple[int, ...], count: int) -> None:
    assert len(written(*sizes).pieces) == count


def test_random_batches() -> None:
    source = random.Random(11)
    for _ in range(50):
        written(*(source.choice((61, 1000, 64 * KIB, 127 * KIB, 300 * KIB)) for _ in range(source.randrange(1, 40))))


def test_adding_batches_at_once_is_adding_them_one_by_one() -> None:
    source = random.Random(12)
    at_once, one_by_one = IndexBuilder.empty(7, 300), IndexBuilder.empty(7, 300)
    position, offset = 0, 7
    for _ in range(30):
        batches = []
        start = position
        for _ in range(source.randrange(1, 8)):
            size_bytes, timestamp_ms = source.randrange(61, 200), source.randrange(-1, 500)
            offset += source.randrange(1, 4)
            one_by_one.add(position, offset - 1, timestamp_ms)
            batches.append((size_bytes, offset - 1, timestamp_ms))
            position += size_bytes
        assert at_once.add_all(start, batches) == position
    for builder in (at_once, one_by_one):
        builder.finish()
    assert at_once.offsets.buffer == one_by_one.offsets.buffer
    assert at_once.times.buffer == one_by_one.times.buffer
    assert len(at_once.offsets) > 10
