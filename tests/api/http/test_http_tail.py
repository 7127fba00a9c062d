"""The live tail: ids, resuming, what cannot be shown, slow and vanished readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from logstore.record.compression import Codec
from logstore.record.records import encode_batch
from logstore.types import Isolation

JSON = "application/vnd.kafka.json.v2+json"


class Stream:
    """One tail without a socket: messages are taken one at a time, and the application cannot run ahead."""

    def __init__(self, house, path: str = "/v1/topics/t/tail", query: str = "", last_event_id: str = "") -> None:
        headers = [(b"last-event-id", last_event_id.encode())] if last_event_id else []
        self.scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": headers, "root_path": "", "scheme": "http", "server": ("door", 80), "http_version": "1.1",
        }  # fmt: skip
        self.sent: asyncio.Queue = asyncio.Queue(1)
        self.gone = asyncio.Event()
        self.asked = False
        self.buffer = b""
        self.status = 0
        self.ended = False
        self.house = house

    async def receive(self):
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def message(self):
        """The next message; the application goes on only now."""
        return await asyncio.wait_for(self.sent.get(), 5)

    async def event(self) -> dict[str, str]:
        """The next event that is not a comment."""
        while True:
            while b"\n\n" in self.buffer:
                block, self.buffer = self.buffer.split(b"\n\n", 1)
                lines = block.decode().split("\n")
                fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
                if fields:
                    return fields
            message = await self.message()
            assert message["type"] == "http.response.body"
            self.buffer += message["body"]
            if not message.get("more_body", False):
                self.ended = True
                return {}

    async def record(self):
        event = await self.event()
        assert "event" not in event, event
        return json.loads(event["data"])


@asynccontextmanager
async def tail(house, query: str = "format=json", last_event_id: str = "") -> AsyncIterator[Stream]:
    stream = Stream(house, query=query, last_event_id=last_event_id)
    task = asyncio.create_task(house.app(stream.scope, stream.receive, stream.sent.put))
    start = await stream.message()
    assert start["status"] == 200
    stream.headers = dict(start["headers"])
    yield stream
    stream.gone.set()
    while not task.done():
        while not stream.sent.empty():
            stream.sent.get_nowait()
        await asyncio.sleep(0)
    await task
    assert house.node._logs.fetches_parked == 0
    assert house.lifecycle.clients_waiting == 0
    assert house.app.door.counters.tails_open == 0


async def test_it_starts_at_the_end_and_follows(house) -> None:
    await house.produce("t", [{"value": "before"}])
    async with tail(house) as stream:
        assert stream.headers[b"content-type"].startswith(b"text/event-stream")
        await stream.message()  # the first comment: positions are taken
        await house.produce("t", [{"key": 1, "value": {"a": [1, 2]}, "timestamp": 9}])
        event = await stream.event()
        assert event["id"] == "0:1"
        assert json.loads(event["data"]) == {
            "topic": "t", "key": 1, "value": {"a": [1, 2]}, "partition": 0, "offset": 1, "timestamp": 9, "headers": [],
        }  # fmt: skip
        await house.produce("t", [{"value": 2}, {"value": 3}])
        assert [(await stream.record())["value"] for _ in range(2)] == [2, 3]


async def test_a_value_with_line_ends_stays_one_event(house) -> None:
    await house.client.post(
        "/topics/t", content=b'{"records":[{"value":{\r\n"a":\r1,\n\n"b":"\\n"}}]}', headers={"content-type": JSON}
    )
    async with tail(house, "offset=earliest&format=json") as stream:
        assert (await stream.record())["value"] == {"a": 1, "b": "\n"}


async def test_the_other_formats(house) -> None:
    await house.produce("t", [{"value": "v"}])
    async with tail(house, "offset=0&partition=0") as stream:
        assert (await stream.record())["value"] == "InYi"
    async with tail(house, "offset=0&partition=0&format=string") as stream:
        assert (await stream.record())["value"] == '"v"'


async def test_last_event_id_goes_on_after_it_and_wins_over_offset(house) -> None:
    await house.produce("t", [{"value": n} for n in range(6)])
    async with tail(house, "offset=earliest&format=json", last_event_id="0:2") as stream:
        assert [(await stream.record())["value"] for _ in range(3)] == [3, 4, 5]
    async with tail(house, "format=json", last_event_id="0:-1") as stream:
        assert (await stream.record())["value"] == 0


async def test_resuming_at_any_event_of_all_partitions_loses_and_doubles_nothing(house) -> None:
    await house.node.create_topic("t", 3)
    for n in range(12):
        await house.produce("t", [{"value": n, "partition": n % 3}])
    expected = sorted((n % 3, n // 3) for n in range(12))
    for cut in range(13):
        seen, last = [], ""
        async with tail(house, "offset=earliest&format=json") as stream:
            for _ in range(cut):
                event = await stream.event()
                last = event["id"]
                record = json.loads(event["data"])
                seen.append((record["partition"], record["offset"]))
        async with tail(house, "offset=earliest&format=json", last_event_id=last) as stream:
            for _ in range(12 - cut):
                record = await stream.record()
                seen.append((record["partition"], record["offset"]))
        assert sorted(seen) == expected, f"cut after {cut}"


async def test_an_unreadable_record_is_told_and_passed(house) -> None:
    await house.node.create_topic("t", 1)
    await house.append("t", 0, [(0, None, b"1", ()), (0, None, b"plain", ()), (0, None, b"3", ())])
    async with tail(house, "offset=earliest&format=json") as stream:
        assert (await stream.record())["value"] == 1
        event = await stream.event()
        assert (event["event"], event["id"]) == ("unreadable", "0:1")
        told = json.loads(event["data"])
        assert (told["topic"], told["partition"], told["offset"], told["error_code"]) == ("t", 0, 1, 40601)
        assert (await stream.record())["value"] == 3


async def test_silence_is_broken_by_comments(house) -> None:
    await house.node.create_topic("t", 1)
    async with tail(house) as stream:
        assert (await stream.message())["body"] == b": t\n\n"
        assert (await stream.message())["body"] == b": keep-alive\n\n"
        assert (await stream.message())["body"] == b": keep-alive\n\n"


async def test_what_was_removed_before_it_was_read_is_a_gap(house) -> None:
    await house.produce("t", [{"value": n} for n in range(5)])
    await house.node.delete_records({house.node.topic("t").partition_ids[0]: 3})
    async with tail(house, last_event_id="0:0") as stream:
        event = await stream.event()
        assert (event["event"], event["id"]) == ("gap", "0:2")
        assert json.loads(event["data"]) == {"topic": "t", "partition": 0, "from_offset": 1, "to_offset": 3}
        assert json.loads((await stream.event())["data"])["offset"] == 3
    async with tail(house, "format=json", last_event_id="0:99") as stream:
        event = await stream.event()
        assert json.loads(event["data"]) == {"topic": "t", "partition": 0, "from_offset": 100, "to_offset": 5}
        await house.produce("t", [{"value": 5}])
        assert (await stream.record())["value"] == 5


async def test_a_deleted_topic_ends_the_stream_with_the_reason(house) -> None:
    topic = await house.node.create_topic("t", 2)
    async with tail(house) as stream:
        await stream.message()
        await house.node.delete_topic(topic)
        event = await stream.event()
        assert event["event"] == "error"
        assert json.loads(event["data"])["error_code"] == 40401
        assert await stream.event() == {}
        assert stream.ended


async def test_a_batch_nobody_can_decode_is_told_and_stepped_over(house) -> None:
    await house.node.create_topic("t", 1)
    bomb = encode_batch([(0, None, bytes(80 << 20), ())], codec=Codec.ZSTD)
    house.node.produce(house.node.topic("t").partition_ids[0], memoryview(bomb), acks=1)
    house.node.end_of_turn()
    await house.append("t", 0, [(0, None, b"7", ())])
    async with tail(house, "offset=earliest&format=json") as stream:
        event = await stream.event()
        assert (event["event"], json.loads(event["data"])["offset"], event["id"]) == ("unreadable", 0, "0:0")
        assert (await stream.record())["value"] == 7


async def test_damage_ends_the_stream_after_what_lies_before_it(house) -> None:
    await house.node.create_topic("t", 1)
    for n in range(2):
        await house.append("t", 0, [(0, None, b"%d" % n, ())])
    log = house.node._logs._log(house.node.topic("t").partition_ids[0])
    (damaged,) = log.read(1, 1 << 20, isolation=Isolation.READ_UNCOMMITTED).slices
    with open(damaged._file.path, "r+b") as file:
        file.seek(damaged.position + 65)
        file.write(b"\xff")
    async with tail(house, "offset=earliest&format=json") as stream:
        assert (await stream.record())["value"] == 0
        event = await stream.event()
        assert (event["event"], json.loads(event["data"])["error_code"]) == ("error", 50002)
        assert await stream.event() == {}


async def test_hanging_up_ends_the_stream(house) -> None:
    await house.node.create_topic("t", 1)
    async with tail(house, "") as stream:
        await stream.message()
        house.lifecycle.hang_up()
        while not stream.ended:
            assert await stream.event() == {}


async def test_a_reader_that_does_not_read_holds_one_piece_only(house) -> None:
    await house.node.create_topic("t", 1)
    for _ in range(40):
        await house.append("t", 0, [(0, None, b"x" * 1000, ())] * 100)  # 4 MB in all
    async with tail(house, "offset=earliest") as stream:
        for _ in range(200):  # turns of the loop in which nobody reads
            await asyncio.sleep(0)
        assert stream.sent.qsize() == 1
        seen = 0
        while seen < 4000:
            record = await stream.record()
            assert record["offset"] == seen
            seen += 1


@pytest.mark.parametrize(
    ("query", "last_event_id", "status", "error_code"),
    [
        ("offset=5&partition=0", "", 416, 41601),
        ("offset=1", "", 422, 40002),
        ("partition=2", "", 404, 40402),
        ("partition=-1", "", 400, 40002),
        ("format=xml", "", 400, 40002),
        ("offset=soon&partition=0", "", 400, 40002),
        ("filter=x", "", 400, 40002),
        ("", "0", 400, 40002),
        ("", "0:1;1:2", 400, 40002),
        ("", "0:" + "9" * 5000, 400, 40002),
    ],
)
async def test_a_wrong_request_has_a_status(
    house, query: str, last_event_id: str, status: int, error_code: int
) -> None:
    await house.node.create_topic("t", 2)
    headers = {"last-event-id": last_event_id} if last_event_id else {}
    answer = await house.client.get(f"/v1/topics/t/tail?{query}", headers=headers)
    assert (answer.status_code, answer.json()["error_code"]) == (status, error_code), answer.text


async def test_an_unknown_topic_and_a_too_wide_one(house) -> None:
    answer: httpx.Response = await house.client.get("/v1/topics/nope/tail")
    assert (answer.status_code, answer.json()["error_code"]) == (404, 40401)
    await house.node.create_topic("wide", 65)
    answer = await house.client.get("/v1/topics/wide/tail")
    assert (answer.status_code, answer.json()["error_code"]) == (422, 42206)
