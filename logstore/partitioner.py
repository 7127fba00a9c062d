"""Which partition a record goes to: Kafka's choice, so that a key lands where every Kafka client puts it. Pure.

A record with a key goes to `(murmur2(key) & 0x7fffffff) % partitions`. This is MurmurHash2 with Kafka's seed, not the
MurmurHash3 of the mmh3 library. A record without a key goes to the partition the sticky partitioner is at: one stays
until enough bytes went there, so that batches fill up. Source: Kafka's Java client (murmur2 of `Utils`, the built-in
partitioner of KIP-480 and KIP-794).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from logstore.errors import InvalidRequest
from logstore.types import Buffer

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF

STICKY_BYTES: Final = 16 << 10
"""Bytes a keyless stream writes to one partition before it moves on: the Java client's `batch.size`."""


@lru_cache(maxsize=64)
def _words(count: int) -> Callable[[Buffer], tuple[int, ...]]:
    unpack: Callable[[Buffer], tuple[int, ...]] = struct.Struct(f"<{count}I").unpack_from
    return unpack


def murmur2(data: Buffer) -> int:
    """Kafka's 32-bit MurmurHash2 of `data`, unsigned: `murmur2(b"21") == 3321034988`."""
    size = len(data)
    h = _SEED ^ size
    words = size >> 2
    if words:
        for k in _words(words)(data):
            k = k * _M & _MASK
            h = (h * _M & _MASK) ^ ((k ^ k >> 24) * _M & _MASK)
    rest = size & 3
    if rest:
        tail = words << 2
        if rest == 3:
            h ^= data[tail + 2] << 16
        if rest >= 2:
            h ^= data[tail + 1] << 8
        h = (h ^ data[tail]) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_for_key(key: Buffer, partition_count: int) -> int:
    """The partition of a record with `key`, as every Kafka client with the default partitioner chooses it.

    Raises `InvalidRequest` when there is no partition.
    """
    if partition_count < 1:
        raise _no_partition(partition_count)
    return (murmur2(key) & _POSITIVE) % partition_count


class StickyPartitioner:
    """The partition of records without a key: the same one until `sticky_bytes` went there, then another.

    `below(bound)` draws a number in 0..bound-1, as `clock.Chance.below`. Not safe for several threads.
    """

    def __init__(self, below: Callable[[int], int], sticky_bytes: int = STICKY_BYTES) -> None:
        self._below = below
        self._sticky_bytes = sticky_bytes
        self._partition = -1
        self._bytes = 0

    def partition_for(self, size_bytes: int, partition_count: int) -> int:
        """Where a record of `size_bytes` goes. Raises `InvalidRequest` when there is no partition."""
        if partition_count < 1:
            raise _no_partition(partition_count)
        if not 0 <= self._partition < partition_count:
            self._partition, self._bytes = self._below(partition_count), 0
        elif self._bytes >= self._sticky_bytes:
            if partition_count > 1:  # any but the present one, each as likely
                self._partition = (self._partition + 1 + self._below(partition_count - 1)) % partition_count
            self._bytes = 0
        self._bytes += size_bytes
        return self._partition


def _no_partition(partition_count: int) -> InvalidRequest:
    return InvalidRequest(f"{partition_count} partitions to choose from", hint="create the topic with at least one")
