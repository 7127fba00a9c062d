"""Other people's clients behind one small interface, with their own defaults wherever that is possible.

Each adapter imports its library when it is made, and says which package to install when that is missing. All calls
block; those of an asyncio library run a loop of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from logstore.clock import SystemClock
from logstore.types import Header, Offset, TimestampMs
from tools.demo.datasets import Sent

if TYPE_CHECKING:
    import confluent_kafka

FOR_EVER: Final = {"retention.ms": "-1"}
"""Options of a topic whose records bear the times of years ago."""

READ_TIMEOUT_S: Final = 60

_QUIET: Final = 2
"""librdkafka's log level: it tells of every lost connection, and here connections are lost on purpose."""

OnProgress: TypeAlias = Callable[[int], None]
"""Told the number of records acknowledged so far, from whichever thread the client uses."""


class Read(NamedTuple):
    """One record as a client gave it back. `timestamp_ms` is -1 and `headers` None where the door has no such thing."""

    offset: Offset
    key: bytes | None
    value: bytes | None
    timestamp_ms: TimestampMs
    headers: tuple[Header, ...] | None


Partitions: TypeAlias = dict[int, list[Read]]
FirstOffsets: TypeAlias = dict[int, Offset | None]


class ClientFailed(Exception):
    """A client reported an error, or did not finish in time."""


class ClientMissing(Exception):
    """The library of a client is not installed."""


class Client(Protocol):
    """What the demo and the tests ask of every client."""

    name: str

    def create_topic(self, topic: str, partitions: int, options: Mapping[str, str] = FOR_EVER) -> None: ...

    def produce_all(self, topic: str, records: Sequence[Sent], on_progress: OnProgress = lambda _: None) -> None:
        """Write all records in order, exactly once, acks=all; returns when each is acknowledged.

        Raises `ClientFailed` with the first error of the client.
        """
        ...

    def read_all(self, topic: str) -> Partitions:
        """Every record from the beginning to the end offsets found at the start. Raises `ClientFailed`."""
        ...

    def offsets_for_times(self, topic: str, partitions: int, instants: Sequence[TimestampMs]) -> list[FirstOffsets]:
        """For each instant, of each partition the first offset at or after it; None when there is none."""
        ...


class Deadline:
    """Bounds a loop of polls, counted from its making or from the last `extend`."""

    def __init__(self, seconds: float, what: str) -> None:
        self._clock = SystemClock()
        self._seconds = seconds
        self._what = what
        self.extend()

    def extend(self) -> None:
        """Something moved: the time begins anew."""
        self._end_ms = self._clock.monotonic_ms() + int(self._seconds * 1000)

    def check(self) -> None:
        if self._clock.monotonic_ms() > self._end_ms:
            raise ClientFailed(f"{self._what}: nothing more for {self._seconds} s")


