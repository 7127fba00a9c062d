"""Parked fetches: woken once, by bytes or by time, and forgotten whole."""

from __future__ import annotations

from cluster.waits import Waiter, Waits


def parked(waits: Waits, partitions: tuple[int, ...], missing: int, deadline_ms: int) -> Waiter:
    waiter = Waiter(partitions, missing, deadline_ms, lambda: None)
    waits.park(waiter)
    return waiter


def test_bytes_of_any_watched_partition_count() -> None:
    waits = Waits()
    waiter = parked(waits, (1, 2), 100, 500)
    assert waits.appended(1, 60) == []
    assert waits.appended(3, 1000) == []
    assert waits.appended(2, 40) == [waiter]
    assert waits.appended(1, 1000) == []
    assert len(waits) == 0


def test_deadlines_come_in_order_and_once() -> None:
    waits = Waits()
    late, early = parked(waits, (1,), 1, 300), parked(waits, (1,), 1, 200)
    assert waits.next_deadline_ms() == 200
    assert waits.expired(199) == []
    assert waits.expired(300) == [early, late]
    assert waits.next_deadline_ms() is None
    assert waits.appended(1, 10) == []


def test_a_cancelled_waiter_is_neither_woken_nor_kept() -> None:
    waits = Waits()
    gone, stays = parked(waits, (1,), 1, 100), parked(waits, (1,), 1, 200)
    waits.cancel(gone)
    waits.cancel(gone)
    assert waits.next_deadline_ms() == 200
    assert waits.appended(1, 1) == [stays]


def test_changed_wakes_everyone_once_even_if_watching_twice() -> None:
    waits = Waits()
    both, other = parked(waits, (1, 2), 10, 100), parked(waits, (3,), 10, 100)
    assert waits.changed([1, 2]) == [both]
    assert waits.changed([3]) == [other]


def test_cancelled_waiters_do_not_pile_up() -> None:
    waits = Waits()
    for number in range(10_000):
        waits.cancel(parked(waits, (number % 7,), 1, 10**9 + number))
    assert len(waits) == 0
    assert len(waits._heap) < 200
    assert not waits._by_partition
