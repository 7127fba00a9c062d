import pytest

from cluster.config import BROKER_OPTIONS, BrokerConfig, describe, is_security, is_unused, parse_broker_config
from logstore.config import OPTIONS, FlushPolicy, TopicConfig, format_option, format_value, parse_value
from logstore.errors import InvalidConfig
from logstore.store import PARTITIONS_MAX
from logstore.types import TimestampType


def test_the_defaults_of_the_broker_are_the_defaults_of_topics():
    assert BrokerConfig().topic_defaults() == TopicConfig()


def test_every_topic_option_has_a_broker_key():
    assert {known.topic for _, known in BROKER_OPTIONS.values() if known.topic} == set(OPTIONS)


@pytest.mark.parametrize("table", [BROKER_OPTIONS, OPTIONS], ids=["broker", "topic"])
def test_every_default_survives_being_written_and_read(table):
    for _, known in table.values():
        if known.default is not None:
            assert parse_value(known, format_value(known, known.default)) == known.default, known.name


@pytest.mark.parametrize("table", [BROKER_OPTIONS, OPTIONS], ids=["broker", "topic"])
def test_every_whole_number_is_refused_beside_its_bounds(table):
    for _, known in table.values():
        if known.kind is int:
            assert known.low is not None, known.name
            for text in (str(known.low - 1), str(2**63), "x", "", "1.5"):
                with pytest.raises(InvalidConfig, match=known.name.replace(".", r"\.")):
                    parse_value(known, text)


@pytest.mark.parametrize(
    ("values", "retention_ms"),
    [
        ({}, 7 * 24 * 3_600_000),
        ({"log.retention.hours": "2"}, 7_200_000),
        ({"log.retention.hours": "2", "log.retention.minutes": "3"}, 180_000),
        ({"log.retention.hours": "2", "log.retention.minutes": "3", "log.retention.ms": "4"}, 4),
        ({"log.retention.hours": "-1"}, -1),
        ({"log.retention.minutes": "-1", "log.retention.hours": "1"}, -1),
        ({"log.retention.ms": "1d"}, 86_400_000),
    ],
)
def test_retention_takes_the_finest_unit_that_is_set(values, retention_ms):
    assert parse_broker_config(values).topic_defaults().retention_ms == retention_ms


def test_topic_defaults_carry_every_kind_of_value():
    config = parse_broker_config(
        {
            "log.flush.policy": "interval",
            "log.message.timestamp.type": "LogAppendTime",
            "log.cleanup.policy": "delete, compact",
            "log.roll.hours": "1",
            "log.cleaner.min.cleanable.ratio": "0.25",
            "message.max.bytes": "2MiB",
        }
    ).topic_defaults()
    assert config.flush_policy is FlushPolicy.INTERVAL
    assert config.message_timestamp_type is TimestampType.LOG_APPEND_TIME
    assert config.cleanup_policy == "compact,delete"
    assert config.segment_ms == 3_600_000
    assert config.min_cleanable_dirty_ratio == 0.25
    assert format_option(config, "max.message.bytes") == str(2 << 20)


def test_what_is_described_can_be_parsed_back():
    config = parse_broker_config({"num.partitions": "7", "auto.create.topics.enable": "FALSE", "broker.id": "3"})
    described = list(describe(config))
    assert [one.name for one in described] == list(BROKER_OPTIONS)
    assert parse_broker_config({one.name: one.value for one in described if one.value is not None}) == config
    assert {one.name for one in described if not one.is_default} == {
        "num.partitions",
        "auto.create.topics.enable",
        "node.id",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num.partitons": "1"}, r"did you mean num\.partitions\?"),
        ({"auto.create.topics.enable": "yes"}, "choose true or false"),
        ({"default.replication.factor": "3"}, "between 1 and 1"),
        ({"num.partitions": "20000"}, r"above max\.partitions\.per\.topic"),
        ({"group.min.session.timeout.ms": "2h"}, r"above group\.max\.session\.timeout\.ms"),
        ({"log.flush.policy": "never"}, "choose acks or interval or os"),
    ],
)
def test_a_bad_value_is_refused_with_what_to_do(values, message):
    with pytest.raises(InvalidConfig, match=message):
        parse_broker_config(values)


def test_no_key_is_both_used_and_unused():
    assert not [name for name in BROKER_OPTIONS if is_unused(name) or is_security(name)]
    assert is_unused("zookeeper.connect")
    assert is_unused("process.roles")
    assert not is_unused("log.cleaner.backof.ms"), "a typing error near a known key must not pass as Kafka's"
    assert is_security("ssl.keystore.location")
    assert is_security("sasl.enabled.mechanisms")
    assert not is_security("sasl.mechanism.inter.broker.protocol")


def test_the_bound_of_a_topics_partitions_is_not_above_what_a_directory_takes() -> None:
    assert BROKER_OPTIONS["max.partitions.per.topic"][1].high == PARTITIONS_MAX