class Confluent:
    """confluent-kafka, which is librdkafka."""

    name = "confluent"

    def __init__(self, kafka: str, http: str = "", *, settings: Mapping[str, str | int | bool] | None = None) -> None:
        """`settings` go to the producer, on top of idempotence."""
        try:
            import confluent_kafka
            from confluent_kafka import admin
        except ImportError:
            raise ClientMissing("pip install confluent-kafka") from None
        self._library, self._admin = confluent_kafka, admin
        self._kafka = kafka
        self._settings = dict(settings or {})

    def create_topic(self, topic: str, partitions: int, options: Mapping[str, str] = FOR_EVER) -> None:
        admin = self._admin.AdminClient({"bootstrap.servers": self._kafka, "log_level": _QUIET})
        new = self._library.cimpl.NewTopic(topic, num_partitions=partitions, config=dict(options))
        made = admin.create_topics([new])
        made[topic].result(timeout=READ_TIMEOUT_S)

    def produce_all(self, topic: str, records: Sequence[Sent], on_progress: OnProgress = lambda _: None) -> None:
        config = {"bootstrap.servers": self._kafka, "log_level": _QUIET, "enable.idempotence": True, "acks": "all"}
        producer = self._library.Producer(config | self._settings)
        errors: list[str] = []
        acknowledged = 0

        def delivered(error: object, _: object) -> None:
            nonlocal acknowledged
            if error is not None:
                errors.append(str(error))
                return
            acknowledged += 1
            on_progress(acknowledged)

        for record in records:
            while True:
                try:
                    producer.produce(
                        topic,
                        value=record.value,
                        key=record.key,
                        timestamp=record.timestamp_ms,
                        headers=list(record.headers),
                        on_delivery=delivered,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        left = producer.flush(READ_TIMEOUT_S)
        if errors or left:
            raise ClientFailed(f"{len(errors)} records failed, first: {errors[:1]}, {left} unsent")

    def read_all(self, topic: str) -> Partitions:
        consumer = self._consumer()
        tp, errors = self._library.TopicPartition, self._library.KafkaError
        try:
            numbers = consumer.list_topics(topic, timeout=READ_TIMEOUT_S).topics[topic].partitions
            found: Partitions = {number: [] for number in numbers}
            consumer.assign([tp(topic, number, self._library.OFFSET_BEGINNING) for number in numbers])
            open_, deadline = set(numbers), Deadline(READ_TIMEOUT_S, f"confluent reads {topic}")
            while open_:
                deadline.check()
                for message in consumer.consume(1000, timeout=0.2):
                    deadline.extend()
                    error = message.error()
                    if error is None:
                        found[message.partition() or 0].append(_from_confluent(message))
                    elif error.code() == errors._PARTITION_EOF:
                        open_.discard(message.partition())
                    else:
                        raise ClientFailed(str(error))
            return found
        finally:
            consumer.close()

    def offsets_for_times(self, topic: str, partitions: int, instants: Sequence[TimestampMs]) -> list[FirstOffsets]:
        consumer = self._consumer()
        found: list[FirstOffsets] = []
        try:
            for instant in instants:
                wanted = [self._library.TopicPartition(topic, number, instant) for number in range(partitions)]
                answers = consumer.offsets_for_times(wanted, timeout=READ_TIMEOUT_S)
                found.append({a.partition: a.offset if a.offset >= 0 else None for a in answers})
            return found
        finally:
            consumer.close()

    def _consumer(self) -> confluent_kafka.Consumer:
        return self._library.Consumer(
            {"bootstrap.servers": self._kafka, "group.id": "demo", "enable.partition.eof": True}
            | {"enable.auto.commit": False, "check.crcs": True, "log_level": _QUIET}
        )


def _from_confluent(message: Any) -> Read:
    """Typed by the library as if everything could be absent, which holds for its messages of errors only."""
    headers = tuple((name, value) for name, value in message.headers() or ())
    return Read(message.offset(), message.key(), message.value(), message.timestamp()[1], headers)


class KafkaPython:
    """kafka-python: pure Python, threads."""

    name = "kafka-python"

    def __init__(self, kafka: str, http: str = "") -> None:
        try:
            import kafka as library
        except ImportError:
            raise ClientMissing("pip install kafka-python") from None
        self._library = library
        self._kafka = kafka

    def create_topic(self, topic: str, partitions: int, options: Mapping[str, str] = FOR_EVER) -> None:
        admin = self._library.KafkaAdminClient(bootstrap_servers=self._kafka)
        try:
            admin.create_topics(
                {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": dict(options)}}
            )
        finally:
            admin.close()

    def produce_all(self, topic: str, records: Sequence[Sent], on_progress: OnProgress = lambda _: None) -> None:
        producer = self._library.KafkaProducer(bootstrap_servers=self._kafka, enable_idempotence=True, acks="all")
        count: Counter[str] = Counter()
        errors: list[str] = []

        def delivered(_: object) -> None:
            count["acknowledged"] += 1  # always from the one sender thread
            on_progress(count["acknowledged"])

        try:
            for record in records:
                future = producer.send(
                    topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    timestamp_ms=record.timestamp_ms,
                )
                future.add_callback(delivered)
                future.add_errback(lambda error: errors.append(repr(error)))
            producer.flush(timeout=READ_TIMEOUT_S)
        finally:
            producer.close(timeout=5)
        if errors or count["acknowledged"] != len(records):
            raise ClientFailed(f"{len(errors)} records failed, first: {errors[:1]}, {count['acknowledged']} done")

    def read_all(self, topic: str) -> Partitions:
        consumer = self._library.KafkaConsumer(bootstrap_servers=self._kafka, enable_auto_commit=False)
        try:
            numbers = consumer.partitions_for_topic(topic)
            partitions = {self._library.TopicPartition(topic, number): number for number in numbers or ()}
            found: Partitions = {number: [] for number in partitions.values()}
            consumer.assign(list(partitions))
            consumer.seek_to_beginning()
            ends = consumer.end_offsets(list(partitions))
            deadline = Deadline(READ_TIMEOUT_S, f"kafka-python reads {topic}")
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                deadline.check()
                for partition, messages in consumer.poll(timeout_ms=200, max_records=1000).items():
                    deadline.extend()
                    found[partition.partition].extend(
                        Read(m.offset, m.key, m.value, m.timestamp, tuple(m.headers)) for m in messages
                    )
            return found
        finally:
            consumer.close()

    def offsets_for_times(self, topic: str, partitions: int, instants: Sequence[TimestampMs]) -> list[FirstOffsets]:
        consumer = self._library.KafkaConsumer(bootstrap_servers=self._kafka, enable_auto_commit=False)
        found: list[FirstOffsets] = []
        try:
            for instant in instants:
                wanted = {self._library.TopicPartition(topic, number): instant for number in range(partitions)}
                answers = consumer.offsets_for_times(wanted)
                found.append({at.partition: None if a is None else a.offset for at, a in answers.items()})
            return found
        finally:
            consumer.close()
