"""MetaStore: everything a cluster remembers besides the log, behind typed operations. No SQL above this line.

Guarantees, held by one contract suite for every implementation:

1. A call that returned is durable. A call that raised `NotOwner`, `TopicExists`, `UnknownTopicOrPartition`,
   `InvalidPartitions` or `NotWritten` changed nothing; after `DurabilityUnknown` it may have.
2. Every write carries a fence. A fence older than the newest one of its node or slot is refused with `NotOwner`.
3. Every write may be repeated: under the same topic id, or with the same rows, it has the same effect once.
4. Metadata versions have no gaps and no forks: an image at version v holds exactly the changes 1..v.
5. A cancelled caller leaves its operation done or not done, never half done.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, Protocol, TypeAlias

from msgspec import Struct, field

from cluster.image import MetaDelta
from logstore.errors import InvalidPartitions, NotOwner

PARTITIONS_MAX: Final = 100_000
"""Bound of one topic's partition count: each costs files and a row."""


class SlotKind(IntEnum):
    """What a slot coordinates. Slots share out groups and transactional ids among nodes."""

    GROUP = 0
    TRANSACTION = 1


class BrokerInfo(Struct, frozen=True):
    """How a node registers: where clients reach it."""

    node_id: int
    host: str
    port: int
    rack: str | None = None


class BrokerFence(Struct, frozen=True):
    """One run of one node. The next `register` of the node makes it stale."""

    node_id: int
    epoch: int


class SlotFence(Struct, frozen=True):
    """The right to write one slot's rows, until somebody else acquires the slot."""

    kind: SlotKind
    slot: int
    epoch: int


class CreateTopic(Struct, frozen=True):
    """Idempotent under `topic_id`, which the caller draws. `config` holds overrides, already checked."""

    name: str
    topic_id: uuid.UUID
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


class DeleteTopic(Struct, frozen=True):
    """Takes the committed offsets of its partitions along. Deleting a deleted topic changes nothing."""

    topic_id: uuid.UUID


class AlterTopicConfig(Struct, frozen=True):
    topic_id: uuid.UUID
    set: Mapping[str, str] = field(default_factory=dict)
    delete: Sequence[str] = ()


class AddPartitions(Struct, frozen=True):
    """Grow to `count` partitions in all."""

    topic_id: uuid.UUID
    count: int


MetaChange: TypeAlias = CreateTopic | DeleteTopic | AlterTopicConfig | AddPartitions


class GroupRow(Struct, frozen=True):
    """One group as its coordinator saved it. `body` is the coordinator's own format (cluster.group.stored)."""

    group_id: str
    kind: str
    generation: int
    body: bytes
    saved_at_ms: int
    """Wall clock, milliseconds since 1970."""


class OffsetRow(NamedTuple):
    """One committed offset, keyed by (group_id, partition_id)."""

    group_id: str
    partition_id: int
    offset: int
    leader_epoch: int
    metadata: str
    commit_timestamp_ms: int


class SlotState(Struct, frozen=True):
    """All that was saved under a slot, in key order."""

    groups: tuple[GroupRow, ...]
    offsets: tuple[OffsetRow, ...]


class MetaStore(Protocol):
    """See the module's guarantees. Call from one event loop, the one that ran `open`. Every call raises `Closed`
    before `open` and after `close`."""

    async def open(self) -> None:
        """Make the state ready for use. Raises `DamagedSegment` (not readable) or `UnsupportedFormat` (not ours)."""
        ...

    async def close(self) -> None:
        """Finish what was asked for, then stop. Harmless twice."""
        ...

    async def cluster_id(self) -> str:
        """22 characters, URL-safe base64 of a random id; drawn once in the life of a cluster."""
        ...

    async def register(self, broker: BrokerInfo) -> BrokerFence:
        """A new run of this node: its epoch grows by one, its address shows in the next image."""
        ...

    async def image(self, since: int) -> MetaDelta:
        """What changed after version `since`; from 0, everything there is."""
        ...

    async def deleted_topic_ids(self) -> frozenset[uuid.UUID]:
        """Every topic id that was deleted, ever: a directory found with one of them is left over."""
        ...

    async def mutate(self, fence: BrokerFence, change: MetaChange) -> int:
        """Carry out `change`; returns the metadata version that shows it.

        Raises: NotOwner, TopicExists (another id has the name), UnknownTopicOrPartition (no such topic id),
            InvalidPartitions (a count outside 1..PARTITIONS_MAX, or below the present one).
        """
        ...

    async def acquire(self, kind: SlotKind, slot: int, fence: BrokerFence) -> SlotFence:
        """Take the slot over; the fence of whoever held it before is stale from here on. Raises `NotOwner`."""
        ...

    async def load_slot(self, fence: SlotFence) -> SlotState:
        """Raises `NotOwner`."""
        ...

    async def save_groups(self, fence: SlotFence, rows: Sequence[GroupRow]) -> None:
        """Insert or replace, all or none. Raises `NotOwner`."""
        ...

    async def delete_groups(self, fence: SlotFence, group_ids: Sequence[str]) -> None:
        """With their committed offsets. Unknown ids are ignored. Raises `NotOwner`."""
        ...

    async def save_offsets(self, fence: SlotFence, rows: Sequence[OffsetRow]) -> None:
        """Insert or replace, all or none; rows of partitions that do not exist (any more) are dropped.
        Raises `NotOwner`."""
        ...

    async def delete_offsets(self, fence: SlotFence, keys: Sequence[tuple[str, int]]) -> None:
        """Keys are (group_id, partition_id); unknown ones are ignored. Raises `NotOwner`."""
        ...

    async def allocate_producer_ids(self, fence: BrokerFence, count: int) -> int:
        """The first of `count` (at least 1) consecutive producer ids nobody else ever gets. Raises `NotOwner`."""
        ...


def check_partition_count(name: str, count: int, present: int = 0) -> None:
    """Raises `InvalidPartitions` unless `present <= count` and `1 <= count <= PARTITIONS_MAX`."""
    if not 1 <= count <= PARTITIONS_MAX:
        raise InvalidPartitions(f"topic {name}: {count} partitions", hint=f"ask for 1 to {PARTITIONS_MAX}")
    if count < present:
        raise InvalidPartitions(
            f"topic {name} has {present} partitions, which cannot become {count}",
            hint="partitions can be added, never taken away",
        )


def stale_broker(fence: BrokerFence) -> NotOwner:
    return NotOwner(
        f"node {fence.node_id} was registered anew after epoch {fence.epoch}", hint="stop: another process took over"
    )


def stale_slot(fence: SlotFence) -> NotOwner:
    return NotOwner(
        f"{fence.kind.name.lower()} slot {fence.slot} was acquired anew after epoch {fence.epoch}",
        hint="another node coordinates it now",
    )
