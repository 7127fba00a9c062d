"""Long polls as data: who waits for how many bytes of which partitions, until when. Pure.

An append costs one dictionary look-up when nobody waits for its partition. A waiter is told once: by the append that
completes its bytes, by its deadline, or never (cancelled). Byte counts are a hint, as in Kafka's purgatory: whoever is
woken reads again, and may park again with the same deadline.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from logstore.types import TimestampMs


class Waiter:
    """One parked fetch."""

    __slots__ = ("bytes_missing", "deadline_ms", "parked", "partition_ids", "wake")

    def __init__(
        self, partition_ids: tuple[int, ...], bytes_missing: int, deadline_ms: TimestampMs, wake: Callable[[], None]
    ) -> None:
        self.partition_ids = partition_ids
        self.bytes_missing = bytes_missing
        self.deadline_ms = deadline_ms
        self.wake = wake
        self.parked = False

    def __lt__(self, other: Waiter) -> bool:
        return self.deadline_ms < other.deadline_ms


class Waits:
    """Every parked fetch of a node, by partition and by deadline (monotonic milliseconds)."""

    def __init__(self) -> None:
        self._by_partition: dict[int, dict[Waiter, None]] = {}
        self._heap: list[Waiter] = []
        self._parked = 0

    def __len__(self) -> int:
        return self._parked

    def park(self, waiter: Waiter) -> None:
        waiter.parked = True
        self._parked += 1
        for partition_id in waiter.partition_ids:
            self._by_partition.setdefault(partition_id, {})[waiter] = None
        heapq.heappush(self._heap, waiter)

    def cancel(self, waiter: Waiter) -> None:
        """Forget a waiter whose client is gone. Harmless twice."""
        if not waiter.parked:
            return
        waiter.parked = False
        self._parked -= 1
        for partition_id in waiter.partition_ids:
            waiting = self._by_partition.get(partition_id)
            if waiting is not None:
                waiting.pop(waiter, None)
                if not waiting:
                    del self._by_partition[partition_id]
        # Its heap entry is dropped when it surfaces, or now if such entries have become the majority.
        if len(self._heap) > 64 and len(self._heap) > 2 * self._parked:
            self._heap = [kept for kept in self._heap if kept.parked]
            heapq.heapify(self._heap)

    def appended(self, partition_id: int, size_bytes: int) -> list[Waiter]:
        """Count `size_bytes` new bytes; returns, and forgets, the waiters that have enough now."""
        waiting = self._by_partition.get(partition_id)
        if waiting is None:
            return []
        ready = []
        for waiter in waiting:
            waiter.bytes_missing -= size_bytes
            if waiter.bytes_missing <= 0:
                ready.append(waiter)
        for waiter in ready:
            self.cancel(waiter)
        return ready

    def changed(self, partition_ids: Iterable[int]) -> list[Waiter]:
        """Everyone who waits for these partitions, whatever the bytes: they were deleted, or closed."""
        ready = list({waiter: None for each in partition_ids for waiter in self._by_partition.get(each, ())})
        for waiter in ready:
            self.cancel(waiter)
        return ready

    def everyone(self) -> list[Waiter]:
        """All of them: the node closes."""
        return self.changed(list(self._by_partition))

    def expired(self, now_ms: TimestampMs) -> list[Waiter]:
        """Those whose deadline has come, earliest first; they are forgotten."""
        ready = []
        while self._heap and (self._heap[0].deadline_ms <= now_ms or not self._heap[0].parked):
            waiter = heapq.heappop(self._heap)
            if waiter.parked:
                self.cancel(waiter)
                ready.append(waiter)
        return ready

    def next_deadline_ms(self) -> TimestampMs | None:
        """When to call `expired` next; None when nobody waits."""
        while self._heap and not self._heap[0].parked:
            heapq.heappop(self._heap)
        return self._heap[0].deadline_ms if self._heap else None
