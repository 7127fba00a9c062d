"""Reading over HTTP: where to start, how much, in what format, and what cannot be shown."""

from __future__ import annotations

import asyncio
import base64

import httpx
import pytest

from cluster.logs import FetchPart
from cluster.pending import Pending
from logstore.record.batch import read_header, stamp_offset
from logstore.record.compression import Codec
from logstore.record.control import EndMarker, MarkerType, encode_marker_batch
from logstore.record.records import encode_batch, rebuild_batch
from logstore.types import Isolation

JSON = "application/vnd.kafka.json.v2+json"
BINARY = "application/vnd.kafka.binary.v2+json"
STRING = "application/vnd.kafka.string.v2+json"


async def get(house, path: str = "/topics/t/partitions/0/records", accept: str = JSON, **query) -> httpx.Response:
    return await house.client.get(path, params={"timeout": 0, **query}, headers={"accept": accept})


def told(answer: httpx.Response, status: int, error_code: int) -> str:
    body = answer.json()
    assert (answer.status_code, body["error_code"]) == (status, error_code), body
    return body["message"]


async def numbers(house, **query) -> list[int]:
    return [record["value"] for record in await house.read("t", **query)]


async def test_offsets_and_timestamps_choose_the_start(house) -> None:
    await house.node.create_topic("t", 1)
    for n in range(3):
        batch = [(1_700_000_000_000 + 10 * n + m, None, b"%d" % (4 * n + m), ()) for m in range(4)]
        await house.append("t", 0, batch)
    assert await numbers(house) == list(range(12))
    assert await numbers(house, offset="earliest") == list(range(12))
    for offset in range(13):
        assert await numbers(house, offset=offset) == list(range(offset, 12))
    assert await numbers(house, offset="latest") == []
    assert await numbers(house, timestamp=1_700_000_000_010) == list(range(4, 12))
    assert await numbers(house, timestamp=1_700_000_000_012) == list(range(6, 12))
    assert await numbers(house, timestamp=0) == list(range(12))
    assert await numbers(house, timestamp=1_800_000_000_000) == []


async def test_next_offset_walks_through_everything_however_small_the_bites(house) -> None:
    await house.node.create_topic("t", 1)
    for n in range(5):
        await house.append("t", 0, [(n, None, b'"%s"' % (b"x" * (n * m)), ()) for m in range(9)], codec=n)
    offset, seen = 0, []
    while True:
        answer = await get(house, offset=offset, max_bytes=30)
        records = answer.json()
        if not records:
            break
        assert sum(len(record["value"]) + 2 for record in records[:-1]) <= 30
        seen += [record["offset"] for record in records]
        offset = int(answer.headers["logstore-next-offset"])
        assert offset == seen[-1] + 1
    assert seen == list(range(45))


class Slice:
    """A piece of a log as a fetch hands it out."""

    def __init__(self, *batches: bytearray) -> None:
        self._data = b"".join(batches)
        self.size_bytes = len(self._data)

    def view(self) -> memoryview:
        return memoryview(self._data)


async def test_batches_without_records_are_stepped_over(house) -> None:
    """A marker, and a batch that compaction has emptied: neither can be produced, so the fetch is a fake."""
    await house.node.create_topic("t", 1)
    marker = encode_marker_batch(EndMarker(MarkerType.ABORT, 0), producer_id=5, producer_epoch=0, timestamp_ms=1)
    full = encode_batch([(0, None, b"1", ()), (0, None, b"2", ())])
    emptied = rebuild_batch(read_header(full), [])
    after = encode_batch([(0, None, b"3", ())])
    for batch, offset in ((emptied, 0), (marker, 2), (after, 3)):
        stamp_offset(batch, 0, offset, 0)
    asked = []
    for following, expected in ([], ([], "3")), ([after], ([3], "4")):
        pieces = [[Slice(emptied)], [Slice(marker)], [Slice(*following)] if following else []]

        def fetch(asks, limits, pieces=pieces):
            asked.append(asks[0].offset)
            slices = pieces.pop(0)
            return Pending.settled([FetchPart(None, slices, sum(each.size_bytes for each in slices), 0, 4, 4)])

        house.node.fetch = fetch
        answer = await get(house, timeout=1000)
        values = [record["value"] for record in answer.json()]
        assert (values, answer.headers["logstore-next-offset"]) == expected
    assert asked == [0, 2, 3] * 2


