"""The segments of one partition in offset order, and the floor look-up over them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from logstore.segment.segment import Segment
from logstore.types import Offset


class Segments:
    """Never empty once filled; the last one is active, the others are sealed."""

    __slots__ = ("_bases", "_segments", "active", "sealed_bytes")

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = list(segments)
        self._bases = [segment.base_offset for segment in self._segments]
        self.active = self._segments[-1]
        self.sealed_bytes = sum(segment.size_bytes for segment in self._segments[:-1])

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def __getitem__(self, index: int) -> Segment:
        return self._segments[index]

    @property
    def sealed(self) -> list[Segment]:
        return self._segments[:-1]

    @property
    def size_bytes(self) -> int:
        return self.sealed_bytes + self.active.size_bytes

    def floor(self, offset: Offset) -> int:
        """Index of the segment that would hold `offset`; the first one if `offset` lies below all."""
        if offset >= self.active.base_offset:
            return len(self._segments) - 1
        return max(bisect_right(self._bases, offset) - 1, 0)

    def add(self, segment: Segment) -> None:
        """A new active segment; the one before is sealed."""
        self.sealed_bytes += self.active.size_bytes
        self._segments.append(segment)
        self._bases.append(segment.base_offset)
        self.active = segment

    def drop_first(self, count: int) -> list[Segment]:
        """Take the `count` oldest sealed segments out."""
        assert count < len(self._segments), "the active segment stays"
        dropped = self._segments[:count]
        del self._segments[:count], self._bases[:count]
        self.sealed_bytes -= sum(segment.size_bytes for segment in dropped)
        return dropped
