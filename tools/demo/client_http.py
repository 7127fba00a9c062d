"""The HTTP door as a client: REST proxy v2, binary format. There is no idempotence, so a lost answer is looked into.

This one writer chooses the partition of every record itself, by Kafka's rule. What a partition holds of its share is
then its end offset, and after a broken connection writing goes on exactly there.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from logstore.partitioner import partition_for_key
from logstore.types import Header, Offset, TimestampMs
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

BINARY: Final = "application/vnd.kafka.binary.v2+json"
_CHUNK_RECORDS: Final = 500
_CHUNK_BYTES: Final = 900_000
_PAUSE_S: Final = 0.05


class Http:
    """The binary format over httpx."""

    name = "http"

    def __init__(self, kafka: str, http: str) -> None:
        try:
            import httpx
        except ImportError:
            raise ClientMissing("pip install httpx") from None
        self._library = httpx
        unkept = httpx.Limits(max_keepalive_connections=0)  # so that there is nothing to close in the end
        self._client = httpx.Client(base_url=http, timeout=READ_TIMEOUT_S, trust_env=False, limits=unkept)

    def create_topic(self, topic: str, partitions: int, options: Mapping[str, str] = FOR_EVER) -> None:
        clusters = self._get("/v3/clusters")["data"]
        body = {
            "topic_name": topic,
            "partitions_count": partitions,
            "configs": [{"name": name, "value": value} for name, value in options.items()],
        }
        answer = self._client.post(f"/v3/clusters/{clusters[0]['cluster_id']}/topics", json=body)
        if answer.status_code != 201:
            raise ClientFailed(f"create {topic}: {answer.status_code} {answer.text}")

    def produce_all(self, topic: str, records: Sequence[Sent], on_progress: OnProgress = lambda _: None) -> None:
        shares = _share_out(records, len(self._partitions(topic)))
        done = [0] * len(shares)
        deadline = Deadline(READ_TIMEOUT_S, f"http writes {topic}")
        while any(n < len(share) for n, share in zip(done, shares, strict=True)):
            deadline.check()
            chunk, ends = _chunk(shares, done)
            try:
                self.post(topic, chunk)
            except self._library.TransportError:
                done = self._await_ends(topic, deadline)  # how much of the chunk came through is not known: ask
            else:
                done = ends
                deadline.extend()
            on_progress(sum(done))

    def read_all(self, topic: str) -> Partitions:
        return {number: self._read_partition(topic, number) for number in self._partitions(topic)}

    def offsets_for_times(self, topic: str, partitions: int, instants: Sequence[TimestampMs]) -> list[FirstOffsets]:
        return [{number: self._first(topic, number, instant) for number in range(partitions)} for instant in instants]

    def post(self, topic: str, records: Sequence[tuple[int | None, Sent]]) -> list[tuple[int, Offset]]:
        """Write records, each with its partition or None; where each went. Raises `ClientFailed` if one was refused."""
        body = {"records": [_to_json(partition, record) for partition, record in records]}
        answer = self._client.post(f"/topics/{topic}", json=body, headers={"Content-Type": BINARY})
        if answer.status_code != 200:
            raise ClientFailed(f"produce: {answer.status_code} {answer.text[:300]}")
        offsets = answer.json()["offsets"]
        errors = [offset for offset in offsets if offset.get("error_code") is not None]
        if errors or len(offsets) != len(records):
            raise ClientFailed(f"produce: {len(offsets)} answers for {len(records)} records, errors {errors[:1]}")
        return [(offset["partition"], offset["offset"]) for offset in offsets]

    def _read_partition(self, topic: str, number: int) -> list[Read]:
        at, end = self._bounds(topic, number)
        found: list[Read] = []
        deadline = Deadline(READ_TIMEOUT_S, f"http reads {topic}")
        while at < end:
            deadline.check()
            records = self._get(f"/topics/{topic}/partitions/{number}/records", {"offset": at, "timeout": 1000})
            for record in records:
                deadline.extend()
                found.append(_from_json(record))
                at = record["offset"] + 1
        return found

    def _first(self, topic: str, number: int, instant: TimestampMs) -> Offset | None:
        query = {"timestamp": instant, "max_bytes": 1, "timeout": 0}
        records = self._get(f"/topics/{topic}/partitions/{number}/records", query)
        return records[0]["offset"] if records else None

    def _await_ends(self, topic: str, deadline: Deadline) -> list[Offset]:
        pause = threading.Event()
        while True:
            deadline.check()
            try:
                return [self._bounds(topic, number)[1] for number in self._partitions(topic)]
            except self._library.TransportError:
                pause.wait(_PAUSE_S)

    def _bounds(self, topic: str, number: int) -> tuple[Offset, Offset]:
        offsets = self._get(f"/topics/{topic}/partitions/{number}/offsets")
        return offsets["beginning_offset"], offsets["end_offset"]

    def _partitions(self, topic: str) -> list[int]:
        return sorted(partition["partition"] for partition in self._get(f"/topics/{topic}/partitions"))

    def _get(self, path: str, query: Mapping[str, int] | None = None) -> Any:
        answer = self._client.get(path, params=query, headers={"Accept": f"{BINARY}, application/json;q=0.5"})
        if answer.status_code != 200:
            raise ClientFailed(f"GET {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()


def _share_out(records: Sequence[Sent], partitions: int) -> list[list[Sent]]:
    """Each partition's records in order: keys by Kafka's rule, those without a key by turns."""
    shares: list[list[Sent]] = [[] for _ in range(partitions)]
    for number, record in enumerate(records):
        at = number % partitions if record.key is None else partition_for_key(record.key, partitions)
        shares[at].append(record)
    return shares


def _chunk(shares: Sequence[Sequence[Sent]], done: Sequence[int]) -> tuple[list[tuple[int, Sent]], list[int]]:
    """The next records of all partitions, and what will be done after them. Stays below the bounds of one request."""
    chunk: list[tuple[int, Sent]] = []
    ends, size = list(done), 0
    for partition, share in enumerate(shares):
        room = _CHUNK_RECORDS // len(shares)
        for record in share[ends[partition] : ends[partition] + room]:
            if chunk and size + record.size_bytes > _CHUNK_BYTES:
                return chunk, ends
            chunk.append((partition, record))
            ends[partition] += 1
            size += record.size_bytes
    return chunk, ends


def _to_json(partition: int | None, record: Sent) -> dict[str, Any]:
    return {
        "key": _base64(record.key),
        "value": _base64(record.value),
        "timestamp": record.timestamp_ms,
        "headers": [{"name": name, "value": _base64(value)} for name, value in record.headers],
    } | ({} if partition is None else {"partition": partition})


def _from_json(record: Mapping[str, Any]) -> Read:
    headers: tuple[Header, ...] = tuple((h["name"], _bytes(h["value"])) for h in record["headers"])
    return Read(record["offset"], _bytes(record["key"]), _bytes(record["value"]), record["timestamp"], headers)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
