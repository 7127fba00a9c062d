import json
import struct
from pathlib import Path

import pytest

from api.kafka import codec
from api.kafka.messages.api_versions import ApiVersionsResponse
from api.kafka.messages.consumer_protocol_assignment import DATA as ASSIGNMENT
from api.kafka.messages.consumer_protocol_assignment import ConsumerProtocolAssignment, TopicPartition
from api.kafka.messages.create_topics import CreatableTopicResult, CreateTopicsResponse
from api.kafka.messages.delete_topics import DeletableTopicResult, DeleteTopicsResponse
from api.kafka.messages.describe_configs import (
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
)
from api.kafka.messages.describe_groups import DescribedGroup, DescribedGroupMember, DescribeGroupsResponse
from api.kafka.messages.incremental_alter_configs import AlterConfigsResourceResponse, IncrementalAlterConfigsResponse
from api.kafka.messages.list_groups import ListedGroup, ListGroupsResponse
from api.kafka.messages.list_offsets import (
    ListOffsetsPartitionResponse,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from api.kafka.messages.offset_commit import OffsetCommitResponse
from api.kafka.messages.offset_fetch import (
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
)
from tools.client import Client
from tools.main import run
from tools.output import Failure

START, END, AT_TIME = 10, 100, 42


@pytest.fixture
def broker(fake_broker):
    """Topic `orders` with two partitions that hold offsets 10..99, and a group `billing` that read up to 40."""
    fake_broker.topics["orders"] = 2
    fake_broker.handlers[2] = lambda version, request: ListOffsetsResponse(
        topics=[
            ListOffsetsTopicResponse(
                topic.name,
                [
                    ListOffsetsPartitionResponse(
                        p.partition_index, offset={-2: START, -1: END, 0: -1}.get(p.timestamp, AT_TIME)
                    )
                    for p in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )
    fake_broker.handlers[9] = lambda version, request: committed({0: 40, 1: -1})
    fake_broker.handlers[15] = lambda version, request: DescribeGroupsResponse(
        groups=[DescribedGroup(group_id=request.groups[0], group_state="Empty", protocol_type="consumer")]
    )
    fake_broker.handlers[8] = lambda version, request: OffsetCommitResponse()
    return fake_broker


def committed(offsets):
    partitions = [OffsetFetchResponsePartitions(i, offset) for i, offset in offsets.items()]
    topics = [OffsetFetchResponseTopics(name="orders", partitions=partitions)] if offsets else []
    return OffsetFetchResponse(groups=[OffsetFetchResponseGroup("billing", topics)])


def json_of(capsys, *args):
    assert run([*args, "--format", "json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


# --- the client -----------------------------------------------------------------------------------------------------


def test_the_newest_version_that_both_know_is_sent(fake_broker):
    fake_broker.versions[3] = (0, 4)
    with Client(fake_broker.kafka) as client:
        client.metadata(None)
    assert [(key, version) for key, version, _ in fake_broker.asked] == [(18, 3), (3, 4)]


def test_versions_are_learnt_from_a_broker_that_knows_only_version_0(fake_broker):
    known = fake_broker.handlers[18]

    def refuse(version, request):
        answer = known(version, request)
        assert isinstance(answer, ApiVersionsResponse)
        answer.error_code = 35
        frame = struct.pack(">i", 1) + codec.write_response(18, 0, answer)
        return struct.pack(">i", len(frame)) + frame

    fake_broker.handlers[18] = refuse
    with Client(fake_broker.kafka) as client:
        assert client.metadata([]).controller_id == 1


@pytest.mark.parametrize(("versions", "message"), [({}, "does not serve Metadata"), ({3: (99, 99)}, "none known here")])
def test_no_common_version(fake_broker, versions, message):
    fake_broker.versions = versions
    with Client(fake_broker.kafka) as client, pytest.raises(Failure, match=message):
        client.metadata(None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak Kafka's protocol"),
        (struct.pack(">i", 2) + b"ab", "does not speak Kafka's protocol"),
        (struct.pack(">iib", 5, 77, 0), "answered another request"),
        (struct.pack(">iihi", 10, 2, 0, 2**31 - 1), "do not parse"),
        (struct.pack(">ii", 100, 2), "went away during Metadata"),
        (b"", "within 0.3 s"),
    ],
)
def test_an_answer_that_is_none(fake_broker, answer, message):
    fake_broker.handlers[3] = lambda version, request: answer
    if message.startswith("went away"):
        fake_broker.hangs_up_after = 3
    with Client(fake_broker.kafka, timeout_s=0.3) as client, pytest.raises(Failure, match=message):
        client.metadata(None)


def test_the_next_address_is_tried(fake_broker):
    with Client(f"127.0.0.1:1, {fake_broker.kafka}") as client:
        assert client.bootstrap == fake_broker.kafka
    with pytest.raises(Failure, match=r"tried 127\.0\.0\.1:1,127\.0\.0\.1:2"):
        Client("127.0.0.1:1,127.0.0.1:2")


# --- topics ---------------------------------------------------------------------------------------------------------


def test_create(broker, capsys):
    broker.handlers[19] = lambda version, request: CreateTopicsResponse(
        topics=[CreatableTopicResult(name=t.name, error_code=36 * (t.name == "orders")) for t in request.topics]
    )
    assert run(["topic", "create", "new", "orders", "-p", "3", "-c", "retention.ms=7d", "-b", broker.kafka]) == 1
    captured = capsys.readouterr()
    assert captured.out == "new: created\n"
    assert captured.err == "error: orders: topic already exists (`--if-not-exists` accepts that)\n"
    sent = broker.last(19).topics[0]
    assert (sent.name, sent.num_partitions, sent.replication_factor) == ("new", 3, -1)
    assert [(c.name, c.value) for c in sent.configs] == [("retention.ms", "7d")]
    assert json_of(capsys, "topic", "create", "orders", "--if-not-exists", "-b", broker.kafka) == [
        {"name": "orders", "outcome": "exists", "error_code": 0}
    ]


def test_list_and_describe(broker, capsys):
    broker.handlers[32] = lambda version, request: DescribeConfigsResponse(
        results=[
            DescribeConfigsResult(
                resource_type=2,
                resource_name="orders",
                configs=[
                    DescribeConfigsResourceResult(name="segment.bytes", value="1024", config_source=5),
                    DescribeConfigsResourceResult(name="retention.ms", value="5", config_source=1),
                ],
            )
        ]
    )
    assert run(["topic", "list", "-b", broker.kafka]) == 0
    assert capsys.readouterr().out == "NAME    PARTITIONS\norders           2\n"
    assert run(["topic", "describe", "orders", "-p", "-b", broker.kafka]) == 0
    out = capsys.readouterr().out
    assert "retention.ms       5  topic\n" in out
    assert "PARTITION  LEADER  REPLICAS  ISR  LOG-START-OFFSET  LOG-END-OFFSET\n" in out
    (described,) = json_of(capsys, "topic", "describe", "orders", "-p", "-b", broker.kafka)
    assert described["configs"]["segment.bytes"] == {"value": "1024", "source": "default"}
    assert [(p["log_start_offset"], p["log_end_offset"]) for p in described["partition_list"]] == [(START, END)] * 2
    assert run(["topic", "describe", "nope", "-b", broker.kafka]) == 1
    assert "topic nope does not exist (`logstore topic list`" in capsys.readouterr().err


def test_alter_and_delete(broker, capsys):
    broker.handlers[44] = lambda version, request: IncrementalAlterConfigsResponse(
        responses=[AlterConfigsResourceResponse(40, "retention.ms=-7 is out of bounds (between -1 and 9)", 2, "orders")]
    )
    broker.handlers[20] = lambda version, request: DeleteTopicsResponse(responses=[DeletableTopicResult(name="orders")])
    args = [
        "topic",
        "alter",
        "orders",
        "--set",
        "retention.ms=-7",
        "--delete",
        "segment.ms",
        "-p",
        "5",
        "-b",
        broker.kafka,
    ]
    assert run(args) == 1
    assert capsys.readouterr().err == "error: orders: retention.ms=-7 is out of bounds (between -1 and 9)\n"
    sent = [(c.name, c.config_operation, c.value) for c in broker.last(44).resources[0].configs]
    assert sent == [("retention.ms", 0, "-7"), ("segment.ms", 1, None)]
    assert 37 not in {key for key, _, _ in broker.asked}, "no partitions are added when the options were refused"
    assert run(["topic", "delete", "orders", "-b", broker.kafka]) == 0
    assert capsys.readouterr().out == "orders: deleted\n"


# --- groups ---------------------------------------------------------------------------------------------------------


def test_groups_are_listed(broker, capsys):
    broker.handlers[16] = lambda version, request: ListGroupsResponse(
        groups=[ListedGroup("z", "consumer", "Stable", "classic"), ListedGroup("a", "consumer", "Empty", "classic")]
    )
    assert run(["group", "list", "-b", broker.kafka]) == 0
    assert capsys.readouterr().out == "GROUP  STATE   TYPE\na      Empty   classic\nz      Stable  classic\n"


def test_the_lag_table(broker, capsys):
    assignment = ConsumerProtocolAssignment([TopicPartition("orders", [0, 1])])
    members = [
        DescribedGroupMember(
            "m-1", None, "app", "/10.0.0.9", b"", b"\0\1" + codec.write_payload(ASSIGNMENT, 1, assignment)
        ),
        DescribedGroupMember("m-2", None, "app", "/10.0.0.9", b"", b"\0\1\xff\xff"),
    ]
    broker.handlers[15] = lambda version, request: DescribeGroupsResponse(
        groups=[DescribedGroup(0, None, "billing", "Stable", "consumer", "range", members)]
    )
    assert run(["group", "describe", "billing", "-b", broker.kafka]) == 0
    head, _, *table = capsys.readouterr().out.splitlines()
    assert head == "billing  Stable  members 2  assignor range  lag 60"
    assert [line.split() for line in table] == [
        ["TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "MEMBER-ID", "CLIENT-ID", "HOST"],
        ["orders", "0", "40", "100", "60", "m-1", "app", "/10.0.0.9"],
        ["orders", "1", "-", "100", "-", "m-1", "app", "/10.0.0.9"],
    ]
    (described,) = json_of(capsys, "group", "describe", "billing", "-b", broker.kafka)
    assert described["lag"] == 60
    assert described["members"][0]["partitions"] == [["orders", 0], ["orders", 1]]
    assert described["partitions"][1]["current_offset"] is None


def test_a_group_that_is_not_there(broker, capsys):
    broker.handlers[15] = lambda version, request: DescribeGroupsResponse(
        groups=[DescribedGroup(69, "no such group", request.groups[0])]
    )
    broker.handlers[9] = lambda version, request: committed({})
    assert run(["group", "describe", "nope", "-b", broker.kafka]) == 1
    assert "group nope does not exist" in capsys.readouterr().err
    assert run(["group", "reset", "nope", "--to", "start", "-b", broker.kafka]) == 1
    assert "name the topics with --topic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "target"),
    [
        ("start", START),
        ("end", END),
        ("47", 47),
        ("5", START),
        ("500", END),
        ("+7", 47),
        ("-7", 33),
        ("-1000", START),
        ("@5", AT_TIME),
        ("@0", END),
    ],
)
def test_reset(broker, capsys, to, target):
    changes = json_of(capsys, "group", "reset", "billing", "--to", to, "-b", broker.kafka)
    assert changes == [{"topic": "orders", "partition": 0, "from": 40, "to": target}]
    sent = broker.last(8)
    assert (sent.group_id, sent.generation_id_or_member_epoch, sent.member_id) == ("billing", -1, "")
    assert [(t.name, p.partition_index, p.committed_offset) for t in sent.topics for p in t.partitions] == [
        ("orders", 0, target)
    ]


def test_reset_of_a_named_topic_takes_all_its_partitions_and_a_dry_run_commits_nothing(broker, capsys):
    changes = json_of(
        capsys, "group", "reset", "billing", "--to", "end", "-t", "orders", "--dry-run", "-b", broker.kafka
    )
    assert [(c["partition"], c["from"], c["to"]) for c in changes] == [(0, 40, END), (1, None, END)]
    assert 8 not in {key for key, _, _ in broker.asked}
    assert run(["group", "reset", "billing", "--to", "+1", "-t", "orders", "-b", broker.kafka]) == 1
    assert "orders-1 has no offset to move from" in capsys.readouterr().err


def test_a_group_with_members_is_not_reset(broker, capsys):
    broker.handlers[15] = lambda version, request: DescribeGroupsResponse(
        groups=[DescribedGroup(0, None, "billing", "Stable", "consumer", "range", [DescribedGroupMember("m")])]
    )
    assert run(["group", "reset", "billing", "--to", "start", "-b", broker.kafka]) == 1
    assert "group billing is Stable with 1 member (stop them first" in capsys.readouterr().err
    assert 8 not in {key for key, _, _ in broker.asked}


# --- records --------------------------------------------------------------------------------------------------------


def test_produce_and_consume_name_a_topic_that_is_not_there(broker, capsys):
    for verb in ("produce", "consume"):
        assert run([verb, "nope", "-b", broker.kafka]) == 1
        assert "topic nope does not exist" in capsys.readouterr().err
    assert run(["consume", "orders", "-p", "7", "-b", broker.kafka]) == 1
    assert "orders has no partition 7 (it has 2, from 0 on)" in capsys.readouterr().err


def test_the_server_is_asked_before_the_file_is_read(broker, capsys, tmp_path: Path):
    assert run(["produce", "nope", str(tmp_path / "absent"), "-b", broker.kafka]) == 1
    assert "topic nope" in capsys.readouterr().err
