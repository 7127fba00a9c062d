"""The whole story of one client and one stream: write, crash half-way, write on, read back, compare byte for byte."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from logstore.clock import SystemClock
from logstore.types import Offset, TimestampMs
from tools.demo.client_http import Http
from tools.demo.clients import Client, Confluent, KafkaPython, Partitions, Read
from tools.demo.clients_async import Aiokafka
from tools.demo.datasets import NUMBER_HEADER, Dataset, Sent
from tools.demo.server import ServerProcess

CLIENTS: Final[Mapping[str, Callable[[str, str], Client]]] = {
    "confluent": Confluent,
    "aiokafka": Aiokafka,
    "kafka-python": KafkaPython,
    "http": Http,
}
_PROBLEMS_SHOWN: Final = 5
_RESTART_JOIN_S: Final = 60


class Outcome(NamedTuple):
    """What one client made of one stream. `problems` is empty when everything came back as it was sent."""

    client: str
    topic: str
    records: int
    size_bytes: int
    write_s: float
    read_s: float
    crashed: bool
    problems: list[str]


class Crash:
    """Kills the server when half of the records are acknowledged, and starts it again beside the running client."""

    def __init__(self, server: ServerProcess, at_records: int) -> None:
        self._server = server
        self._at_records = at_records
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def on_progress(self, acknowledged: int) -> None:
        """May be called from any thread, but from one at a time."""
        if self._thread is None and acknowledged >= self._at_records:
            self._server.kill()
            self._thread = threading.Thread(target=self._restart, name="restart")
            self._thread.start()

    def finish(self) -> bool:
        """Whether there was a crash. Raises what the restart raised."""
        if self._thread is not None:
            self._thread.join(_RESTART_JOIN_S)
        if self._error is not None:
            raise self._error
        return self._thread is not None

    def _restart(self) -> None:
        try:
            self._server.restart()
        except BaseException as error:  # shown by the thread that waits
            self._error = error


def tell(server: ServerProcess, client: Client, dataset: Dataset, *, crash: bool = True) -> Outcome:
    """Run the story. Raises `ClientFailed` when the client gives up, `ServerFailed` when the server does."""
    clock = SystemClock()
    client.create_topic(dataset.topic, dataset.partitions)
    breaker = Crash(server, len(dataset.records) // 2)
    begun_ms = clock.monotonic_ms()
    try:
        client.produce_all(dataset.topic, dataset.records, breaker.on_progress if crash else lambda _: None)
    finally:
        crashed = breaker.finish()
    written_ms = clock.monotonic_ms()
    read = client.read_all(dataset.topic)
    read_ms = clock.monotonic_ms()
    problems = compare(dataset.records, read)
    if crash and not crashed:
        problems.append("the server was never killed")
    problems += compare_times(client, dataset, read)
    return Outcome(
        client.name,
        dataset.topic,
        len(dataset.records),
        dataset.size_bytes,
        (written_ms - begun_ms) / 1000,
        (read_ms - written_ms) / 1000,
        crashed,
        problems[:_PROBLEMS_SHOWN],
    )


def compare(sent: Sequence[Sent], read: Partitions) -> list[str]:
    """Where what was read differs from what was sent: lost, doubled, changed, misplaced or out of order."""
    problems: list[str] = []
    places: dict[int, list[tuple[int, Offset]]] = defaultdict(list)
    partitions_of: dict[bytes, set[int]] = defaultdict(set)
    for partition, records in read.items():
        if [record.offset for record in records] != list(range(len(records))):
            problems.append(f"partition {partition}: offsets are not 0 to {len(records) - 1}")
        for record in records:
            number = _number(record)
            if not 0 <= number < len(sent):
                problems.append(f"partition {partition} offset {record.offset}: a record nobody sent")
                continue
            places[number].append((partition, record.offset))
            if record.key is not None:
                partitions_of[record.key].add(partition)
            if Sent(record.key, record.value, record.timestamp_ms, record.headers or ()) != sent[number]:
                problems.append(f"partition {partition} offset {record.offset}: differs from record {number}")
        # One producer wrote the stream: within a partition, and so within a key, its order is the order of sending.
        numbers = [_number(record) for record in records]
        problems += [
            f"partition {partition} offset {at + 1}: record {after} behind record {before}"
            for at, (before, after) in enumerate(pairwise(numbers))
            if after <= before
        ]
    problems += [f"record {number} is lost" for number in range(len(sent)) if number not in places]
    problems += [f"record {number} is there {len(at)} times: {at}" for number, at in places.items() if len(at) > 1]
    problems += [f"key {key!r} is in partitions {sorted(at)}" for key, at in partitions_of.items() if len(at) > 1]
    return problems


def compare_times(client: Client, dataset: Dataset, read: Partitions) -> list[str]:
    """Look-ups by time against a search through everything that was read."""
    problems: list[str] = []
    times = instants([record.timestamp_ms for record in dataset.records])
    answers = client.offsets_for_times(dataset.topic, dataset.partitions, times)
    for instant, found in zip(times, answers, strict=True):
        expected = {
            partition: next((record.offset for record in records if record.timestamp_ms >= instant), None)
            for partition, records in read.items()
        }
        if found != expected:
            problems.append(f"time {instant}: offsets {found}, expected {expected}")
    return problems


def instants(timestamps: Sequence[TimestampMs]) -> list[TimestampMs]:
    """Times worth asking for: before all, at the first, between, one past a record's, at the last, after all."""
    ordered = sorted(timestamps)
    parts = [ordered[len(ordered) * part // 5] for part in range(5)]
    return [ordered[0] - 1, *parts, parts[2] + 1, ordered[-1], ordered[-1] + 1]


def _number(record: Read) -> int:
    for name, value in record.headers or ():
        if name == NUMBER_HEADER and value is not None and value.isdigit():
            return int(value)
    return -1
