"""Advertised means implemented: every version of every served API answers a meaningful request."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.kafka.handlers import SERVED, Served, api_versions
from api.kafka.messages import APIS
from api.kafka.messages import alter_configs as ac
from api.kafka.messages import api_versions as av
from api.kafka.messages import create_partitions as cp
from api.kafka.messages import create_topics as ct
from api.kafka.messages import delete_groups as dg
from api.kafka.messages import delete_records as dr
from api.kafka.messages import delete_topics as dt
from api.kafka.messages import describe_cluster as dcl
from api.kafka.messages import describe_configs as dc
from api.kafka.messages import describe_groups as dsg
from api.kafka.messages import fetch as fe
from api.kafka.messages import find_coordinator as fc
from api.kafka.messages import heartbeat as hb
from api.kafka.messages import incremental_alter_configs as iac
from api.kafka.messages import init_producer_id as ip
from api.kafka.messages import join_group as jg
from api.kafka.messages import leave_group as lg
from api.kafka.messages import list_groups as lsg
from api.kafka.messages import list_offsets as lo
from api.kafka.messages import metadata as md
from api.kafka.messages import offset_commit as oc
from api.kafka.messages import offset_delete as od
from api.kafka.messages import offset_fetch as of
from api.kafka.messages import produce as pr
from api.kafka.messages import sync_group as sg
from logstore.record.records import encode_batch

BATCH = memoryview(encode_batch([(1_700_000_000_000, b"k", b"v", ())]))


def requests(topic_id: uuid.UUID) -> dict[int, Callable[[int], Any]]:
    """API key -> request for a version, about topic `t` of one partition."""
    return {
        0: lambda v: pr.ProduceRequest(
            None, 1, 1000, [pr.TopicProduceData(topic_id, "t", [pr.PartitionProduceData(0, BATCH)])]
        ),
        1: lambda v: fe.FetchRequest(
            max_wait_ms=0,
            topics=[fe.FetchTopic(topic_id, "t", [fe.FetchPartition(partition=0, partition_max_bytes=1000)])],
        ),
        2: lambda v: lo.ListOffsetsRequest(-1, 0, [lo.ListOffsetsTopic("t", [lo.ListOffsetsPartition(0, -1, -1)])]),
        3: lambda v: md.MetadataRequest([md.MetadataRequestTopic(name="t")]),
        8: lambda v: oc.OffsetCommitRequest(
            "g", -1, "", topics=[oc.OffsetCommitRequestTopic(topic_id, "t", [oc.OffsetCommitRequestPartition(0, 1)])]
        ),
        9: lambda v: of.OffsetFetchRequest(
            groups=[of.OffsetFetchRequestGroup("g", topics=[of.OffsetFetchRequestTopics(topic_id, "t", [0])])],
            group_id="g",
            topics=[of.OffsetFetchRequestTopic("t", [0])],
        ),
        10: lambda v: fc.FindCoordinatorRequest("g", 0, ["g"]),
        11: lambda v: jg.JoinGroupRequest(
            "g", 1000, 1000, "", None, "consumer", [jg.JoinGroupRequestProtocol("range")]
        ),
        12: lambda v: hb.HeartbeatRequest("g", 1, "m"),
        13: lambda v: lg.LeaveGroupRequest("g", [lg.MemberIdentity("m")], "m"),
        14: lambda v: sg.SyncGroupRequest("g", 1, "m"),
        15: lambda v: dsg.DescribeGroupsRequest(["g"]),
        16: lambda v: lsg.ListGroupsRequest(),
        18: lambda v: av.ApiVersionsRequest("test", "1"),
        19: lambda v: ct.CreateTopicsRequest([ct.CreatableTopic("new", 1, 1)], 1000, False),
        20: lambda v: dt.DeleteTopicsRequest([dt.DeleteTopicState("t")], ["t"], 1000),
        21: lambda v: dr.DeleteRecordsRequest([dr.DeleteRecordsTopic("t", [dr.DeleteRecordsPartition(0, 0)])], 1000),
        22: lambda v: ip.InitProducerIdRequest(None, 1000),
        32: lambda v: dc.DescribeConfigsRequest([dc.DescribeConfigsResource(2, "t", None)], True, True),
        33: lambda v: ac.AlterConfigsRequest(
            [ac.AlterConfigsResource(2, "t", [ac.AlterableConfig("retention.ms", "5")])]
        ),
        37: lambda v: cp.CreatePartitionsRequest([cp.CreatePartitionsTopic("t", 3, None)], 1000, False),
        42: lambda v: dg.DeleteGroupsRequest(["g"]),
        44: lambda v: iac.IncrementalAlterConfigsRequest(
            [iac.AlterConfigsResource(2, "t", [iac.AlterableConfig("retention.ms", 0, "5")])]
        ),
        47: lambda v: od.OffsetDeleteRequest(
            "g", [od.OffsetDeleteRequestTopic("t", [od.OffsetDeleteRequestPartition(0)])]
        ),
        60: lambda v: dcl.DescribeClusterRequest(False),
    }


EVERY = [(each.api_key, version) for each in SERVED for version in range(each.low, each.high + 1)]
# What these APIs rightly answer to a first word from nobody known.
EXPECTED = {11: {0, 79}, 12: {25}, 13: {0, 25}, 14: {25}, 42: {69}, 47: {69}, 15: {0, 69}}


@pytest.mark.parametrize(("api_key", "version"), EVERY, ids=str)
async def test_a_meaningful_request_is_answered(wire: Any, api_key: int, version: int) -> None:
    topic = await wire.node.create_topic("t")
    response = await wire.call(api_key, version, requests(topic.topic_id)[api_key](version))
    assert error_codes(response) <= EXPECTED.get(api_key, {0}), response


def error_codes(value: Any) -> set[int]:
    """Every `error_code` anywhere in a response."""
    if isinstance(value, list):
        return set().union(*(error_codes(each) for each in value))
    if not isinstance(value, msgspec.Struct):
        return set()
    return set().union(
        *(
            {getattr(value, name)} if name == "error_code" else error_codes(getattr(value, name))
            for name in value.__struct_fields__
        )
    )


async def test_the_advertised_list_is_the_list_of_handlers(wire: Any) -> None:
    response = await wire.call(18, 3, av.ApiVersionsRequest("test", "1"))
    advertised = {each.api_key: (each.min_version, each.max_version) for each in response.api_keys}
    served = {each.api_key: (each.low, each.high) for each in SERVED}
    assert advertised == served | {0: (0, served[0][1])}, "Produce alone is advertised lower than it is served"
    assert wire.session.client_software_name == "test"


@pytest.mark.parametrize("served", SERVED, ids=lambda served: served.name)
def test_a_handler_serves_what_the_list_says_and_has_tables_for_it(served: Served) -> None:
    module = served.load()
    assert (served.api_key, (served.low, served.high)) == (module.API_KEY, module.VERSIONS)
    assert APIS[served.api_key].has(served.low)
    assert APIS[served.api_key].has(served.high)


def test_every_handler_module_is_in_the_list() -> None:
    folder = Path(api_versions.__file__).parent
    with_key = {path.stem for path in folder.glob("*.py") if "\nAPI_KEY = " in path.read_text()}
    assert with_key == {served.name for served in SERVED}


async def test_an_unknown_version_of_api_versions_is_answered_in_version_0(wire: Any) -> None:
    wire._correlation_id = 9
    wire.send_frame(bytearray(b"\x00\x12\x00\x63" + (9).to_bytes(4, "big") + b"whatever follows"))
    response = await wire.receive(18, 0)
    assert response.error_code == 35
    assert [(each.api_key, each.min_version, each.max_version) for each in response.api_keys] == [
        (18, *api_versions.VERSIONS)
    ]
