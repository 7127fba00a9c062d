"""Timers, handed in: the loop's in a server, a list in a test with virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from logstore.clock import Clock
from logstore.types import TimestampMs


class Timer(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    def call_at_ms(self, monotonic_ms: TimestampMs, callback: Callable[[], None]) -> Timer:
        """Call back once, on the loop's thread, not before this time of `Clock.monotonic_ms`."""
        ...


class LoopScheduler:
    """`Scheduler` on an asyncio loop; the clock says how far away a deadline is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock

    def call_at_ms(self, monotonic_ms: TimestampMs, callback: Callable[[], None]) -> Timer:
        delay_ms = max(0, monotonic_ms - self._clock.monotonic_ms())
        # One millisecond on top: the clock's value is cut to whole ones, and a timer must not be early.
        return self._loop.call_later((delay_ms + 1) / 1000, callback)