async def test_a_reader_waits_for_the_first_record(house) -> None:
    await house.node.create_topic("t", 1)
    waiting = asyncio.create_task(get(house, timeout=5000))
    while not house.lifecycle.clients_waiting:
        await asyncio.sleep(0)
    await house.produce("t", [{"value": 5}])
    answer = await waiting
    assert [record["value"] for record in answer.json()] == [5]
    assert house.lifecycle.clients_waiting == 0


async def test_nothing_in_time_is_an_empty_answer_that_says_where_to_go_on(house) -> None:
    await house.produce("t", [{"value": 5}])
    answer = await get(house, offset="latest", timeout=20)
    assert answer.json() == []
    assert answer.headers["logstore-next-offset"] == "1"


async def test_hanging_up_answers_a_waiting_reader(house) -> None:
    await house.node.create_topic("t", 1)
    waiting = asyncio.create_task(get(house, timeout=60_000))
    while not house.lifecycle.clients_waiting:
        await asyncio.sleep(0)
    house.lifecycle.hang_up()
    assert (await waiting).json() == []
    assert house.node._logs.fetches_parked == 0


async def test_a_reader_that_goes_leaves_nothing_parked(house) -> None:
    await house.node.create_topic("t", 1)
    gone = asyncio.Event()
    asked = [{"type": "http.request", "body": b"", "more_body": False}]
    sent = []

    async def receive():
        if asked:
            return asked.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/topics/t/partitions/0/records", "query_string": b"timeout=60000",
        "headers": [],
    }  # fmt: skip
    reading = asyncio.create_task(house.app(scope, receive, send))
    while not house.node._logs.fetches_parked:
        await asyncio.sleep(0)
    gone.set()
    await reading
    assert house.node._logs.fetches_parked == 0
    assert sent == []


async def test_a_topic_deleted_under_a_reader_is_told(house) -> None:
    topic = await house.node.create_topic("t", 1)
    waiting = asyncio.create_task(get(house, timeout=60_000))
    while not house.lifecycle.clients_waiting:
        await asyncio.sleep(0)
    await house.node.delete_topic(topic)
    told(await waiting, 404, 40401)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", BINARY),
        ("", BINARY),
        ("application/vnd.kafka.v2+json", BINARY),
        ("application/json", "application/json"),
        ("text/html, application/xml;q=0.9, */*;q=0.8", BINARY),
        (f"{BINARY};q=0.1, {STRING};q=0.9", STRING),
        (f"{STRING};q=0, {JSON};q=0.2", JSON),
        (STRING.upper(), STRING),
    ],
)
async def test_accept_chooses_the_format(house, accept: str, media_type: str) -> None:
    await house.produce("t", [{"value": "v"}])
    answer = await get(house, accept=accept)
    assert answer.headers["content-type"] == media_type
    value = base64.b64encode(b'"v"').decode() if media_type == BINARY else '"v"' if media_type == STRING else "v"
    assert answer.json()[0]["value"] == value


@pytest.mark.parametrize("accept", ["text/html", "application/vnd.kafka.avro.v2+json", "*/*;q=0", "a;q=x", ";;,,"])
async def test_an_accept_without_any_format_is_refused(house, accept: str) -> None:
    await house.node.create_topic("t", 1)
    assert JSON in told(await get(house, accept=accept), 406, 40601)


UNSHOWABLE = [
    (JSON, b"plain"),
    (JSON, b""),
    (JSON, b"NaN"),
    (JSON, b'"\xff"'),
    (JSON, b"{} {}"),
    (JSON, b"[" * 100_000 + b"]" * 100_000),
    (STRING, b"\xff\xfe"),
    (STRING, b"\xed\xa0\x80"),
]


