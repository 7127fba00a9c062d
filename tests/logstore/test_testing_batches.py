"""The batch generators: the same bytes from the same seed, valid, and as varied as they claim."""

from __future__ import annotations

from itertools import pairwise

from logstore.record.batch import check
from logstore.record.compression import Codec
from logstore.record.records import decode_batch
from logstore.testing import batches


def test_a_seed_gives_the_same_batch_each_time():
    assert batches.batch(7) == batches.batch(7)
    assert batches.batch(7) != batches.batch(8)


def test_a_log_has_no_gap_and_every_kind_of_record():
    made = list(batches.log(1, 60, base_offset=5))
    headers = [check(memoryview(one)) for one in made]
    records = [record for one in made for record in decode_batch(one)]
    assert [record.offset for record in records] == list(range(5, headers[-1].last_offset + 1))
    assert {header.codec for header in headers} == set(Codec)
    assert any(record.key is None for record in records)
    assert any(record.value is None for record in records)
    assert any(record.headers for record in records)
    assert any(b.timestamp_ms < a.timestamp_ms for a, b in pairwise(records))
