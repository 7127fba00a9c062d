"""Every client, with its defaults, against one running server: the round trips people try first."""

from __future__ import annotations

import itertools
from pathlib import Path

import aiokafka
import confluent_kafka
import kafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka.admin import AdminClient
from support.members import AiokafkaMember, ConfluentMember, KafkaPythonMember, Member, drive
from support.wire import PRODUCE, Wire, produce_request

from logstore.record.batch import LENGTH_PREFIX_BYTES, MAGIC_POSITION, iter_headers
from logstore.record.compression import Codec
from logstore.record.records import decode_batch, encode_batch
from tools.demo.datasets import NUMBER_HEADER, PARTITIONS, SMALL_DATA, SOURCES, Dataset, Sent, dataset
from tools.demo.doors import cross
from tools.demo.server import ServerProcess
from tools.demo.story import CLIENTS, tell

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # sockets the client libraries leave to the collector

MEMBERS = {"confluent": ConfluentMember, "aiokafka": AiokafkaMember, "kafka-python": KafkaPythonMember}
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
TIMEOUT_S = 15
_names = itertools.count()


@pytest.fixture
def topic() -> str:
    """A name no other test uses."""
    return f"topic-{next(_names)}"


def some(count: int) -> list[Sent]:
    return [
        Sent(b"key %d" % (n % 7), b"value %d" % n, 1_600_000_000_000 + n, (("n", str(n).encode()),))
        for n in range(count)
    ]


def log_path(server: ServerProcess, topic: str) -> Path:
    return server.directory / f"{topic}-0" / f"{0:020d}.log"


# --- produce and consume ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_small_streams_come_back_as_they_were_sent(client: str, topic: str, server: ServerProcess) -> None:
    outcome = tell(server, CLIENTS[client](server.kafka, server.http), mixed(topic), crash=False)
    assert outcome.problems == []


def mixed(topic: str) -> Dataset:
    """The small streams one behind the other: null keys, tombstones, a large value, times out of order."""
    records = [record for name in SOURCES for record in dataset(name, SMALL_DATA).records]
    numbered = [
        record._replace(headers=(*record.headers[:-1], (NUMBER_HEADER, str(number).encode())))
        for number, record in enumerate(records)
    ]
    return Dataset(topic, PARTITIONS, numbered)


def test_the_doors_agree(server: ServerProcess, topic: str) -> None:
    assert cross([make(server.kafka, server.http) for make in CLIENTS.values()], server.kafka, topic) == []


@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_confluent_with_any_acks(acks: int | str, topic: str, server: ServerProcess) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": server.kafka, "acks": acks})
    for number in range(50):
        producer.produce(topic, value=b"%d" % number)
    assert producer.flush(TIMEOUT_S) == 0
    read = read_back(server, topic)
    assert [value for _, value in read] == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("acks", [0, 1, "all"])
async def test_aiokafka_with_any_acks(acks: int | str, topic: str, server: ServerProcess) -> None:
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=server.kafka, acks=acks) as producer:
        for number in range(50):
            await producer.send(topic, value=b"%d" % number)
    assert [value for _, value in read_back(server, topic)] == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_kafka_python_with_any_acks(acks: int | str, topic: str, server: ServerProcess) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=server.kafka, acks=acks, enable_idempotence=acks == "all")
    for number in range(50):
        producer.send(topic, value=b"%d" % number)
    producer.flush(timeout=TIMEOUT_S)
    producer.close()
    assert [value for _, value in read_back(server, topic)] == [b"%d" % number for number in range(50)]