async def test_a_record_that_the_format_cannot_show_is_named(house) -> None:
    for number, (accept, bad) in enumerate(UNSHOWABLE):
        for field in ("key", "value"):
            topic = f"{field}{number}"
            path = f"/topics/{topic}/partitions/0/records"
            await house.node.create_topic(topic, 1)
            good = (0, b"1", b"1", ())
            worse = (0, bad, b"1", ()) if field == "key" else (0, b"1", bad, ())
            await house.append(topic, 0, [good, good, worse, good])
            answer = await get(house, path, accept=accept)
            assert [record["offset"] for record in answer.json()] == [0, 1]
            assert answer.headers["logstore-next-offset"] == "2"
            message = told(await get(house, path, accept=accept, offset=2), 406, 40601)
            assert field in message
            assert "offset 2" in message
            assert BINARY in message
            assert len((await get(house, path, accept=BINARY, offset=2)).json()) == 2


async def test_header_names_that_are_no_utf8_are_shown_with_marks(house) -> None:
    await house.node.create_topic("t", 1)
    await house.append("t", 0, [(0, None, b"1", (("\udcff", b"x"),))])
    (record,) = await house.read("t")
    assert record["headers"] == [{"name": "�", "value": "eA=="}]


async def test_an_offset_outside_the_log_is_told_with_its_bounds(house) -> None:
    await house.produce("t", [{"value": n} for n in range(5)])
    await house.node.delete_records({house.node.topic("t").partition_ids[0]: 2})
    for offset in (1, 6, 2**63 - 1):
        assert "2..5" in told(await get(house, offset=offset), 416, 41601)


WRONG_QUERIES = [
    {"offset": "-1"},
    {"offset": "newest"},
    {"offset": ""},
    {"offset": "1.5"},
    {"offset": "١"},
    {"offset": str(2**63)},
    {"offset": "9" * 5000},
    {"offset": "1", "timestamp": "1"},
    {"timestamp": "yesterday"},
    {"max_bytes": "0"},
    {"max_bytes": str(1 << 40)},
    {"timeout": "-1"},
    {"timeout": "60001"},
    {"ofset": "1"},
]


async def test_a_wrong_query_is_refused(house) -> None:
    await house.node.create_topic("t", 1)
    for query in WRONG_QUERIES:
        assert next(iter(query)).replace("ofset", "offset") in told(await get(house, **query), 400, 40002), query


async def test_unknown_places_are_404(house) -> None:
    told(await get(house), 404, 40401)
    await house.node.create_topic("t", 2)
    for partition in ("2", "-1", "x", "00000000000000000000000"):
        told(await get(house, f"/topics/t/partitions/{partition}/records"), 404, 40402)


async def test_a_batch_nobody_can_decode_is_named_and_stepped_over(house) -> None:
    """Its CRC is right: a producer sent it so. Look-ups by time and what lies behind it go on."""
    await house.node.create_topic("t", 1)
    bomb = encode_batch([(1_000, None, bytes(80 << 20), ())], codec=Codec.ZSTD)
    partition_id = house.node.topic("t").partition_ids[0]
    house.node.produce(partition_id, memoryview(bomb), acks=1)
    house.node.end_of_turn()
    await house.append("t", 0, [(2_000, None, b"7", ())])
    said = told(await get(house, offset=0), 406, 40601)
    assert "offset 0 cannot be shown" in said
    assert "go on at offset 1" in said
    assert house.node.list_offset(partition_id, 500, Isolation.READ_UNCOMMITTED) == (1_000, 0)
    assert [record["value"] for record in await house.read("t", timestamp=1_500)] == [7]


async def test_damage_is_told_and_what_lies_before_it_is_not_lost(house) -> None:
    await house.node.create_topic("t", 1)
    for n in range(3):
        await house.append("t", 0, [(0, None, b"%d" % n, ())])
    image = house.node.topic("t")
    log = house.node._logs._log(image.partition_ids[0])
    (first, *_) = log.read(1, 1 << 20, isolation=Isolation.READ_UNCOMMITTED).slices
    path = first._file.path
    with open(path, "r+b") as file:
        file.seek(first.position + 65)
        byte = file.read(1)
        file.seek(first.position + 65)
        file.write(bytes([byte[0] ^ 1]))
    assert [record["value"] for record in await house.read("t")] == [0]
    assert "offset 1 is damaged" in told(await get(house, offset=1), 500, 50002)
    assert [record["value"] for record in await house.read("t", offset=2)] == [2]
