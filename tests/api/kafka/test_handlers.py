"""What each API answers, right and wrong, in frames against a whole node."""

from __future__ import annotations

import asyncio
import struct
import uuid
from typing import Any

import pytest

from api.kafka.errors import MalformedMessage, UnsupportedRequest
from api.kafka.messages import create_partitions as cp
from api.kafka.messages import create_topics as ct
from api.kafka.messages import delete_records as dr
from api.kafka.messages import delete_topics as dt
from api.kafka.messages import describe_configs as dc
from api.kafka.messages import describe_groups as dsg
from api.kafka.messages import fetch as fe
from api.kafka.messages import find_coordinator as fc
from api.kafka.messages import incremental_alter_configs as iac
from api.kafka.messages import init_producer_id as ip
from api.kafka.messages import join_group as jg
from api.kafka.messages import list_groups as lsg
from api.kafka.messages import list_offsets as lo
from api.kafka.messages import metadata as md
from api.kafka.messages import offset_commit as oc
from api.kafka.messages import offset_delete as od
from api.kafka.messages import offset_fetch as of
from api.kafka.messages import produce as pr
from api.kafka.messages import sync_group as sg
from cluster.error_codes import ErrorCode
from logstore.record.records import encode_batch

PRODUCE, FETCH, LIST_OFFSETS, METADATA, COMMIT, OFFSETS, FIND, JOIN = 0, 1, 2, 3, 8, 9, 10, 11
SYNC, DESCRIBE_GROUPS, LIST_GROUPS, CREATE, DELETE, DELETE_RECORDS, PRODUCER_ID = 14, 15, 16, 19, 20, 21, 22
DESCRIBE_CONFIGS, CREATE_PARTITIONS, ALTER, OFFSET_DELETE = 32, 37, 44, 47
TIME_MS = 1_700_000_000_000


def batch(*values: bytes, timestamp_ms: int = TIME_MS, **more: Any) -> bytearray:
    return encode_batch([(timestamp_ms, None, value, ()) for value in values], **more)


def produce(*parts: tuple[str, int, bytes | None], acks: int = 1) -> pr.ProduceRequest:
    topics: dict[str, list[pr.PartitionProduceData]] = {}
    for topic, index, records in parts:
        view = None if records is None else memoryview(records)
        topics.setdefault(topic, []).append(pr.PartitionProduceData(index, view))
    return pr.ProduceRequest(
        None, acks, 1000, [pr.TopicProduceData(name=t, partition_data=d) for t, d in topics.items()]
    )


def results(response: pr.ProduceResponse) -> list[tuple[str, int, int, int]]:
    return [
        (topic.name, each.index, each.error_code, each.base_offset)
        for topic in response.responses
        for each in topic.partition_responses
    ]


def fetch(topic: str, index: int = 0, offset: int = 0, wait_ms: int = 0, min_bytes: int = 1) -> fe.FetchRequest:
    part = fe.FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=1 << 20)
    return fe.FetchRequest(
        max_wait_ms=wait_ms, min_bytes=min_bytes, topics=[fe.FetchTopic(topic=topic, partitions=[part])]
    )


# --- topics ---------------------------------------------------------------------------------------------------------


async def test_metadata_creates_an_unknown_topic_with_the_brokers_defaults(wire: Any) -> None:
    response = await wire.call(METADATA, 12, md.MetadataRequest([md.MetadataRequestTopic(name="made")]))
    (topic,) = response.topics
    assert (topic.error_code, topic.name, len(topic.partitions)) == (0, "made", 1)
    assert topic.partitions[0].leader_id == topic.partitions[0].isr_nodes[0] == 1
    assert (response.brokers[0].host, response.brokers[0].port, response.controller_id) == ("localhost", 9092, 1)
    assert len(response.cluster_id) == 22


async def test_metadata_does_not_create_when_the_request_forbids_it(wire: Any) -> None:
    asked = md.MetadataRequest([md.MetadataRequestTopic(name="absent")], allow_auto_topic_creation=False)
    response = await wire.call(METADATA, 9, asked)
    assert response.topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert "absent" not in wire.node.image.topics