def read_back(server: ServerProcess, topic: str, count: int = 50) -> list[tuple[int, bytes | None]]:
    """(offset, value) of partition 0, read by librdkafka; waits for `count` records, since acks=0 says nothing."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": server.kafka, "group.id": "reader"})
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, confluent_kafka.OFFSET_BEGINNING)])
    found: list[tuple[int, bytes | None]] = []
    try:
        while len(found) < count:
            messages = consumer.consume(count, timeout=TIMEOUT_S)
            assert messages, f"{len(found)} of {count} records came"
            assert all(message.error() is None for message in messages), [message.error() for message in messages]
            found += [(message.offset(), message.value()) for message in messages]
    finally:
        consumer.close()
    return found


def test_a_header_may_have_no_value_and_a_name_may_come_twice(topic: str, server: ServerProcess) -> None:
    headers = [("a", b"1"), ("a", None), ("", b""), ("é", b"\xff\x00")]
    producer = confluent_kafka.Producer({"bootstrap.servers": server.kafka})
    producer.produce(topic, value=None, key=b"", headers=headers)
    assert producer.flush(TIMEOUT_S) == 0
    for client in ("confluent", "kafka-python", "http"):
        (read,) = CLIENTS[client](server.kafka, server.http).read_all(topic)[0]
        assert (read.key, read.value, read.headers) == (b"", None, tuple(headers)), client


# --- codecs ----------------------------------------------------------------------------------------------------------


def test_a_compressed_batch_is_stored_with_its_codec_and_read_by_others(topic: str, server: ServerProcess) -> None:
    sent: list[bytes] = []
    for codec in CODECS:
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": server.kafka, "compression.type": codec, "linger.ms": 200}
        )
        for number in range(100):
            sent.append(b"the same words again and again, %s %d" % (codec.encode(), number))
            producer.produce(topic, value=sent[-1])
        assert producer.flush(TIMEOUT_S) == 0
    data = log_path(server, topic).read_bytes()
    for at, header in iter_headers(data):
        for record in decode_batch(memoryview(data)[at : at + header.size_bytes]):
            assert sent[record.offset] == record.value
            if header.record_count > 1:  # librdkafka leaves alone what does not shrink
                assert f" {Codec(header.codec).name.lower()} ".encode() in sent[record.offset]
    for client in ("confluent", "aiokafka", "http"):
        read = CLIENTS[client](server.kafka, server.http).read_all(topic)
        assert [record.value for record in read[0]] == sent, client


@pytest.mark.parametrize("codec", CODECS)
def test_the_bytes_behind_the_offset_are_never_touched(codec: str, topic: str, server: ServerProcess) -> None:
    CLIENTS["confluent"](server.kafka, server.http).create_topic(topic, 1)
    sent = [(r.timestamp_ms, r.key, r.value, r.headers) for r in some(100)]
    batch = bytes(encode_batch(sent, codec=Codec[codec.upper()]))
    with Wire(server.kafka) as wire:
        for _ in range(2):
            answer = wire.call(PRODUCE, 9, produce_request(topic, [(0, batch)]))
            assert answer.responses[0].partition_responses[0].error_code == 0
    data = log_path(server, topic).read_bytes()
    assert len(data) == 2 * len(batch)
    for at, base_offset in ((0, 0), (len(batch), 100)):
        stored = data[at : at + len(batch)]
        assert int.from_bytes(stored[:8], "big") == base_offset
        assert stored[8:LENGTH_PREFIX_BYTES] + stored[MAGIC_POSITION:] == (
            batch[8:LENGTH_PREFIX_BYTES] + batch[MAGIC_POSITION:]
        )


# --- topics ----------------------------------------------------------------------------------------------------------


def test_confluent_makes_lists_and_deletes_topics(topic: str, server: ServerProcess) -> None:
    admin = AdminClient({"bootstrap.servers": server.kafka})
    client = CLIENTS["confluent"](server.kafka, server.http)
    client.create_topic(topic, 3, {"retention.ms": "86400000"})
    assert sorted(admin.list_topics(timeout=TIMEOUT_S).topics[topic].partitions) == [0, 1, 2]
    with pytest.raises(confluent_kafka.KafkaException) as caught:
        client.create_topic(topic, 3)
    assert caught.value.args[0].code() == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS
    admin.delete_topics([topic])[topic].result(timeout=TIMEOUT_S)
    assert topic not in admin.list_topics(timeout=TIMEOUT_S).topics
    client.create_topic(topic, 1)
    assert sorted(admin.list_topics(timeout=TIMEOUT_S).topics[topic].partitions) == [0]


def test_kafka_python_makes_lists_and_deletes_topics(topic: str, server: ServerProcess) -> None:
    CLIENTS["kafka-python"](server.kafka, server.http).create_topic(topic, 3)
    admin = kafka.KafkaAdminClient(bootstrap_servers=server.kafka)
    try:
        assert topic in admin.list_topics()
        (described,) = admin.describe_topics([topic])
        assert len(described["partitions"]) == 3
        admin.delete_topics([topic])
        assert topic not in admin.list_topics()
    finally:
        admin.close()


async def test_aiokafka_makes_lists_and_deletes_topics(topic: str, server: ServerProcess) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=server.kafka)
    await admin.start()
    try:
        await admin.create_topics([aiokafka.admin.NewTopic(topic, 3, 1)])
        assert topic in await admin.list_topics()
        (described,) = await admin.describe_topics([topic])
        assert len(described["partitions"]) == 3
        await admin.delete_topics([topic])
        assert topic not in await admin.list_topics()
    finally:
        await admin.close()


def test_producing_to_an_unknown_topic_makes_it(topic: str, server: ServerProcess) -> None:
    CLIENTS["aiokafka"](server.kafka, server.http).produce_all(topic, some(10))
    assert [record.offset for record in CLIENTS["confluent"](server.kafka, server.http).read_all(topic)[0]] == [
        *range(10)
    ]


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", MEMBERS)
def test_two_members_share_a_topic_and_one_takes_over(client: str, topic: str, server: ServerProcess) -> None:
    writer = CLIENTS["aiokafka"](server.kafka, server.http)
    writer.create_topic(topic, 4)
    writer.produce_all(topic, spread(200))
    seen: list[tuple[int, int]] = []
    first: Member = MEMBERS[client](server.kafka, topic, topic)
    drive([first], seen, lambda: len(seen) >= 200, TIMEOUT_S)
    assert first.assigned() == {0, 1, 2, 3}
    second: Member = MEMBERS[client](server.kafka, topic, topic)
    drive([first, second], seen, lambda: len(first.assigned()) == len(second.assigned()) == 2, TIMEOUT_S)
    assert first.assigned() | second.assigned() == {0, 1, 2, 3}
    writer.produce_all(topic, spread(200))
    drive([first, second], seen, lambda: len(seen) >= 400, TIMEOUT_S)
    first.close()
    drive([second], seen, lambda: second.assigned() == {0, 1, 2, 3}, TIMEOUT_S)
    writer.produce_all(topic, spread(100))
    drive([second], seen, lambda: len(seen) >= 500, TIMEOUT_S)
    second.close()
    ends = {p: len(records) for p, records in CLIENTS["aiokafka"](server.kafka, server.http).read_all(topic).items()}
    # Each record once: the members commit what they have read when they give partitions up.
    assert sorted(seen) == [(partition, offset) for partition, end in sorted(ends.items()) for offset in range(end)]


@pytest.mark.parametrize("client", MEMBERS)
def test_a_new_member_goes_on_where_the_last_one_committed(client: str, topic: str, server: ServerProcess) -> None:
    writer = CLIENTS["aiokafka"](server.kafka, server.http)
    writer.create_topic(topic, 1)
    writer.produce_all(topic, some(30))
    runs: list[list[tuple[int, int]]] = []
    for commits, wanted in ((True, 30), (False, 20), (True, 20), (True, 5)):
        seen: list[tuple[int, int]] = []
        member: Member = MEMBERS[client](server.kafka, topic, topic, auto_commit=False)
        if wanted == 5:
            writer.produce_all(topic, some(5))
        drive([member], seen, lambda seen=seen, wanted=wanted: len(seen) >= wanted, TIMEOUT_S)  # type: ignore[misc]
        if commits:
            member.commit()
        member.close()
        runs.append(seen)
        if wanted == 30:
            writer.produce_all(topic, some(20))
    assert [[offset for _, offset in seen] for seen in runs] == [
        [*range(30)], [*range(30, 50)], [*range(30, 50)], [*range(50, 55)],
    ]  # fmt: skip


def spread(count: int) -> list[Sent]:
    """Records with keys for every partition."""
    return [Sent(b"key %d" % n, b"%d" % n, 1_600_000_000_000 + n, ()) for n in range(count)]
