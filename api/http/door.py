"""What every route of the HTTP door works with."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from api.http.lifecycle import Lifecycle
from cluster.image import TopicImage
from cluster.node import Node
from logstore.clock import Clock
from logstore.config import TopicConfig, parse_topic_config

T = TypeVar("T")

_INLINE_BYTES_MAX = 64 << 10  # what takes longer than about a millisecond leaves the loop
_CONFIGS_MAX = 4096


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of single requests. Bytes, milliseconds, counts."""

    body_bytes_max: int = 16 << 20
    body_wait_ms_max: int = 60_000
    read_bytes_default: int = 1 << 20
    read_bytes_max: int = 16 << 20
    read_wait_ms_default: int = 1_000
    read_wait_ms_max: int = 60_000
    tail_keep_alive_ms: int = 15_000
    tail_partitions_max: int = 64
    partition_series_max: int = 2_000


@dataclass(slots=True)
class HttpCounters:
    """Totals since the start, for `/metrics`. Changed on the loop's thread only."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(route, status) -> answers."""
    records_produced: int = 0
    records_read: int = 0
    body_bytes_received: int = 0
    tails_open: int = 0


class Door:
    """The node, and what the routes share."""

    def __init__(
        self,
        node: Node,
        *,
        clock: Clock,
        lifecycle: Lifecycle,
        limits: HttpLimits | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.node = node
        self.clock = clock
        self.lifecycle = lifecycle
        self.limits = limits or HttpLimits()
        self.counters = HttpCounters()
        self.rotation: Iterator[int] = itertools.count()
        self._executor = executor
        self._configs: dict[tuple[UUID, int], TopicConfig] = {}

    def config(self, topic: TopicImage) -> TopicConfig:
        """The topic's options with the broker's defaults under them."""
        key = (topic.topic_id, topic.version)
        config = self._configs.get(key)
        if config is None:
            if len(self._configs) >= _CONFIGS_MAX:
                self._configs.clear()
            config = self._configs[key] = parse_topic_config(topic.config, self.node.topic_defaults)
        return config

    async def work(self, size_bytes: int, call: Callable[[], T]) -> T:
        """`call()`, in a thread when it is about so many bytes that the loop's other clients would feel it."""
        if size_bytes <= _INLINE_BYTES_MAX:
            return call()
        return await self.beside(call)

    async def beside(self, call: Callable[[], T]) -> T:
        """`call()` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)
