"""Many deadlines that move often, as data. Pure.

Heartbeats push a deadline back far more often than one is met, so that costs one dictionary entry: the heap keeps the
key's old place, and the key goes back in with its new deadline when that place surfaces.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from logstore.types import TimestampMs

K = TypeVar("K")


class TimerHeap(Generic[K]):
    """At most one deadline per key (monotonic milliseconds)."""

    def __init__(self) -> None:
        self._deadlines: dict[K, TimestampMs] = {}
        self._places: dict[K, tuple[TimestampMs, int]] = {}  # a key's one valid entry in the heap: deadline, number
        self._heap: list[tuple[TimestampMs, int, K]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, key: K) -> bool:
        return key in self._deadlines

    def arm(self, key: K, deadline_ms: TimestampMs) -> None:
        """Set the key's deadline, whatever it was before."""
        self._deadlines[key] = deadline_ms
        place = self._places.get(key)
        if place is None or place[0] > deadline_ms:
            self._push(key, deadline_ms)
            self._prune()

    def cancel(self, key: K) -> None:
        """Harmless for a key that is not armed."""
        self._deadlines.pop(key, None)
        self._prune()

    def expired(self, now_ms: TimestampMs) -> list[K]:
        """The keys whose deadline has come, earliest first; they are not armed any more."""
        ready = []
        while (deadline_ms := self.next_deadline_ms()) is not None and deadline_ms <= now_ms:
            _, _, key = heapq.heappop(self._heap)
            del self._places[key], self._deadlines[key]
            ready.append(key)
        return ready

    def next_deadline_ms(self) -> TimestampMs | None:
        """When to call `expired` next; None when nothing is armed."""
        while self._heap:
            place, number, key = self._heap[0]
            valid = self._places.get(key) == (place, number)
            deadline_ms = self._deadlines.get(key)
            if valid and deadline_ms == place:
                return place
            heapq.heappop(self._heap)
            if valid:
                del self._places[key]
                if deadline_ms is not None:
                    self._push(key, deadline_ms)
        return None

    def _push(self, key: K, deadline_ms: TimestampMs) -> None:
        self._number += 1
        self._places[key] = (deadline_ms, self._number)
        heapq.heappush(self._heap, (deadline_ms, self._number, key))

    def _prune(self) -> None:
        """Places that hold no more go when they surface, or now if they have become the majority."""
        if len(self._heap) > 64 and len(self._heap) > 3 * len(self._deadlines):
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap, self._places = [], {}
        for key, deadline_ms in self._deadlines.items():
            self._push(key, deadline_ms)
