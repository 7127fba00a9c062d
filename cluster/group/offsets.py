"""The committed offsets of one group, by internal partition id. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from cluster.error_codes import ErrorCode
from cluster.group.events import CommittedOffset
from cluster.group.state import GroupPhase, GroupState


class CommittedOffsets:
    """What a group has committed. `apply` and `remove` change it, after the change is durable."""

    __slots__ = ("_by_partition",)

    def __init__(self, offsets: Mapping[int, CommittedOffset] | None = None) -> None:
        self._by_partition = dict(offsets or {})

    def __len__(self) -> int:
        return len(self._by_partition)

    def fetch(self, partition_ids: Iterable[int] | None = None) -> dict[int, CommittedOffset]:
        """Those of `partition_ids` that have an offset; None asks for all."""
        if partition_ids is None:
            return self._by_partition.copy()
        return {each: self._by_partition[each] for each in partition_ids if each in self._by_partition}

    def apply(self, offsets: Mapping[int, CommittedOffset]) -> None:
        self._by_partition.update(offsets)

    def remove(self, partition_ids: Iterable[int]) -> None:
        for partition_id in partition_ids:
            self._by_partition.pop(partition_id, None)

    def expired(self, state: GroupState, empty_since_ms: int, retention_ms: int, now_ms: int) -> list[int]:
        """Whose time has come. Wall-clock milliseconds.

        Nothing while the group has members. In a group that had some, an offset stays for `retention_ms` from its
        commit or from when the group became empty, whichever was later (KIP-211); in a group that never had, from its
        commit.
        """
        if state.phase is not GroupPhase.EMPTY or state.pending:
            return []
        since_ms = empty_since_ms if state.protocol_type is not None else 0
        return [
            partition_id
            for partition_id, committed in self._by_partition.items()
            if max(committed.commit_timestamp_ms, since_ms) + retention_ms <= now_ms
        ]


def admit(
    offsets: Mapping[int, CommittedOffset], metadata_bytes_max: int
) -> tuple[dict[int, CommittedOffset], dict[int, ErrorCode]]:
    """Split a commit into what may be stored and what is refused, each partition by itself."""
    taken, refused = {}, {}
    for partition_id, committed in offsets.items():
        if len(committed.metadata.encode("utf-8", "surrogatepass")) > metadata_bytes_max:
            refused[partition_id] = ErrorCode.OFFSET_METADATA_TOO_LARGE
        elif committed.offset < 0:
            refused[partition_id] = ErrorCode.INVALID_COMMIT_OFFSET_SIZE
        else:
            taken[partition_id] = committed
    return taken, refused


def subscribed_topics(state: GroupState) -> frozenset[str] | None:
    """The topics a consumer group's members subscribe to; None if that cannot be read off their metadata."""
    if not state.members:
        return frozenset()
    if state.protocol_type != "consumer" or state.protocol is None:
        return None
    topics: set[str] = set()
    for member in state.members.values():
        try:
            topics.update(_subscription(member.metadata(state.protocol)))
        except (struct.error, ValueError):
            return None
    return frozenset(topics)


def _subscription(metadata: bytes) -> Iterable[str]:
    """The topics of a ConsumerProtocolSubscription: int16 version, then an array of strings. Raises `ValueError`."""
    _, count = struct.unpack_from(">hi", metadata)
    position = 6
    for _ in range(count):
        (size_bytes,) = struct.unpack_from(">h", metadata, position)
        position += 2
        if size_bytes < 0 or position + size_bytes > len(metadata):
            raise ValueError("a topic name beyond the end")
        yield metadata[position : position + size_bytes].decode()
        position += size_bytes
