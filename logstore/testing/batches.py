"""Valid batches from a seed, of every codec and shape: for tests, and for whoever tests against this library."""

from __future__ import annotations

import random  # noqa: TID251 - a generator of its own from the caller's seed
from collections.abc import Iterator

from logstore.record.batch import stamp_offset
from logstore.record.compression import Codec
from logstore.record.records import NewRecord, encode_batch
from logstore.types import Header, Offset

EPOCH_MS = 1_700_000_000_000
_ALPHABET = b"abcdefgh 0123456789"


def records(seed: int, count: int, *, value_bytes_max: int = 200) -> list[NewRecord]:
    """`count` records: some without key, some tombstones, some with headers, timestamps that now and then step back."""
    chance = random.Random(seed)
    now_ms = EPOCH_MS
    made: list[NewRecord] = []
    for _ in range(count):
        now_ms += chance.choice((0, 1, 7, 100, 9000, -50))
        key = None if chance.random() < 0.2 else _text(chance, 20)
        value = None if key is not None and chance.random() < 0.1 else _text(chance, value_bytes_max)
        headers: tuple[Header, ...] = ()
        if chance.random() < 0.2:
            headers = tuple(
                (f"h{n}", None if chance.random() < 0.2 else _text(chance, 9)) for n in range(chance.randint(1, 3))
            )
        made.append((now_ms, key, value, headers))
    return made


def batch(
    seed: int, *, base_offset: Offset = 0, count: int | None = None, codec: int | None = None, leader_epoch: int = 0
) -> bytearray:
    """One batch, stamped with `base_offset`. Number of records (1 to 40) and codec are drawn unless given."""
    chance = random.Random(seed)
    count = chance.randint(1, 40) if count is None else count
    codec = chance.choice(list(Codec)) if codec is None else codec
    made = encode_batch(records(seed, count), codec=codec)
    stamp_offset(made, 0, base_offset, leader_epoch)
    return made


def log(seed: int, batch_count: int, *, base_offset: Offset = 0, codec: int | None = None) -> Iterator[bytearray]:
    """`batch_count` batches with ascending offsets and no gap: joined, they are a segment's `.log`."""
    for number in range(batch_count):
        count = random.Random(seed * 1_000_003 + number).randint(1, 40)
        yield batch(seed * 1_000_003 + number, base_offset=base_offset, count=count, codec=codec)
        base_offset += count


def _text(chance: random.Random, bytes_max: int) -> bytes:
    return bytes(chance.choices(_ALPHABET, k=chance.randint(0, bytes_max)))
