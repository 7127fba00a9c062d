"""The adapter of aiokafka: each call runs a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from logstore.types import TimestampMs
from tools.demo.clients import (
    FOR_EVER,
    READ_TIMEOUT_S,
    ClientFailed,
    ClientMissing,
    Deadline,
    FirstOffsets,
    OnProgress,
    Partitions,
    Read,
)
from tools.demo.datasets import Sent

_STOP_TIMEOUT_S: Final = 10


class Aiokafka:
    """aiokafka: pure Python over asyncio."""

    name = "aiokafka"

    def __init__(self, kafka: str, http: str = "") -> None:
        try:
            import aiokafka
            from aiokafka import admin
        except ImportError:
            raise ClientMissing("pip install aiokafka") from None
        self._library, self._admin = aiokafka, admin
        self._kafka = kafka

    def create_topic(self, topic: str, partitions: int, options: Mapping[str, str] = FOR_EVER) -> None:
        asyncio.run(self._create_topic(topic, partitions, options))

    def produce_all(self, topic: str, records: Sequence[Sent], on_progress: OnProgress = lambda _: None) -> None:
        asyncio.run(self._produce_all(topic, records, on_progress))

    def read_all(self, topic: str) -> Partitions:
        return asyncio.run(self._read_all(topic))

    def offsets_for_times(self, topic: str, partitions: int, instants: Sequence[TimestampMs]) -> list[FirstOffsets]:
        return asyncio.run(self._offsets_for_times(topic, partitions, instants))

    async def _create_topic(self, topic: str, partitions: int, options: Mapping[str, str]) -> None:
        admin = self._admin.AIOKafkaAdminClient(bootstrap_servers=self._kafka)
        await admin.start()
        try:
            new = self._admin.NewTopic(topic, partitions, 1, topic_configs=dict(options))
            answer = await admin.create_topics([new])
            name, error_code, *_ = answer.topic_errors[0]
            if error_code:
                raise ClientFailed(f"create {name}: error {error_code}")
        finally:
            await admin.close()

    async def _produce_all(self, topic: str, records: Sequence[Sent], on_progress: OnProgress) -> None:
        producer = self._library.AIOKafkaProducer(bootstrap_servers=self._kafka, enable_idempotence=True, acks="all")
        await producer.start()
        acknowledged = 0

        def delivered(done: asyncio.Future[object]) -> None:
            nonlocal acknowledged
            if not done.cancelled() and done.exception() is None:
                acknowledged += 1
                on_progress(acknowledged)

        try:
            futures = []
            for record in records:
                future = await producer.send(
                    topic,
                    value=record.value,
                    key=record.key,
                    timestamp_ms=record.timestamp_ms,
                    headers=list(record.headers),
                )
                future.add_done_callback(delivered)
                futures.append(future)
            done, unsent = await asyncio.wait(futures, timeout=READ_TIMEOUT_S)
        finally:
            with contextlib.suppress(TimeoutError):  # it waits for what is unsent as long as that takes
                await asyncio.wait_for(producer.stop(), _STOP_TIMEOUT_S)
        errors = [repr(future.exception()) for future in done if future.exception() is not None]
        if errors or unsent:
            raise ClientFailed(f"{len(errors)} records failed, first: {errors[:1]}, {len(unsent)} unsent")

    async def _read_all(self, topic: str) -> Partitions:
        consumer = self._library.AIOKafkaConsumer(
            topic, bootstrap_servers=self._kafka, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            partitions = consumer.assignment()
            found: Partitions = {partition.partition: [] for partition in partitions}
            ends = await consumer.end_offsets(partitions)
            deadline = Deadline(READ_TIMEOUT_S, f"aiokafka reads {topic}")
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                deadline.check()
                for partition, messages in (await consumer.getmany(timeout_ms=200, max_records=1000)).items():
                    deadline.extend()
                    found[partition.partition].extend(
                        Read(m.offset, m.key, m.value, m.timestamp, tuple(m.headers)) for m in messages
                    )
            return found
        finally:
            await consumer.stop()

    async def _offsets_for_times(
        self, topic: str, partitions: int, instants: Sequence[TimestampMs]
    ) -> list[FirstOffsets]:
        consumer = self._library.AIOKafkaConsumer(bootstrap_servers=self._kafka, enable_auto_commit=False)
        await consumer.start()
        found: list[FirstOffsets] = []
        try:
            for instant in instants:
                wanted = {self._library.TopicPartition(topic, number): instant for number in range(partitions)}
                answers = await consumer.offsets_for_times(wanted)
                found.append({at.partition: None if a is None else a.offset for at, a in answers.items()})
            return found
        finally:
            await consumer.stop()
