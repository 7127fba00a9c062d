"""SIGKILL at random instants under load: what was acknowledged is there once, in order, and the files are clean.

A killed process leaves the page cache intact, so acks=1 and acks=all promise the same here; what a power cut takes is
the business of the simulated disk.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import confluent_kafka
import pytest
from support.servers import ServerFactory

from tools.demo.clients import Confluent, Partitions
from tools.demo.server import ServerProcess

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

SEED = int(os.environ.get("LOGSTORE_TEST_SEED", "20261121"))
ROUNDS = 10
PARTITIONS = 3
UPTIME_S = (0.02, 0.6)
PAUSE_S = 0.0005
QUIET = {"log_level": 2}


class Load:
    """A producer that never stops: numbers 0, 1, 2… to partitions by turns, and which of them were acknowledged."""

    def __init__(self, server: ServerProcess, topic: str, settings: dict[str, str | int | bool]) -> None:
        self._topic = topic
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": server.kafka, "linger.ms": 2} | QUIET | settings
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.sent = 0
        self.acknowledged: set[int] = set()
        self.failed: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def finish(self) -> None:
        """Stop sending and wait for the rest of the acknowledgements."""
        self._stop.set()
        self._thread.join(60)
        assert self._producer.flush(60) == 0

    def _run(self) -> None:
        while not self._stop.is_set():
            number = self.sent
            value = b"%d " % number + b"x" * (number % 400)
            try:
                self._producer.produce(
                    self._topic, value=value, partition=number % PARTITIONS, on_delivery=self._delivered(number)
                )
            except BufferError:
                self._producer.poll(0.05)
                continue
            self.sent += 1
            self._producer.poll(0)
            if number % 20 == 0:
                self._stop.wait(PAUSE_S)

    def _delivered(self, number: int):  # type: ignore[no-untyped-def]  # a callback of the library
        def delivered(error: object, _: object) -> None:
            if error is None:
                self.acknowledged.add(number)
            else:
                self.failed.append(f"{number}: {error}")

        return delivered


def numbers(read: Partitions) -> dict[int, list[int]]:
    return {p: [int((record.value or b"").split()[0]) for record in records] for p, records in read.items()}


def verify(server: ServerProcess) -> None:
    """`logstore segment verify`, offline."""
    done = subprocess.run(
        [sys.executable, "-m", "tools", "segment", "verify", "--deep", str(server.directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def crash(server: ServerProcess, chance: random.Random) -> None:
    """Let the server run for a moment, as long as the seed says, and kill it."""
    time.sleep(chance.uniform(*UPTIME_S))
    server.kill()


def test_an_idempotent_producer_loses_and_doubles_nothing(server_factory: ServerFactory) -> None:
    chance = random.Random(SEED)
    print(f"LOGSTORE_TEST_SEED={SEED}")
    # Small segments: rolls, sealed files and producer snapshots are hit by the crashes, too.
    server = server_factory(http=False, settings=["log.segment.bytes=200000"])
    reader = Confluent(server.kafka)
    reader.create_topic("load", PARTITIONS)
    with Load(server, "load", {"enable.idempotence": True, "acks": "all"}) as load:
        for _ in range(ROUNDS):
            crash(server, chance)
            server.restart()
        load.finish()
    assert load.failed == []
    assert len(load.acknowledged) == load.sent > ROUNDS * 10
    found = numbers(reader.read_all("load"))
    for partition in range(PARTITIONS):
        assert found[partition] == list(range(partition, load.sent, PARTITIONS)), f"partition {partition}"
    server.terminate()
    verify(server)


def test_what_one_broker_acknowledged_is_kept(server_factory: ServerFactory) -> None:
    """acks=1 and no idempotence: retries may double and reorder, but nothing acknowledged is missing."""
    chance = random.Random(SEED + 1)
    print(f"LOGSTORE_TEST_SEED={SEED}")
    server = server_factory(http=False, settings=["log.segment.bytes=200000"])
    reader = Confluent(server.kafka)
    reader.create_topic("load", PARTITIONS)
    with Load(server, "load", {"enable.idempotence": False, "acks": 1, "max.in.flight": 1}) as load:
        for _ in range(ROUNDS):
            crash(server, chance)
            acknowledged = set(load.acknowledged)
            server.restart()
            found = numbers(reader.read_all("load"))
            missing = acknowledged - {number for partition in found.values() for number in partition}
            assert not missing, f"{len(missing)} acknowledged records are missing, first: {min(missing)}"
        load.finish()
    found = numbers(reader.read_all("load"))
    for partition in range(PARTITIONS):
        # One request in flight: a retry repeats the last ones, it never overtakes. First sightings are in order.
        firsts = list(dict.fromkeys(found[partition]))
        assert firsts == sorted(firsts)
        assert set(firsts) >= {number for number in load.acknowledged if number % PARTITIONS == partition}
    server.terminate()
    verify(server)


def test_files_are_clean_after_each_crash_and_reopen(server_factory: ServerFactory) -> None:
    chance = random.Random(SEED + 2)
    print(f"LOGSTORE_TEST_SEED={SEED}")
    server = server_factory(http=False, settings=["log.segment.bytes=50000"])
    Confluent(server.kafka).create_topic("load", PARTITIONS)
    with Load(server, "load", {"acks": "all", "enable.idempotence": True}) as load:
        for _ in range(3):
            crash(server, chance)
            server.restart()
            server.terminate()
            verify(server)
            server.restart()
        load.finish()
    assert load.failed == []


def test_groups_keep_what_they_committed(server_factory: ServerFactory) -> None:
    server = server_factory(http=False)
    Confluent(server.kafka).create_topic("load", 1)
    config = {"bootstrap.servers": server.kafka, "group.id": "keeps", "enable.auto.commit": False} | QUIET
    partition = confluent_kafka.TopicPartition("load", 0, 17)
    for round_ in range(3):
        consumer = confluent_kafka.Consumer(config)
        partition.offset = 17 + round_
        consumer.commit(offsets=[partition], asynchronous=False)
        server.kill()
        server.restart()
        (found,) = consumer.committed([confluent_kafka.TopicPartition("load", 0)], timeout=20)
        assert found.offset == 17 + round_
        consumer.close()


def test_a_topic_is_made_and_deleted_for_good(server_factory: ServerFactory) -> None:
    server = server_factory(http=False)
    client = Confluent(server.kafka)
    for round_ in range(3):
        client.create_topic("comes", PARTITIONS)
        client.create_topic(f"stays-{round_}", PARTITIONS)
        server.kill()
        server.restart()
        admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": server.kafka} | QUIET)
        assert len(admin.list_topics(timeout=20).topics["comes"].partitions) == PARTITIONS
        admin.delete_topics(["comes"])["comes"].result(timeout=20)
        server.kill()
        server.restart()
        admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": server.kafka} | QUIET)
        assert set(admin.list_topics(timeout=20).topics) == {f"stays-{n}" for n in range(round_ + 1)}
        assert not [path for path in server.directory.iterdir() if re.fullmatch(r"comes-\d+", path.name)]


def test_a_second_server_on_the_directory_is_refused(server_factory: ServerFactory) -> None:
    server = server_factory(http=False)
    other = ServerProcess(server.directory, http=False)
    done = subprocess.run(other.command(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert str(server.pid) in done.stderr
    assert str(server.directory) in done.stderr
    assert server.is_running
    server.kill()
    server.restart()  # a lock whose owner was killed is free


def test_sigterm_leaves_a_clean_mark_and_a_fast_start(server_factory: ServerFactory, tmp_path: Path) -> None:
    server = server_factory(http=False, settings=["log.segment.bytes=1000000"])
    client = Confluent(server.kafka)
    client.create_topic("load", PARTITIONS)
    with Load(server, "load", {"acks": 1, "enable.idempotence": False}) as load:
        while load.sent < 20_000:
            time.sleep(0.01)
        load.finish()
    before = numbers(client.read_all("load"))
    server.terminate()
    marks = [path.name for path in server.directory.iterdir() if "clean" in path.name]
    assert marks, sorted(path.name for path in server.directory.iterdir())
    server.restart()
    assert not [path for path in server.directory.iterdir() if path.name in marks], "a running server is not clean"
    assert numbers(client.read_all("load")) == before
    assert server.stderr() == "", "a clean start has nothing to report"
    assert server.ready_ms < 5_000
