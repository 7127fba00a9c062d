"""murmur2 against two other libraries and Kafka's own known values; the sticky choice from a seed."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from itertools import pairwise

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2

from logstore.clock import SeededChance
from logstore.errors import InvalidRequest
from logstore.partitioner import StickyPartitioner, murmur2, partition_for_key

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its resources the old way
    from kafka.partitioner.default import murmur2 as kafka_murmur2


def test_known_values():
    for key, signed in ((b"21", -973932308), (b"foobar", -790332482), (b"abc", 479470107)):
        assert murmur2(key) == signed & 0xFFFFFFFF


def test_every_length_agrees_with_two_other_libraries():
    chance = random.Random(11)
    for size in [*range(70), 1000, 4099]:
        key = chance.randbytes(size)
        assert murmur2(key) == aiokafka_murmur2(key) & 0xFFFFFFFF == kafka_murmur2(key) & 0xFFFFFFFF
        assert murmur2(memoryview(key)) == murmur2(bytearray(key)) == murmur2(key)
        for partitions in (1, 3, 1000):
            assert partition_for_key(key, partitions) == (aiokafka_murmur2(key) & 0x7FFFFFFF) % partitions


def test_no_partition_is_refused():
    with pytest.raises(InvalidRequest):
        partition_for_key(b"k", 0)
    with pytest.raises(InvalidRequest):
        StickyPartitioner(SeededChance(1).below).partition_for(1, 0)


def test_keyless_records_stay_until_enough_bytes_went_there_then_move():
    sticky = StickyPartitioner(SeededChance(2).below, sticky_bytes=100)
    chosen = [sticky.partition_for(25, 5) for _ in range(400)]
    runs = [chosen[n : n + 4] for n in range(0, 400, 4)]
    assert all(len(set(run)) == 1 for run in runs)
    assert all(a[0] != b[0] for a, b in pairwise(runs))
    assert set(Counter(chosen)) == set(range(5))


def test_the_sticky_choice_follows_a_change_of_partitions():
    sticky = StickyPartitioner(lambda bound: bound - 1, sticky_bytes=10)
    assert sticky.partition_for(1, 8) == 7
    assert sticky.partition_for(1, 2) == 1
    assert [sticky.partition_for(100, 1) for _ in range(3)] == [0, 0, 0]
