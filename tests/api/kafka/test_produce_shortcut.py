"""The shortcut of Produce against the general way: the same requests must leave the same answers and the same log."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from api.kafka import codec, produce_shortcut
from api.kafka.connection import BufferPool, Connection, Session
from api.kafka.dispatch import Dispatcher
from api.kafka.errors import FrameError
from api.kafka.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from api.kafka.produce_shortcut import VERSION_FIRST, ProduceShortcut
from cluster.error_codes import ErrorCode
from cluster.node import Node
from cluster.testing import VirtualTime
from logstore.errors import DurabilityUnknown, NotWritten
from logstore.files import OsFiles
from logstore.log.group_commit import GroupCommit
from logstore.record.records import encode_batch
from logstore.types import Buffer, Position

PRODUCE = 0
VERSIONS = range(3, 14)
TOPIC_IDS_SINCE = 13


class BadDisk(OsFiles):
    """The real disk, until it is `full` or `fails_sync`."""

    full = fails_sync = False

    def pwritev(self, handle: int, views: Sequence[Buffer], position: Position, size_bytes: int) -> None:
        if self.full:
            raise NotWritten("no space left")
        super().pwritev(handle, views, position, size_bytes)

    def fdatasync(self, handle: int) -> None:
        if self.fails_sync:
            raise DurabilityUnknown("the disk says no")
        super().fdatasync(handle)


class Side:
    """A node and one client; `general` forgets the shortcut before every request."""

    def __init__(self, node: Node, group_commit: GroupCommit, path: Path, disk: BadDisk, *, general: bool) -> None:
        self.node = node
        self.path = path
        self.disk = disk
        self.shortcuts = 0  # requests the shortcut took
        self._group_commit = group_commit
        self._general = general
        self._dispatch = Dispatcher(node)
        self.connect()

    def connect(self) -> None:
        self.finished = False
        self.connection = Connection(lambda: None, BufferPool())
        self.session = Session(
            self.connection.open_slot, self._finish, peer_host="h", peer_port=1, listener=("127.0.0.1", 9092)
        )

    def _finish(self) -> None:
        self.finished = True

    def turn(self, *frames: bytes) -> list[bytes | str]:
        """The answers to `frames`, which come in one turn of the loop; an error that ends the connection as text."""
        ended: list[bytes | str] = []
        for frame in frames:
            if self._general:
                self.session.shortcut = None
            try:
                self._dispatch(self.session, memoryview(bytearray(frame)))
            except FrameError as error:
                ended.append(f"{type(error).__name__}: {error}")
        self.node.end_of_turn()
        self._group_commit.drain()
        output = b"".join(bytes(part) for part in self.connection.take_output())  # type: ignore[arg-type]  # no files
        self.connection.sent(len(output))
        if ended or self.finished:
            ended.append(f"finished: {self.finished}")
            self.connect()
        return [output, *ended]

    def logs(self) -> dict[str, bytes]:
        return {str(each.relative_to(self.path)): each.read_bytes() for each in sorted(self.path.rglob("*.log"))}


class Pair:
    """The same node twice."""

    def __init__(self, quick: Side, general: Side) -> None:
        self.quick = quick
        self.general = general

    async def create(self, name: str, partitions: int = 2, **config: str) -> uuid.UUID:
        options = {key.replace("_", "."): value for key, value in config.items()}
        ids = [
            (await side.node.create_topic(name, partitions, options)).topic_id for side in (self.quick, self.general)
        ]
        assert ids[0] == ids[1]
        return ids[0]

    async def delete(self, name: str) -> None:
        for side in (self.quick, self.general):
            await side.node.delete_topic(side.node.topic(name))

    def turn(self, *frames: bytes) -> list[bytes | str]:
        quick, general = self.quick.turn(*frames), self.general.turn(*frames)
        assert quick == general
        return quick

    def check_logs(self) -> None:
        logs = self.quick.logs()
        assert logs == self.general.logs()
        assert any(logs.values())


@pytest.fixture
async def pair(open_node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    sides: list[Side] = []
    call = ProduceShortcut.__call__

    def counting(shortcut: ProduceShortcut, frame: memoryview) -> bool:
        served = call(shortcut, frame)
        for side in sides:
            side.shortcuts += served and side.session.shortcut is shortcut
        return served

    monkeypatch.setattr(ProduceShortcut, "__call__", counting)
    async with AsyncExitStack() as stack:
        for name in ("quick", "general"):
            disk = BadDisk()
            node, commit = await stack.enter_async_context(open_node(tmp_path / name, clock=VirtualTime(), files=disk))
            sides.append(Side(node, commit, tmp_path / name, disk, general=name == "general"))
        pair = Pair(*sides)
        yield pair
        pair.check_logs()
        assert pair.general.shortcuts == 0


def batch(size_bytes: int = 10, count: int = 1, **more: Any) -> bytes:
    return bytes(encode_batch([(1_700_000_000_000, None, bytes(size_bytes), ())] * count, **more))


def request(
    version: int,
    topic: str | uuid.UUID,
    records: bytes,
    *,
    index: int = 0,
    acks: int = 1,
    correlation_id: int = 77,
    client_id: str | None = "client",
) -> bytes:
    data = [PartitionProduceData(index, memoryview(records))]
    named = TopicProduceData(topic_id=topic, partition_data=data) if isinstance(topic, uuid.UUID) else None
    message = ProduceRequest(None, acks, 1000, [named or TopicProduceData(name=str(topic), partition_data=data)])
    header = codec.write_request_header(PRODUCE, version, correlation_id, client_id)
    return bytes(header + codec.write_request(PRODUCE, version, message))


def name_for(version: int, name: str, topic_id: uuid.UUID) -> str | uuid.UUID:
    return topic_id if version >= TOPIC_IDS_SINCE else name


def error_codes(answer: bytes | str, version: int) -> list[int]:
    """Of the responses laid end to end in `answer`, one partition each."""
    assert isinstance(answer, bytes)
    view, codes = memoryview(answer), []
    while view:
        size = int.from_bytes(view[:4], "big") + 4
        _, position = codec.read_response_header(PRODUCE, version, view, 4)
        response: Any = codec.read_response(PRODUCE, version, view[:size], position)
        codes.append(response.responses[0].partition_responses[0].error_code)
        view = view[size:]
    return codes


@pytest.mark.parametrize("acks", [1, -1, 0])
@pytest.mark.parametrize("version", VERSIONS)
async def test_same_answers_and_log_in_every_version(pair: Pair, version: int, acks: int) -> None:
    topic = name_for(version, "topic", await pair.create("topic", max_message_bytes="30000"))
    batches = [
        batch(1),
        batch(40),
        batch(200),
        batch(17_000),
        batch(10, 50),
        batch(29_000),
        batch(40_000),
        batch()[:-1],
    ]
    for round_ in range(2):
        frames = [
            request(version, topic, each, index=number % 3, acks=acks, correlation_id=100 * round_ + number)
            for number, each in enumerate(batches * 2)
        ]
        for frame in frames:
            pair.turn(frame)
        pair.turn(*(frame for number, frame in enumerate(frames) if number % 3 < 2 and number < 6))
    assert (pair.quick.shortcuts > 0) is (version >= VERSION_FIRST)


@pytest.mark.parametrize("version", [7, 9, 13])
async def test_nothing_but_equal_bytes_takes_a_route(pair: Pair, version: int) -> None:
    topic = name_for(version, "t", await pair.create("t"))
    frame = request(version, topic, batch())
    pair.turn(frame)
    pair.turn(frame)
    for position in range(len(frame)):
        for bit in (1, 0x80):
            pair.turn(frame[:position] + bytes([frame[position] ^ bit]) + frame[position + 1 :])
            pair.turn(frame)
    for size in range(8, len(frame)):
        for changed in (frame[:size], frame + frame[:size]):
            pair.turn(frame)  # known again, should the one before have ended the connection
            pair.turn(changed)
    assert pair.quick.shortcuts > len(frame)


@pytest.mark.parametrize("version", [7, 12, 13])
async def test_producer_sequences(pair: Pair, version: int) -> None:
    topic = name_for(version, "t", await pair.create("t"))
    frames = [
        request(version, topic, batch(count=2, producer_id=5, producer_epoch=epoch, base_sequence=sequence))
        for epoch, sequence in [(0, 0), (0, 2), (0, 2), (0, 0), (0, 9), (0, 4), (1, 3), (1, 0), (0, 6), (1, 2)]
    ]
    for frame in frames:
        pair.turn(frame)
    pair.turn(*frames)
    assert pair.quick.shortcuts


async def test_log_append_time(pair: Pair) -> None:
    await pair.create("t", message_timestamp_type="LogAppendTime")
    frame = request(9, "t", batch())
    assert [pair.turn(frame) for _ in range(3)]
    assert pair.quick.shortcuts == 2


async def test_several_batches_for_a_partition(pair: Pair) -> None:
    await pair.create("t")
    for records in (batch(5), batch(5) + batch(6), batch(5) + batch(6)[:-2]):
        pair.turn(request(7, "t", records))
    assert pair.quick.shortcuts == 1


async def test_a_request_of_two_partitions_goes_the_general_way(pair: Pair) -> None:
    await pair.create("t")
    data = [PartitionProduceData(index, memoryview(batch())) for index in range(2)]
    message = ProduceRequest(None, 1, 1000, [TopicProduceData(name="t", partition_data=data)])
    frame = bytes(codec.write_request_header(PRODUCE, 9, 5, "c") + codec.write_request(PRODUCE, 9, message))
    for _ in range(2):
        pair.turn(frame)
    assert pair.quick.session.shortcut is None
    pair.turn(request(9, "t", batch()))
    pair.turn(frame)
    assert pair.quick.shortcuts == 0


async def test_versions_acks_and_client_ids_take_turns(pair: Pair) -> None:
    await pair.create("t")
    frames = [
        request(version, "t", batch(), acks=acks, client_id=client_id, correlation_id=number)
        for number, (version, acks, client_id) in enumerate(
            [(5, 1, "c"), (6, 1, "c"), (8, 1, "c"), (8, -1, "c"), (8, 0, "c"), (8, 1, None), (9, 1, "c"), (10, 1, "é")]
        )
    ]
    for _ in range(3):
        pair.turn(*frames)
        for frame in frames:
            pair.turn(frame)
    assert pair.quick.shortcuts


@pytest.mark.parametrize("version", [7, 13])
async def test_a_topic_made_anew_is_another_topic(pair: Pair, version: int) -> None:
    old = name_for(version, "t", await pair.create("t", 2))
    frames = [request(version, old, batch(), index=index) for index in range(2)]
    for frame in frames * 2:
        pair.turn(frame)
    assert pair.quick.shortcuts == 2
    await pair.delete("t")
    codes = {error_codes(pair.turn(frame)[0], version)[0] for frame in frames}
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if version == 13 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert codes == {unknown}
    new = name_for(version, "t", await pair.create("t", 1))
    codes_anew = [error_codes(pair.turn(frame)[0], version)[0] for frame in frames * 2]
    assert codes_anew == ([unknown] * 4 if version == 13 else [0, unknown] * 2)
    frame = request(version, new, batch())
    pair.turn(frame, frame)
    topic = pair.quick.node.topic("t")
    assert pair.quick.node.head(topic.partition_ids[0]).high_watermark == (2 if version == 13 else 4)


async def test_added_partitions(pair: Pair) -> None:
    await pair.create("t", 1)
    frames = [request(9, "t", batch(), index=index) for index in range(2)]
    pair.turn(*frames, *frames)
    for side in (pair.quick, pair.general):
        await side.node.add_partitions(side.node.topic("t"), 2)
    assert error_codes(pair.turn(*frames, *frames)[0], 9) == [0, 0, 0, 0]
    assert pair.quick.shortcuts == 3


async def test_a_change_within_a_turn_does_not_hide_the_deletion(pair: Pair) -> None:
    """Records taken before the topic went, in the same turn, are answered for; the next request finds it gone."""
    await pair.create("t", 1)
    frame = request(7, "t", batch())
    pair.turn(frame)
    await pair.create("kept", 1)
    pair.turn(request(7, "kept", batch()))
    await pair.delete("t")
    assert error_codes(pair.turn(frame, frame)[0], 7) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * 2


@pytest.mark.parametrize("version", [7, 8, 12])
@pytest.mark.parametrize("acks", [1, -1, 0])
async def test_a_full_disk(pair: Pair, version: int, acks: int) -> None:
    await pair.create("t")
    frames = [request(version, "t", batch(), index=index, acks=acks, correlation_id=index + 5) for index in (0, 1)]
    pair.turn(*frames)
    for side in (pair.quick, pair.general):
        side.disk.full = True
    failed = pair.turn(*frames, *frames)
    if acks:
        assert error_codes(failed[0], version) == [ErrorCode.KAFKA_STORAGE_ERROR] * 4
    else:
        assert failed == [b"", "finished: True"]
    for side in (pair.quick, pair.general):
        side.disk.full = False
    pair.turn(*frames)
    pair.turn(*frames)
    assert pair.quick.shortcuts == (8 if acks else 6)


@pytest.mark.parametrize("version", [7, 8, 12])
async def test_a_failed_sync(pair: Pair, version: int) -> None:
    await pair.create("t")
    frames = [request(version, "t", batch(), acks=-1, correlation_id=number) for number in range(3)]
    pair.turn(*frames)
    for side in (pair.quick, pair.general):
        side.disk.fails_sync = True
    assert 0 not in error_codes(pair.turn(*frames)[0], version)
    pair.turn(*frames)
    assert pair.quick.shortcuts


async def test_routes_do_not_outlive_the_metadata_they_were_made_from(pair: Pair) -> None:
    await pair.create("t", 2)
    frames = [request(7, "t", batch(), index=index) for index in range(2)]
    pair.turn(*frames)
    shortcut = pair.quick.session.shortcut
    assert isinstance(shortcut, ProduceShortcut)
    assert len(shortcut) == 2
    await pair.create("other")
    pair.turn(frames[0])
    assert len(shortcut) == 1
    await pair.create("third")
    pair.turn(request(7, "third", batch()))
    assert len(shortcut) == 1


async def test_routes_are_few(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce_shortcut, "ROUTES_MAX", 4)
    monkeypatch.setattr(produce_shortcut, "LENGTHS_MAX", 2)
    names = ["t", "tt", "ttt", "tttt"]
    for name in names:
        await pair.create(name, 3)
    for frame in every_partition(names) * 3:
        pair.turn(frame)
        pair.turn(frame)
        shortcut = pair.quick.session.shortcut
        assert isinstance(shortcut, ProduceShortcut)
        assert 1 <= len(shortcut) <= 4
    assert pair.quick.shortcuts >= 36


async def test_a_long_prefix_is_not_kept(pair: Pair) -> None:
    await pair.create("t")
    frame = request(7, "t", batch())
    for _ in range(3):
        pair.turn(request(7, "t", batch(), client_id="c" * 2000))
    assert pair.quick.shortcuts == 0
    pair.turn(frame)
    pair.turn(frame)
    assert pair.quick.shortcuts == 1


def every_partition(names: Iterable[str]) -> list[bytes]:
    return [request(7, name, batch(), index=index) for name in names for index in range(3)]
