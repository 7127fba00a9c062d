"""Which node serves a partition, group or transaction: rendezvous hashing with mmh3. Pure.

Every node and every client computes the same answer from the same set of nodes. When a node joins or leaves, only the
keys it gains or loses move. Wrong or old answers cost a redirect, never safety: writes are fenced.

Groups and transactional ids map to one of SLOT_COUNT slots first; a slot is what a node acquires and loads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import mmh3

from cluster.metadata.store import SlotKind

SLOT_COUNT: Final = 64
_PARTITION_KIND: Final = 255
_WEIGHED = struct.Struct(">iBq")
assert _WEIGHED.size == 13


def slot_of(key: str) -> int:
    """The slot of a group id or transactional id: 0..SLOT_COUNT-1. Stored with rows, so it may never change."""
    return int(mmh3.hash(key.encode("utf-8", "surrogatepass"), signed=False)) % SLOT_COUNT


class RendezvousRouter:
    """Immutable; make a new one when the set of nodes changes. Raises `ValueError` for no nodes."""

    def __init__(self, node_ids: Iterable[int]) -> None:
        self._node_ids = tuple(sorted(set(node_ids)))
        if not self._node_ids:
            raise ValueError("a router needs at least one node")

    @property
    def node_ids(self) -> tuple[int, ...]:
        return self._node_ids

    def leader(self, partition_id: int) -> int:
        """The node that serves a partition."""
        return self._heaviest(_PARTITION_KIND, partition_id)

    def coordinator(self, kind: SlotKind, key: str) -> int:
        """The node that coordinates a group or transactional id."""
        return self._heaviest(kind, slot_of(key))

    def slots(self, kind: SlotKind, node_id: int) -> tuple[int, ...]:
        """The slots `node_id` should acquire."""
        return tuple(slot for slot in range(SLOT_COUNT) if self._heaviest(kind, slot) == node_id)

    def _heaviest(self, kind: int, number: int) -> int:
        if len(self._node_ids) == 1:
            return self._node_ids[0]
        return max(
            self._node_ids,
            key=lambda node_id: (mmh3.hash(_WEIGHED.pack(node_id, kind, number), signed=False), -node_id),
        )
