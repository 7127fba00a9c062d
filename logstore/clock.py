"""The only place that reads a clock or draws chance; everything else is handed one of these.

A linter bans `time.time`, `random` and their kin elsewhere, so that tests can run any schedule from a seed.
"""

from __future__ import annotations

import random
import time
import uuid
from typing import Protocol


class Clock(Protocol):
    """Time as two numbers: the wall (may step) for timestamps, the monotonic (never steps) for waiting."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC. May go back when the operator steps the clock."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds since some start. Never goes back; use it for every deadline."""
        ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class Chance(Protocol):
    """Where identifiers come from."""

    def uuid(self) -> uuid.UUID: ...

    def below(self, bound: int) -> int:
        """A whole number in 0..bound-1."""
        ...


class SystemChance:
    def uuid(self) -> uuid.UUID:
        return uuid.uuid4()

    def below(self, bound: int) -> int:
        return random.randrange(bound)


class SeededChance:
    """Chance from a seed, for tests and simulations."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self._random.getrandbits(128), version=4)

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)
