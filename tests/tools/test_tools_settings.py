import re
from pathlib import Path

import pytest

from cluster.config import BROKER_OPTIONS, BrokerConfig
from logstore.errors import InvalidConfig
from tools.settings import environment_name, gather, is_loopback, parse_address

# The lines, comments aside, of the configuration that Kafka 4 ships for a first broker.
KAFKA_4_DEFAULTS = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/srv/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
#log.flush.interval.messages=10000
#log.flush.interval.ms=1000
log.retention.hours=168
#log.retention.bytes=1073741824
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
"""

# The same of the last line of versions that had ZooKeeper.
KAFKA_2_DEFAULTS = """\
broker.id=0
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/srv/kafka-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
zookeeper.connect=localhost:2181
zookeeper.connection.timeout.ms=18000
group.initial.rebalance.delay.ms=0
"""


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_word_everything_is_the_default():
    found = gather({}, [], {})
    assert found.serve.data_dir == Path("logstore-data")
    assert found.serve.kafka == ("127.0.0.1", 9092)
    assert found.serve.http == ("127.0.0.1", 8080)
    assert found.serve.advertise is None
    assert found.serve.broker == BrokerConfig()
    assert found.warnings == ()
    assert found.origins == {}


def test_flag_beats_environment_beats_file_beats_default(tmp_path):
    file = write(tmp_path, "a.toml", "num.partitions = 2\nnode.id = 2\nmessage.max.bytes = 2\nkafka = 'localhost:2'")
    environ = {"LOGSTORE_NUM_PARTITIONS": "3", "LOGSTORE_NODE_ID": "3", "LOGSTORE_KAFKA": "localhost:3"}
    found = gather({"kafka": "localhost:4"}, ["num.partitions=4"], environ, file)
    broker = found.serve.broker
    assert (broker.num_partitions, broker.node_id, broker.message_max_bytes) == (4, 3, 2)
    assert found.serve.kafka == ("localhost", 4)
    assert found.origins == {
        "num.partitions": "--set",
        "node.id": "LOGSTORE_NODE_ID in the environment",
        "message.max.bytes": str(file),
        "kafka": "--kafka",
    }


def test_a_coarser_unit_of_a_higher_layer_ends_the_finer_one_below(tmp_path):
    file = write(tmp_path, "a.properties", "log.retention.ms=1000\nlog.roll.ms=1000")
    found = gather({}, ["log.retention.hours=1"], {}, file).serve.broker.topic_defaults()
    assert (found.retention_ms, found.segment_ms) == (3_600_000, 1000)


def test_the_config_file_may_be_named_in_the_environment(tmp_path):
    file = write(tmp_path, "a.toml", "[num]\npartitions = 5")
    assert gather({}, [], {"LOGSTORE_CONFIG": str(file)}).serve.broker.num_partitions == 5


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("log.retention.ms", "LOGSTORE_LOG_RETENTION_MS"),
        ("data.dir", "LOGSTORE_DATA_DIR"),
        ("a-b.c_d", "LOGSTORE_A___B_C__D"),
    ],
)
def test_the_rule_of_the_environment(key, name):
    assert environment_name(key) == name


def test_no_two_keys_share_a_name_in_the_environment():
    assert len({environment_name(key) for key in BROKER_OPTIONS}) == len(BROKER_OPTIONS)


def test_the_environment_of_others_is_left_alone():
    environ = {
        "PATH": "/bin",
        "LOGSTORE_BOOTSTRAP": "x:1",
        "LOGSTORE_FORMAT": "json",
        "LOGSTORE_SERVICE_HOST": "10.0.0.1",
        "LOGSTORE_SERVICE_PORT_KAFKA": "9092",
        "LOGSTORE_PORT": "tcp://10.0.0.1:9092",
        "LOGSTORE_PORT_9092_TCP_ADDR": "10.0.0.1",
    }
    assert gather({}, [], environ).origins == {}


@pytest.mark.parametrize(
    ("sets", "environ", "message"),
    [
        (["num.partitons=1"], {}, "unknown option num.partitons from --set (did you mean num.partitions?)"),
        (["retention.ms=1"], {}, "retention.ms from --set is an option of topics (did you mean log.retention.ms?)"),
        (["qqqq=1"], {}, "unknown option qqqq from --set (see docs/configuration.md for the known names)"),
        (["zookeeper.connect=a"], {}, "zookeeper.connect from --set has no meaning on one node (remove it)"),
        (["num.partitions"], {}, "--set num.partitions is not KEY=VALUE (write for example --set num.partitions=3)"),
        (["num.partitions=x"], {}, "num.partitions=x is not a whole number, from --set (write for example num.parti"),
        (["num.partitions=0"], {}, "num.partitions=0 is out of bounds, from --set (between 1 and 2147483647)"),
        (["kafka=here"], {}, "kafka=here is not HOST:PORT, from --set (write for example kafka=127.0.0.1:9092)"),
        (["insecure=maybe"], {}, "insecure=maybe from --set is not a truth value (choose true or false)"),
        (["data.dir="], {}, "data.dir from --set is empty (write for example data.dir=./logstore-data)"),
        (["advertise=0.0.0.0:1"], {}, "advertise=0.0.0.0:1 from --set is no address a client can connect to ("),
        (["ssl.keystore.location=a"], {}, "ssl.keystore.location from --set asks for security this version does not"),
        (["listeners=SSL://localhost:1"], {}, "listeners=SSL://localhost:1 from --set asks for security this version"),
        (
            [],
            {"LOGSTORE_NUM_PARTITON": "1"},
            "unknown name LOGSTORE_NUM_PARTITON in the environment (did you mean LOGST",
        ),
        ([], {"LOGSTORE_WORKERS": "2"}, "unknown name LOGSTORE_WORKERS in the environment (see docs/configuration.md"),
        ([], {"LOGSTORE_NODE_ID": "-1"}, "node.id=-1 is out of bounds, from LOGSTORE_NODE_ID in the environment (betw"),
    ],
)
def test_an_error_names_key_value_origin_and_a_way_out(sets, environ, message):
    with pytest.raises(InvalidConfig, match=re.escape(message)):
        gather({}, sets, environ)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "num.partitions = ", "is not TOML"),
        ("a.toml", "num.partitons = 1", "did you mean num.partitions"),
        ("a.toml", "zookeeper.connect = 'a'", "has no meaning on one node"),
        ("a.properties", "num.partitons=1", "a.properties line 1 (did you mean num.partitions?)"),
        ("a.properties", "\n\nlog.dirs=/a,/b", "a.properties line 3 names several directories"),
        ("a.properties", "listeners=localhost:9092", "is not NAME://HOST:PORT"),
        ("a.properties", "listeners=C://:1\ncontroller.listener.names=C", "has no listener for clients"),
        ("a.properties", "listeners=X://:1\nlistener.security.protocol.map=X:SASL_SSL", "asks for security"),
        ("a.properties", "authorizer.class.name=A", "asks for security"),
        ("a.yaml", "", "cannot tell the format"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, name, text, message):
    with pytest.raises(InvalidConfig, match=re.escape(message)):
        gather({}, [], {}, write(tmp_path, name, text))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidConfig, match="No such file"):
        gather({}, [], {}, tmp_path / "a.toml")
    (tmp_path / "b.properties").write_bytes(b"a=\xff")
    with pytest.raises(InvalidConfig, match="not UTF-8 at byte 2"):
        gather({}, [], {}, tmp_path / "b.properties")


def test_toml_tables_lists_and_truth_values(tmp_path):
    text = 'auto.create.topics.enable = false\n[log]\ncleanup.policy = ["compact", "delete"]\n"retention.ms" = "2d"'
    broker = gather({}, [], {}, write(tmp_path, "a.toml", text)).serve.broker
    assert not broker.auto_create_topics_enable
    assert broker.log_cleanup_policy == "compact,delete"
    assert broker.log_retention_ms == 2 * 86_400_000


def test_kafka_4_s_own_server_properties_is_taken(tmp_path):
    found = gather({"insecure": "true"}, [], {}, write(tmp_path, "server.properties", KAFKA_4_DEFAULTS))
    assert found.serve.kafka == ("0.0.0.0", 9092)
    assert found.serve.advertise == ("localhost", 9092)
    assert found.serve.data_dir == Path("/srv/kraft-combined-logs")
    assert found.serve.broker == BrokerConfig(log_retention_hours=168)
    ignored, open_ = found.warnings
    assert "process.roles" in ignored
    assert "num.network.threads" in ignored
    assert "open to other machines" in open_


def test_kafka_2_s_own_server_properties_is_taken(tmp_path):
    found = gather({}, [], {}, write(tmp_path, "server.properties", KAFKA_2_DEFAULTS))
    assert found.serve.kafka == ("127.0.0.1", 9092)
    assert found.serve.broker == BrokerConfig(node_id=0, group_initial_rebalance_delay_ms=0)
    assert len(found.warnings) == 1
    assert "zookeeper.connect" in found.warnings[0]


def test_our_own_keys_win_over_kafka_s_in_the_same_place(tmp_path):
    text = "listeners=PLAINTEXT://localhost:1,B://localhost:2\nkafka=localhost:3\nlog.dir=/a\nlog.dirs=/b"
    found = gather({}, [], {}, write(tmp_path, "a.properties", text))
    assert found.serve.kafka == ("localhost", 3)
    assert found.serve.data_dir == Path("/b")
    assert "only the first of listeners" in found.warnings[0]


@pytest.mark.parametrize(
    "address", [":9092", "0.0.0.0:9092", "[::]:9092", "192.168.1.5:9092", "broker.example.com:9092"]
)
@pytest.mark.parametrize("key", ["kafka", "http"])
def test_other_machines_are_let_in_only_when_told_so(key, address):
    with pytest.raises(InvalidConfig, match=r"open to other machines.*add --insecure"):
        gather({key: address}, [], {})
    found = gather({key: address, "advertise": "broker.example.com:9092"}, [], {"LOGSTORE_INSECURE": "true"})
    assert len(found.warnings) == 1
    assert getattr(found.serve, key)[1] == 9092


@pytest.mark.parametrize(("address", "told"), [(":9092", "0.0.0.0"), ("[::]:9092", "::")])
def test_an_address_that_no_client_can_use_is_warned_of(address, told):
    found = gather({"kafka": address}, [], {"LOGSTORE_INSECURE": "true"})
    assert f"clients are told to connect to {told}" in found.warnings[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host)


def test_http_can_be_off_and_ports_free():
    found = gather({"http": "off", "kafka": "127.0.0.1:0"}, [], {})
    assert found.serve.http is None
    assert found.serve.kafka == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    "text", ["", "a", "a:", "a:b", "a:65536", "::1:9092", "[::1:9092", "a/b:1", "a b:1", "http://a:1"]
)
def test_what_is_no_address(text):
    with pytest.raises(InvalidConfig, match=r"127\.0\.0\.1:9092"):
        parse_address("kafka", text)


def test_what_is_an_address():
    assert parse_address("kafka", "[::1]:9092") == ("::1", 9092)
    assert parse_address("kafka", " a-b.c:1 ") == ("a-b.c", 1)
