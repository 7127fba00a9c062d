"""Across the doors: what one client writes every other one reads, and a key has one partition whoever writes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from logstore.partitioner import partition_for_key
from tools.demo.client_http import Http
from tools.demo.clients import Client, Confluent, Partitions
from tools.demo.datasets import PARTITIONS, Sent

_KEYS: Final = 100
# librdkafka's own default hashes keys with CRC32, unlike every other client; this is how its users agree with them.
_MURMUR2: Final[Mapping[str, str]] = {"partitioner": "murmur2_random"}


def cross(clients: Iterable[Client], kafka: str, topic: str = "doors") -> list[str]:
    """Write the same keys through every client, read them through every client. What went wrong."""
    clients = list(clients)
    clients[0].create_topic(topic, PARTITIONS)
    sent: set[tuple[bytes | None, bytes | None]] = set()
    for client in clients:
        records = [
            Sent(f"key {number}".encode(), f"{client.name} {number}".encode(), 1_500_000_000_000 + number, ())
            for number in range(_KEYS)
        ]
        sent |= {(record.key, record.value) for record in records}
        if isinstance(client, Http):
            client.post(topic, [(None, record) for record in records])  # the server's choice of partition
        else:
            writer = Confluent(kafka, settings=_MURMUR2) if isinstance(client, Confluent) else client
            writer.produce_all(topic, records)
    problems: list[str] = []
    first: Partitions | None = None
    for client in clients:
        read = client.read_all(topic)
        bare = [(record.key, record.value) for records in read.values() for record in records]
        if len(bare) != len(sent) or set(bare) != sent:
            problems.append(f"{client.name} reads {len(bare)} records, {len(sent)} were sent")
        problems += [f"{client.name}: {problem}" for problem in _misplaced(read)]
        first = first or read
        if read != first:
            problems.append(f"{client.name} and {clients[0].name} do not read the same")
    return problems


def _misplaced(read: Partitions) -> list[str]:
    found: dict[bytes, set[int]] = defaultdict(set)
    for partition, records in read.items():
        for record in records:
            found[record.key or b""].add(partition)
    return [
        f"key {key!r} is in partitions {sorted(partitions)}, expected {partition_for_key(key, PARTITIONS)}"
        for key, partitions in found.items()
        if partitions != {partition_for_key(key, PARTITIONS)}
    ]
