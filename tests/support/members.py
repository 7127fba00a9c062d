"""Members of a consumer group, one class per client library, all with the same few calls.

Defaults, except for a heartbeat often enough that a test sees a rebalance soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import aiokafka
import confluent_kafka
import kafka

HEARTBEAT_MS = 200
SESSION_MS = 6000
POLL_MS = 50


class Member(Protocol):
    """`poll` returns what came as (partition, offset); it also is what keeps the member alive."""

    def poll(self) -> list[tuple[int, int]]: ...
    def assigned(self) -> set[int]: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...


class ConfluentMember:
    def __init__(self, bootstrap: str, group: str, topic: str, *, auto_commit: bool = True) -> None:
        self._consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": auto_commit,
                "heartbeat.interval.ms": HEARTBEAT_MS,
                "session.timeout.ms": SESSION_MS,
            }
        )
        self._consumer.subscribe([topic])

    def poll(self) -> list[tuple[int, int]]:
        messages = self._consumer.consume(500, timeout=POLL_MS / 1000)
        assert all(message.error() is None for message in messages), [message.error() for message in messages]
        return [(message.partition(), message.offset()) for message in messages]

    def assigned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()}

    def commit(self) -> None:
        self._consumer.commit(asynchronous=False)

    def close(self) -> None:
        self._consumer.close()


class KafkaPythonMember:
    def __init__(self, bootstrap: str, group: str, topic: str, *, auto_commit: bool = True) -> None:
        self._consumer = kafka.KafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=auto_commit,
            heartbeat_interval_ms=HEARTBEAT_MS,
            session_timeout_ms=SESSION_MS,
        )

    def poll(self) -> list[tuple[int, int]]:
        found = self._consumer.poll(timeout_ms=POLL_MS)
        return [(partition.partition, m.offset) for partition, messages in found.items() for m in messages]

    def assigned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()}

    def commit(self) -> None:
        self._consumer.commit()

    def close(self) -> None:
        self._consumer.close()


class AiokafkaMember:
    """Lives in a loop of its own, which only runs during the calls."""

    def __init__(self, bootstrap: str, group: str, topic: str, *, auto_commit: bool = True) -> None:
        self._runner = asyncio.Runner()

        async def start() -> aiokafka.AIOKafkaConsumer:
            consumer = aiokafka.AIOKafkaConsumer(
                topic,
                bootstrap_servers=bootstrap,
                group_id=group,
                auto_offset_reset="earliest",
                enable_auto_commit=auto_commit,
                heartbeat_interval_ms=HEARTBEAT_MS,
                session_timeout_ms=SESSION_MS,
            )
            # `start` waits for the group's first rebalance, in which the other members must take part meanwhile.
            self._starting = asyncio.create_task(consumer.start())
            return consumer

        self._consumer = self._runner.run(start())

    def poll(self) -> list[tuple[int, int]]:
        async def poll() -> list[tuple[int, int]]:
            if not self._starting.done():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(self._starting), POLL_MS / 1000)
                return []
            self._starting.result()
            found = await self._consumer.getmany(timeout_ms=POLL_MS)
            return [(partition.partition, m.offset) for partition, messages in found.items() for m in messages]

        return self._runner.run(poll())

    def assigned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()} if self._starting.done() else set()

    def commit(self) -> None:
        self._runner.run(self._consumer.commit())

    def close(self) -> None:
        async def stop() -> None:
            await self._starting
            await self._consumer.stop()

        with self._runner:
            self._runner.run(stop())


def drive(members: Sequence[Member], seen: list[tuple[int, int]], until: Callable[[], bool], timeout_s: float) -> None:
    """Poll all members by turns, collecting what they get, until the condition holds."""
    end = time.monotonic() + timeout_s
    while not until():
        states = [sorted(member.assigned()) for member in members]
        assert time.monotonic() < end, f"after {timeout_s} s: assigned {states}, {len(seen)} records seen"
        for member in members:
            seen += member.poll()
