"""The demo's own judgement: a comparison that finds nothing must be one that could have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.demo.clients import Partitions, Read
from tools.demo.datasets import SMALL_DATA, SOURCES, Sent, dataset
from tools.demo.story import compare, instants

SENT = [Sent(b"k%d" % (n % 2), b"v%d" % n, 1000 + n, (("n", str(n).encode()),)) for n in range(10)]


def as_read() -> Partitions:
    """Everything as it should come back: keys by turns in partitions 0 and 1."""
    return {p: [Read(at, r.key, r.value, r.timestamp_ms, r.headers) for at, r in enumerate(SENT[p::2])] for p in (0, 1)}


def lose(read: Partitions) -> None:
    del read[0][-1]


def double(read: Partitions) -> None:
    read[0].append(read[0][-1]._replace(offset=len(read[0])))


def swap(read: Partitions) -> None:
    first, second = read[1][:2]
    read[1][:2] = [second._replace(offset=0), first._replace(offset=1)]


def misplace(read: Partitions) -> None:
    read[1].append(read[0].pop()._replace(offset=len(read[1])))


def skip_an_offset(read: Partitions) -> None:
    read[0][-1] = read[0][-1]._replace(offset=99)


def invent(read: Partitions) -> None:
    read[0].append(Read(len(read[0]), b"k0", b"?", 0, ()))


def changed(**fields: object) -> Callable[[Partitions], None]:
    def change(read: Partitions) -> None:
        read[0][2] = read[0][2]._replace(**fields)

    return change


def test_what_came_back_as_sent_is_no_problem() -> None:
    assert compare(SENT, as_read()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lose,
        double,
        swap,
        misplace,
        skip_an_offset,
        invent,
        changed(value=None),
        changed(value=b""),
        changed(key=None),
        changed(timestamp_ms=5),
        changed(headers=(("n", b"4"), ("more", b""))),
        changed(headers=None),
    ],
)
def test_every_damage_is_found(damage: Callable[[Partitions], None]) -> None:
    read = as_read()
    damage(read)
    assert compare(SENT, read)


@pytest.mark.parametrize("name", SOURCES)
def test_the_small_streams_have_what_the_real_ones_have(name: str) -> None:
    records = dataset(name, SMALL_DATA).records
    assert len(records) >= 300
    assert [dict(record.headers)["n"] for record in records] == [str(n).encode() for n in range(len(records))]
    assert len({record.key for record in records}) > 5
    if name == "advisories":
        assert any(record.value is None for record in records)
    if name == "market":
        assert any(record.key is None for record in records)
        assert max(len(record.value or b"") for record in records) > 700_000
    if name in ("hdfs", "market"):
        assert [r.timestamp_ms for r in records] != sorted(r.timestamp_ms for r in records)


def test_the_instants_reach_beyond_both_ends() -> None:
    assert instants([5, 1, 9])[0] < 1
    assert instants([5, 1, 9])[-1] > 9