async def test_metadata_refuses_an_illegal_name(wire: Any) -> None:
    response = await wire.call(METADATA, 9, md.MetadataRequest([md.MetadataRequestTopic(name="no/such")]))
    assert response.topics[0].error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_metadata_by_id_finds_and_never_creates(wire: Any) -> None:
    topic = await wire.node.create_topic("t", 2)
    known, unknown = (md.MetadataRequestTopic(each, None) for each in (topic.topic_id, uuid.UUID(int=9)))
    response = await wire.call(METADATA, 12, md.MetadataRequest([known, unknown]))
    assert [(each.name, each.error_code) for each in response.topics] == [("t", 0), (None, ErrorCode.UNKNOWN_TOPIC_ID)]


async def test_metadata_without_a_list_is_every_topic(wire: Any) -> None:
    await wire.node.create_topic("a")
    await wire.node.create_topic("b")
    assert [each.name for each in (await wire.call(METADATA, 0, md.MetadataRequest([]))).topics] == ["a", "b"]
    assert [each.name for each in (await wire.call(METADATA, 4, md.MetadataRequest(None))).topics] == ["a", "b"]
    assert (await wire.call(METADATA, 4, md.MetadataRequest([]))).topics == []


async def test_two_requests_that_create_the_same_topic_both_get_it(wire: Any) -> None:
    first, second = await asyncio.gather(*(wire.node.topic_or_create("same") for _ in range(2)))
    assert first == second == wire.node.topic("same")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (ct.CreatableTopic("t", 1, 1), ErrorCode.TOPIC_ALREADY_EXISTS),
        (ct.CreatableTopic("", 1, 1), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (ct.CreatableTopic("..", 1, 1), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (ct.CreatableTopic("x" * 250, 1, 1), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (ct.CreatableTopic("a_b", 1, 1), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (ct.CreatableTopic("n", 0, 1), ErrorCode.INVALID_PARTITIONS),
        (ct.CreatableTopic("n", 2**31 - 1, 1), ErrorCode.INVALID_PARTITIONS),
        (ct.CreatableTopic("n", 1, 3), ErrorCode.INVALID_REPLICATION_FACTOR),
        (ct.CreatableTopic("n", -1, -1, [ct.CreatableReplicaAssignment(0, [2])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (ct.CreatableTopic("n", -1, -1, [ct.CreatableReplicaAssignment(1, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (ct.CreatableTopic("n", 1, 1, [ct.CreatableReplicaAssignment(0, [1])]), ErrorCode.INVALID_REQUEST),
        (ct.CreatableTopic("n", 1, 1, [], [ct.CreatableTopicConfig("retention", "1")]), ErrorCode.INVALID_CONFIG),
        (ct.CreatableTopic("n", 1, 1, [], [ct.CreatableTopicConfig("retention.ms", "x")]), ErrorCode.INVALID_CONFIG),
        (ct.CreatableTopic("n", 1, 1, [], [ct.CreatableTopicConfig("retention.ms", None)]), ErrorCode.INVALID_CONFIG),
    ],
)
async def test_a_topic_that_cannot_be_made_says_why_and_harms_no_other(wire: Any, asked: Any, code: ErrorCode) -> None:
    await wire.node.create_topic("t")
    await wire.node.create_topic("a.b")
    good = ct.CreatableTopic("good", -1, -1)
    response = await wire.call(CREATE, 7, ct.CreateTopicsRequest([asked, good], 1000, False))
    assert [each.error_code for each in response.topics] == [code, 0]
    assert response.topics[0].error_message
    assert sorted(wire.node.image.topics) == ["a.b", "good", "t"]


async def test_created_topics_come_back_with_their_options(wire: Any) -> None:
    config = [ct.CreatableTopicConfig("retention.ms", "7d")]
    asked = ct.CreateTopicsRequest([ct.CreatableTopic("t", 3, 1, [], config)], 1000, False)
    (topic,) = (await wire.call(CREATE, 7, asked)).topics
    assert (topic.num_partitions, topic.replication_factor, topic.topic_id.int != 0) == (3, 1, True)
    by_name = {each.name: each for each in topic.configs}
    assert by_name["retention.ms"].value == "604800000"
    assert by_name["retention.ms"].config_source == 1
    assert by_name["cleanup.policy"].config_source == 5


async def test_validate_only_makes_nothing(wire: Any) -> None:
    response = await wire.call(CREATE, 7, ct.CreateTopicsRequest([ct.CreatableTopic("t", 2, 1)], 1000, True))
    assert response.topics[0].error_code == 0
    assert not wire.node.image.topics


async def test_a_topic_named_twice_is_refused_both_times(wire: Any) -> None:
    asked = ct.CreateTopicsRequest([ct.CreatableTopic("t", 1, 1), ct.CreatableTopic("t", 2, 1)], 1000, False)
    response = await wire.call(CREATE, 5, asked)
    assert [each.error_code for each in response.topics] == [ErrorCode.INVALID_REQUEST] * 2


async def test_a_deleted_topic_is_gone_and_its_name_is_free(wire: Any) -> None:
    first = await wire.node.create_topic("t")
    await wire.call(PRODUCE, 7, produce(("t", 0, batch(b"old"))))
    response = await wire.call(DELETE, 6, dt.DeleteTopicsRequest([dt.DeleteTopicState(None, first.topic_id)]))
    assert (response.responses[0].error_code, response.responses[0].name) == (0, "t")
    response = await wire.call(DELETE, 6, dt.DeleteTopicsRequest([dt.DeleteTopicState(None, first.topic_id)]))
    assert response.responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID
    second = await wire.node.create_topic("t")
    assert second.topic_id != first.topic_id
    assert results(await wire.call(PRODUCE, 7, produce(("t", 0, batch(b"new"))))) == [("t", 0, 0, 0)]


async def test_topics_grow_and_never_shrink(wire: Any) -> None:
    await wire.node.create_topic("t", 2)
    for count, code in ((3, 0), (3, ErrorCode.INVALID_PARTITIONS), (1, ErrorCode.INVALID_PARTITIONS)):
        asked = cp.CreatePartitionsRequest([cp.CreatePartitionsTopic("t", count, None)], 1000, False)
        response = await wire.call(CREATE_PARTITIONS, 3, asked)
        assert response.results[0].error_code == code
    assert results(await wire.call(PRODUCE, 7, produce(("t", 2, batch(b"v"))))) == [("t", 2, 0, 0)]


# --- options --------------------------------------------------------------------------------------------------------


async def described(wire: Any, *names: str) -> dict[str, tuple[str, int]]:
    asked = dc.DescribeConfigsRequest([dc.DescribeConfigsResource(2, "t", list(names) or None)], True, True)
    (result,) = (await wire.call(DESCRIBE_CONFIGS, 4, asked)).results
    assert result.error_code == 0
    return {each.name: (each.value, each.config_source) for each in result.configs}


async def altered(wire: Any, *changes: tuple[str, int, str | None], validate_only: bool = False) -> int:
    configs = [iac.AlterableConfig(*change) for change in changes]
    asked = iac.IncrementalAlterConfigsRequest([iac.AlterConfigsResource(2, "t", configs)], validate_only)
    return (await wire.call(ALTER, 1, asked)).responses[0].error_code


async def test_options_are_set_deleted_appended_and_subtracted(wire: Any) -> None:
    await wire.node.create_topic("t")
    assert await altered(wire, ("retention.ms", 0, "1000"), ("cleanup.policy", 2, "compact")) == 0
    assert await described(wire, "retention.ms", "cleanup.policy") == {
        "retention.ms": ("1000", 1),
        "cleanup.policy": ("compact,delete", 1),
    }
    assert await altered(wire, ("retention.ms", 1, None), ("cleanup.policy", 3, "delete")) == 0
    assert await described(wire, "retention.ms", "cleanup.policy") == {
        "retention.ms": ("604800000", 5),
        "cleanup.policy": ("compact", 1),
    }


@pytest.mark.parametrize(
    "change",
    [
        ("no.such.option", 0, "1"),
        ("no.such.option", 1, None),
        ("retention.ms", 0, "-2"),
        ("retention.ms", 0, None),
        ("retention.ms", 2, "5"),
        ("cleanup.policy", 0, "sometimes"),
    ],
)
async def test_a_wrong_option_changes_nothing(wire: Any, change: tuple[str, int, str | None]) -> None:
    await wire.node.create_topic("t")
    before = await described(wire)
    assert await altered(wire, ("segment.bytes", 0, "2048"), change) == ErrorCode.INVALID_CONFIG
    assert await described(wire) == before


async def test_validate_only_alters_nothing(wire: Any) -> None:
    await wire.node.create_topic("t")
    assert await altered(wire, ("retention.ms", 0, "1000"), validate_only=True) == 0
    assert (await described(wire, "retention.ms"))["retention.ms"] == ("604800000", 5)


async def test_the_brokers_options_are_shown_and_an_unknown_broker_is_refused(wire: Any) -> None:
    resources = [dc.DescribeConfigsResource(4, name, None) for name in ("1", "2")]
    found = (await wire.call(DESCRIBE_CONFIGS, 4, dc.DescribeConfigsRequest(resources))).results
    assert {each.name: each.value for each in found[0].configs}["num.partitions"] == "1"
    assert found[1].error_code == ErrorCode.INVALID_REQUEST


# --- records --------------------------------------------------------------------------------------------------------


async def test_each_partition_of_a_produce_request_stands_alone(wire: Any) -> None:
    await wire.node.create_topic("t", 2)
    wrong_crc = batch(b"x")
    wrong_crc[-1] ^= 1
    asked = produce(
        ("t", 0, batch(b"a", b"b")),
        ("t", 1, wrong_crc),
        ("t", 2, batch(b"c")),
        ("absent", 0, batch(b"d")),
        ("t", 0, None),
        ("t", 0, batch(b"e")),
    )
    response = await wire.call(PRODUCE, 9, asked)
    assert results(response) == [
        ("t", 0, 0, 0),
        ("t", 1, ErrorCode.CORRUPT_MESSAGE, -1),
        ("t", 2, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
        ("t", 0, ErrorCode.INVALID_RECORD, -1),
        ("t", 0, 0, 2),
        ("absent", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
    ]
    messages = [each.error_message for topic in response.responses for each in topic.partition_responses]
    assert [bool(each) for each in messages] == [False, True, True, True, False, True]


async def test_a_batch_above_max_message_bytes_is_too_large(wire: Any) -> None:
    await wire.node.create_topic("t", config={"max.message.bytes": "100"})
    response = await wire.call(PRODUCE, 7, produce(("t", 0, batch(b"x" * 200))))
    assert results(response) == [("t", 0, ErrorCode.MESSAGE_TOO_LARGE, -1)]


async def test_an_acks_value_outside_the_protocol_is_refused(wire: Any) -> None:
    await wire.node.create_topic("t")
    response = await wire.call(PRODUCE, 7, produce(("t", 0, batch(b"x")), acks=2))
    assert results(response) == [("t", 0, ErrorCode.INVALID_REQUIRED_ACKS, -1)]
    assert wire.node.head(wire.node.topic("t").partition_ids[0]).high_watermark == 0


async def test_acks_0_is_not_answered_and_an_error_ends_the_connection(wire: Any) -> None:
    await wire.node.create_topic("t")
    wire.send(PRODUCE, 7, produce(("t", 0, batch(b"x")), acks=0))
    assert wire.connection.take_output() == []
    assert wire.connection.in_flight == 0
    assert wire.node.head(wire.node.topic("t").partition_ids[0]).high_watermark == 1
    assert not wire.finished
    wire.send(PRODUCE, 7, produce(("absent", 0, batch(b"x")), acks=0))
    assert wire.finished


async def test_acks_all_is_answered_once_it_is_durable(wire: Any) -> None:
    topic = await wire.node.create_topic("t")
    wire.send(PRODUCE, 7, produce(("t", 0, batch(b"x")), acks=-1))
    assert wire.connection.take_output() == [], "answered before the fsync"
    assert results(await wire.receive(PRODUCE, 7)) == [("t", 0, 0, 0)]
    assert wire.node._logs._log(topic.partition_ids[0]).durable_offset == 1


async def test_idempotent_produce_says_duplicate_gap_and_fence(wire: Any) -> None:
    await wire.node.create_topic("t")
    made = await wire.call(PRODUCER_ID, 4, ip.InitProducerIdRequest(None, 1000))
    assert (made.error_code, made.producer_epoch) == (0, 0)

    async def send(sequence: int, epoch: int = 0) -> tuple[int, int]:
        sent = batch(b"v", producer_id=made.producer_id, producer_epoch=epoch, base_sequence=sequence)
        (result,) = results(await wire.call(PRODUCE, 7, produce(("t", 0, sent))))
        return result[2:]

    assert await send(0) == (0, 0)
    assert await send(1) == (0, 1)
    assert await send(0) == (0, 0)
    assert await send(3) == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)
    assert await send(0, epoch=1) == (0, 2)
    assert await send(2) == (ErrorCode.INVALID_PRODUCER_EPOCH, -1)


async def test_producer_ids_are_never_given_twice_and_transactions_are_refused(wire: Any) -> None:
    ids = {(await wire.call(PRODUCER_ID, 4, ip.InitProducerIdRequest(None, 1000))).producer_id for _ in range(20)}
    assert len(ids) == 20
    refused = await wire.call(PRODUCER_ID, 4, ip.InitProducerIdRequest("tx", 1000))
    assert (refused.error_code, refused.producer_id) == (ErrorCode.INVALID_REQUEST, -1)
    await wire.node.create_topic("t")
    sent = batch(b"v", producer_id=1, producer_epoch=0, base_sequence=0, transactional=True)
    assert results(await wire.call(PRODUCE, 7, produce(("t", 0, sent))))[0][2] == ErrorCode.INVALID_TXN_STATE


async def test_fetch_returns_the_bytes_that_came_with_their_offsets_stamped(wire: Any) -> None:
    await wire.node.create_topic("t")
    sent = [batch(b"a", b"b"), batch(b"c", codec=1)]
    for each in sent:
        await wire.call(PRODUCE, 7, produce(("t", 0, each)))
    (part,) = (await wire.call(FETCH, 11, fetch("t"))).responses[0].partitions
    sent[1][0:8] = (2).to_bytes(8, "big")
    for each in sent:
        each[12:16] = bytes(4)
    assert bytes(part.records) == bytes(sent[0] + sent[1])
    assert (part.high_watermark, part.last_stable_offset, part.log_start_offset) == (3, 3, 0)
    (part,) = (await wire.call(FETCH, 11, fetch("t", offset=2))).responses[0].partitions
    assert bytes(part.records) == bytes(sent[1])


async def test_a_fetch_waits_for_bytes_and_is_cancelled_with_its_connection(wire: Any) -> None:
    await wire.node.create_topic("t")
    wire.send(FETCH, 11, fetch("t", wait_ms=60_000))
    assert wire.connection.take_output() == []
    sent = memoryview(batch(b"v"))
    wire.node.produce(wire.node.topic("t").partition_ids[0], sent, acks=1)
    wire.node.end_of_turn()
    assert (await wire.receive(FETCH, 11)).responses[0].partitions[0].high_watermark == 1
    assert wire.session.on_close == []
    wire.send(FETCH, 11, fetch("t", offset=1, wait_ms=60_000))
    assert wire.node._logs.fetches_parked == 1
    (cancel,) = wire.session.on_close
    cancel()
    assert wire.node._logs.fetches_parked == 0


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (fetch("t", offset=5, wait_ms=60_000), ErrorCode.OFFSET_OUT_OF_RANGE),
        (fetch("t", offset=-1, wait_ms=60_000), ErrorCode.OFFSET_OUT_OF_RANGE),
        (fetch("t", index=9, wait_ms=60_000), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (fetch("absent", wait_ms=60_000), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
async def test_a_fetch_that_cannot_be_served_is_told_at_once(wire: Any, request_: Any, code: ErrorCode) -> None:
    await wire.node.create_topic("t")
    assert (await wire.call(FETCH, 11, request_)).responses[0].partitions[0].error_code == code


async def test_an_unknown_partition_of_a_known_topic_id_is_told_as_such(wire: Any) -> None:
    topic = await wire.node.create_topic("t")
    part = fe.FetchPartition(partition=7, partition_max_bytes=100)
    fetched = await wire.call(FETCH, 13, fe.FetchRequest(topics=[fe.FetchTopic(topic.topic_id, "", [part])]))
    data = pr.PartitionProduceData(7, memoryview(batch(b"v")))
    sent = pr.ProduceRequest(None, 1, 1000, [pr.TopicProduceData(topic.topic_id, "", [data])])
    produced = await wire.call(PRODUCE, 13, sent)
    assert fetched.responses[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert produced.responses[0].partition_responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_what_a_request_names_again_and_again_is_answered_once(wire: Any) -> None:
    topics = [md.MetadataRequestTopic(name=name) for name in ("t", "u")] * 1000
    found = await wire.call(METADATA, 12, md.MetadataRequest(topics))
    assert [each.name for each in found.topics] == ["t", "u"]
    groups = await wire.call(DESCRIBE_GROUPS, 5, dsg.DescribeGroupsRequest(["g", "h", "g"] * 1000))
    assert [each.group_id for each in groups.groups] == ["g", "h"]
    resources = [dc.DescribeConfigsResource(2, "t", ["retention.ms"]), dc.DescribeConfigsResource(4, "1", [])] * 1000
    configs = await wire.call(DESCRIBE_CONFIGS, 4, dc.DescribeConfigsRequest(resources))
    assert [(each.resource_type, each.resource_name) for each in configs.results] == [(2, "t"), (4, "1")]
    one = of.OffsetFetchRequestTopics(name="t", partition_indexes=[0, 5] * 100)
    asked = [of.OffsetFetchRequestGroup(group_id=name, topics=[one] * 10) for name in ("g", "h")] * 20
    offsets = await wire.call(OFFSETS, 8, of.OffsetFetchRequest(groups=asked))
    assert [each.group_id for each in offsets.groups] == ["g", "h"]
    assert [[each.partition_index for each in topic.partitions] for topic in offsets.groups[0].topics] == [[0, 5]]


async def test_no_names_of_options_are_all_of_them(wire: Any) -> None:
    await wire.node.create_topic("t")
    asked = [dc.DescribeConfigsResource(2, "t", keys) for keys in (None, [], ["retention.ms"])]
    every, none, one = [
        len((await wire.call(DESCRIBE_CONFIGS, 4, dc.DescribeConfigsRequest([each]))).results[0].configs)
        for each in asked
    ]
    assert every == none > one == 1


async def test_a_commit_is_seen_by_a_fetch_behind_it_on_the_same_connection(wire: Any) -> None:
    await wire.node.create_topic("t")
    part = oc.OffsetCommitRequestPartition(0, 42)
    wire.send(
        COMMIT,
        8,
        oc.OffsetCommitRequest("g", -1, "", topics=[oc.OffsetCommitRequestTopic(name="t", partitions=[part])]),
    )
    asked = of.OffsetFetchRequest(group_id="g", topics=[of.OffsetFetchRequestTopic("t", [0])])
    wire.send(OFFSETS, 7, asked)
    answers = b""
    for _ in range(100):
        answers += b"".join(bytes(part) for part in wire.connection.take_output())
        await asyncio.sleep(0.01)
        if len(answers) > 60:
            break
    assert struct.pack(">iq", 0, 42) in answers


async def test_a_fetch_by_an_unknown_topic_id_says_so(wire: Any) -> None:
    part = fe.FetchPartition(partition=0, partition_max_bytes=100)
    asked = fe.FetchRequest(topics=[fe.FetchTopic(topic_id=uuid.UUID(int=3), partitions=[part])])
    response = await wire.call(FETCH, 13, asked)
    assert response.responses[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_offsets_by_time_and_by_the_special_timestamps(wire: Any) -> None:
    await wire.node.create_topic("t")
    for at, stamp in enumerate((TIME_MS, TIME_MS + 20, TIME_MS + 10)):
        await wire.call(PRODUCE, 7, produce(("t", 0, batch(b"v%d" % at, timestamp_ms=stamp))))

    async def offset(timestamp: int, index: int = 0) -> tuple[int, int, int]:
        topic = lo.ListOffsetsTopic("t", [lo.ListOffsetsPartition(index, -1, timestamp)])
        (found,) = (await wire.call(LIST_OFFSETS, 7, lo.ListOffsetsRequest(-1, 0, [topic]))).topics[0].partitions
        return found.error_code, found.timestamp, found.offset

    assert await offset(-2) == (0, -1, 0)
    assert await offset(-1) == (0, -1, 3)
    assert await offset(-3) == (0, TIME_MS + 20, 1)
    assert await offset(TIME_MS + 5) == (0, TIME_MS + 20, 1)
    assert await offset(TIME_MS + 21) == (0, -1, -1)
    assert (await offset(-9))[0] == ErrorCode.INVALID_REQUEST
    assert (await offset(-1, index=4))[0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_records_are_deleted_from_several_partitions_with_one_checkpoint(wire: Any) -> None:
    topic = await wire.node.create_topic("t", 3)
    for index in range(3):
        await wire.call(PRODUCE, 7, produce(("t", index, batch(b"a", b"b", b"c"))))
    store = wire.node._logs._store
    taken = store._checkpoints_taken
    parts = [dr.DeleteRecordsPartition(*each) for each in ((0, 2), (1, -1), (2, 9), (7, 0))]
    asked = dr.DeleteRecordsRequest([dr.DeleteRecordsTopic("t", parts)], 1000)
    (result,) = (await wire.call(DELETE_RECORDS, 2, asked)).topics
    assert [(each.partition_index, each.low_watermark, each.error_code) for each in result.partitions] == [
        (0, 2, 0),
        (1, 3, 0),
        (2, -1, ErrorCode.OFFSET_OUT_OF_RANGE),
        (7, -1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    assert store._checkpoints_taken == taken + 1
    assert [wire.node.head(each).log_start_offset for each in topic.partition_ids] == [2, 3, 0]
    (part,) = (await wire.call(FETCH, 11, fetch("t", offset=1))).responses[0].partitions
    assert part.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


# --- groups ---------------------------------------------------------------------------------------------------------


async def test_a_group_forms_commits_and_shows(wire: Any) -> None:
    topic = await wire.node.create_topic("t", 2)
    protocols = [jg.JoinGroupRequestProtocol("range", b"meta")]
    first = await wire.call(JOIN, 5, jg.JoinGroupRequest("g", 10_000, 10_000, "", None, "consumer", protocols))
    assert first.error_code == ErrorCode.MEMBER_ID_REQUIRED
    joining = jg.JoinGroupRequest("g", 10_000, 10_000, first.member_id, None, "consumer", protocols)
    joined = await wire.call(JOIN, 5, joining)
    assert (joined.error_code, joined.leader, joined.generation_id) == (0, first.member_id, 1)
    given = [sg.SyncGroupRequestAssignment(first.member_id, b"mine")]
    synced = await wire.call(SYNC, 3, sg.SyncGroupRequest("g", 1, first.member_id, assignments=given))
    assert (synced.error_code, synced.assignment) == (0, b"mine")

    def commit(generation: int, *indexes: int) -> oc.OffsetCommitRequest:
        parts = [oc.OffsetCommitRequestPartition(index, 40 + index, -1, "note") for index in indexes]
        topics = [oc.OffsetCommitRequestTopic(name="t", partitions=parts)]
        return oc.OffsetCommitRequest("g", generation, first.member_id, topics=topics)

    done = await wire.call(COMMIT, 7, commit(1, 0, 5))
    assert [each.error_code for each in done.topics[0].partitions] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    stale = await wire.call(COMMIT, 7, commit(7, 0))
    assert stale.topics[0].partitions[0].error_code == ErrorCode.ILLEGAL_GENERATION

    everything = await wire.call(OFFSETS, 5, of.OffsetFetchRequest(group_id="g", topics=None))
    (part,) = everything.topics[0].partitions
    assert (part.partition_index, part.committed_offset, part.metadata) == (0, 40, "note")
    groups = [of.OffsetFetchRequestGroup("g", topics=[of.OffsetFetchRequestTopics(topic.topic_id, "", [1, 0])])]
    by_id = await wire.call(OFFSETS, 10, of.OffsetFetchRequest(groups=groups))
    assert [each.committed_offset for each in by_id.groups[0].topics[0].partitions] == [-1, 40]

    listed = await wire.call(LIST_GROUPS, 5, lsg.ListGroupsRequest(["stable"], ["classic"]))
    assert [(each.group_id, each.group_state) for each in listed.groups] == [("g", "Stable")]
    assert (await wire.call(LIST_GROUPS, 5, lsg.ListGroupsRequest(["empty"]))).groups == []
    (group,) = (await wire.call(DESCRIBE_GROUPS, 5, dsg.DescribeGroupsRequest(["g"]))).groups
    assert (group.group_state, group.protocol_data, group.members[0].member_assignment) == ("Stable", "range", b"mine")
    assert group.members[0].client_host == "/127.0.0.1"

    parts = [od.OffsetDeleteRequestPartition(0), od.OffsetDeleteRequestPartition(9)]
    asked = od.OffsetDeleteRequest("g", [od.OffsetDeleteRequestTopic("t", parts)])
    gone = await wire.call(OFFSET_DELETE, 0, asked)
    codes = [each.error_code for each in gone.topics[0].partitions]
    assert codes == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


async def test_find_coordinator_names_this_node_for_groups_only(wire: Any) -> None:
    found = await wire.call(FIND, 4, fc.FindCoordinatorRequest("", 0, ["g", ""]))
    assert [(each.error_code, each.node_id) for each in found.coordinators] == [
        (0, 1),
        (ErrorCode.INVALID_GROUP_ID, -1),
    ]
    refused = await wire.call(FIND, 2, fc.FindCoordinatorRequest("tx", 1))
    assert refused.error_code == ErrorCode.INVALID_REQUEST


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(0, 2), (0, 14), (1, 3), (1, 17), (3, 14), (7, 0), (999, 0), (-1, -1)], ids=str)
async def test_an_api_or_version_not_served_ends_the_connection(wire: Any, version: tuple[int, int]) -> None:
    key, number = version
    frame = bytearray(key.to_bytes(2, "big", signed=True) + number.to_bytes(2, "big", signed=True) + bytes(40))
    with pytest.raises(UnsupportedRequest):
        wire.send_frame(frame)


async def test_a_request_that_does_not_decode_ends_the_connection(wire: Any) -> None:
    with pytest.raises(MalformedMessage):
        wire.send_frame(bytearray(b"\x00\x03\x00\x09\x00\x00\x00\x01\xff\xff\x00\xff\xff\xff\xff\x0f"))
