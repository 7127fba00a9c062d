"""Producing over HTTP: formats, placement, refusals, hostile bodies."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections import defaultdict

import httpx
import pytest
from aiokafka.partitioner import DefaultPartitioner

from api.http.app import create_app
from api.http.door import HttpLimits
from api.http.formats import Format
from api.http.produce import plan_batches
from logstore.record.batch import check, iter_headers
from logstore.record.records import iter_records

JSON = "application/vnd.kafka.json.v2+json"
BINARY = "application/vnd.kafka.binary.v2+json"
STRING = "application/vnd.kafka.string.v2+json"


async def post(house, path: str, body: bytes | str, content_type: str | None = JSON, **query) -> httpx.Response:
    headers = {} if content_type is None else {"content-type": content_type}
    return await house.client.post(path, content=body, headers=headers, params=query)


def told(answer: httpx.Response, status: int, error_code: int) -> str:
    """Check a refusal's shape; returns its message."""
    body = answer.json()
    assert (answer.status_code, body["error_code"]) == (status, error_code), body
    assert set(body) == {"error_code", "message"}
    assert answer.headers["content-type"].startswith("application/json")
    return body["message"]


# --- what is stored --------------------------------------------------------------------------------------------------


async def test_json_values_are_stored_as_they_stand_in_the_body(house) -> None:
    values = [b'{"b" : 1,  "a":[1.0, 1e3]}', b'"text \\u00e9 \xc3\xa9"', b"12.50", b"true", b"[]", b'{"a":1,"a":2}']
    body = b'{"records":[' + b",".join(b'{"key": "k%d" ,"value" : %s }' % pair for pair in enumerate(values)) + b"]}"
    answer = await post(house, "/topics/t", body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.kafka.v2+json"
    assert answer.json() == {
        "offsets": [{"partition": 0, "offset": n, "error_code": None, "error": None} for n in range(len(values))],
        "key_schema_id": None,
        "value_schema_id": None,
    }
    read = await house.read("t", accept=BINARY)
    assert [base64.b64decode(record["value"]) for record in read] == values
    assert [base64.b64decode(record["key"]) for record in read] == [b'"k%d"' % n for n in range(len(values))]


@pytest.mark.parametrize(
    ("media_type", "key", "value"),
    [
        (JSON, {"id": 7}, ["a", None, 1.5, {"ü": "☃"}]),
        ("application/json; charset=utf-8", "k", "v"),
        (BINARY, base64.b64encode(bytes(range(256))).decode(), "AP8="),
        (STRING, "ключ", 'line\nbreak "quoted" \u0000'),
    ],
    ids=["json", "plain", "binary", "string"],
)
async def test_a_record_comes_back_in_the_format_it_went_in(house, media_type: str, key, value) -> None:
    headers = [{"name": "trace", "value": "AAE="}, {"name": "empty", "value": None}]
    sent = {"key": key, "value": value, "timestamp": 1_700_000_000_123, "headers": headers}
    assert (await house.produce("t", [sent], media_type))[0]["offset"] == 0
    accept = media_type.partition(";")[0]
    assert await house.read("t", accept=accept) == [{"topic": "t", "partition": 0, "offset": 0, **sent}]


@pytest.mark.parametrize("media_type", [JSON, BINARY, STRING])
async def test_null_and_missing_are_no_key_and_a_tombstone(house, media_type: str) -> None:
    await house.produce("t", [{"key": None, "value": None}, {}], media_type)
    read = await house.read("t", accept=BINARY)
    assert [(record["key"], record["value"]) for record in read] == [(None, None), (None, None)]


async def test_an_empty_string_is_not_null(house) -> None:
    await house.produce("t", [{"key": "", "value": ""}], STRING)
    await house.produce("t", [{"key": "", "value": ""}], BINARY)
    assert [(r["key"], r["value"]) for r in await house.read("t", accept=STRING)] == [("", ""), ("", "")]


async def test_a_record_without_timestamp_gets_the_time(house) -> None:
    before = house.clock.now_ms()
    await house.produce("t", [{"value": 1}])
    (record,) = await house.read("t")
    assert before <= record["timestamp"] <= house.clock.now_ms()


# --- where it goes ---------------------------------------------------------------------------------------------------


async def test_keys_go_where_kafka_clients_put_them(house) -> None:
    partitions = list(range(7))
    await house.node.create_topic("t", len(partitions))
    chance = random.Random(5)
    keys = [chance.randbytes(chance.randint(0, 20)) for _ in range(200)]
    records = [{"key": base64.b64encode(key).decode(), "value": "AA=="} for key in keys]
    placed = await house.produce("t", records, BINARY)
    assert [each["partition"] for each in placed] == [DefaultPartitioner()(key, partitions, partitions) for key in keys]


async def test_order_within_a_partition_is_the_order_of_the_body(house) -> None:
    await house.node.create_topic("t", 3)
    placed = await house.produce("t", [{"key": n % 11, "value": n} for n in range(300)])
    offsets = defaultdict(list)
    for each in placed:
        offsets[each["partition"]].append(each["offset"])
    assert sum(map(len, offsets.values())) == 300
    for partition, found in offsets.items():
        assert found == list(range(len(found)))
        values = [record["value"] for record in await house.read("t", partition)]
        assert values == sorted(values)


async def test_keyless_records_of_a_request_stay_together_and_requests_take_turns(house) -> None:
    await house.node.create_topic("t", 3)
    taken = []
    for _ in range(6):
        placed = await house.produce("t", [{"value": 1}, {"value": 2}])
        assert placed[0]["partition"] == placed[1]["partition"]
        taken.append(placed[0]["partition"])
    assert taken[:3] == taken[3:]
    assert sorted(taken[:3]) == [0, 1, 2]


async def test_a_record_may_name_its_partition_and_a_wrong_one_fails_alone(house) -> None:
    await house.node.create_topic("t", 2)
    records = [{"value": 0, "partition": 1}, {"value": 1, "partition": 2}, {"value": 2, "partition": -1}, {"value": 3}]
    placed = await house.produce("t", records)
    assert (placed[0]["partition"], placed[0]["offset"], placed[0]["error_code"]) == (1, 0, None)
    for each in placed[1:3]:
        assert (each["partition"], each["offset"], each["error_code"]) == (None, None, 40402)
        assert "0..1" in each["error"]
    assert placed[3]["error_code"] is None


async def test_a_path_may_name_the_partition(house) -> None:
    await house.node.create_topic("t", 2)
    assert (await house.produce("t", [{"value": 0, "key": "any"}], where="/partitions/1"))[0]["partition"] == 1
    assert (await house.produce("t", [{"value": 0, "partition": 1}], where="/partitions/1"))[0]["offset"] == 1
    message = told(await post(house, "/topics/t/partitions/0", '{"records":[{"partition":1}]}'), 422, 42206)
    assert "partition 1" in message
    assert "0..1" in told(await post(house, "/topics/t/partitions/2", '{"records":[{"value":1}]}'), 404, 40402)
    told(await post(house, "/topics/t/partitions/x", '{"records":[{"value":1}]}'), 404, 40402)


async def test_one_batch_per_partition_and_more_only_above_the_topics_limit(house) -> None:
    await house.node.create_topic("small", 1, {"max.message.bytes": "1000"})
    records = [{"value": "x" * 300} for _ in range(10)] + [{"value": "y" * 2000}, {"value": "z"}]
    placed = await house.produce("small", records, STRING)
    refused = placed[10]
    assert (refused["offset"], refused["error_code"]) == (None, 41301)
    assert [each["offset"] for each in placed if each is not refused] == list(range(11))
    assert [r["value"][0] for r in await house.read("small", accept=STRING)] == list("xxxxxxxxxxz")


def test_split_batches_fit_and_hold_every_record_once() -> None:
    chance = random.Random(11)
    records = [
        {
            "key": None if chance.random() < 0.3 else "k" * chance.randint(0, 40),
            "value": None if chance.random() < 0.2 else "ü" * chance.randint(0, 150),
            "timestamp": chance.choice([0, 1, 2**62]),
            "headers": [{"name": "é" * chance.randint(0, 9), "value": "AAAA"}] * chance.randint(0, 2),
        }
        for _ in range(300)
    ]
    body = json.dumps({"records": records}).encode()
    plan = plan_batches(body, Format.STRING, "t", 2, None, 1, 5, 900)
    seen = []
    for batch in plan.batches:
        assert len(batch.data) <= 900
        header = check(memoryview(batch.data))
        assert header.size_bytes == len(batch.data)
        found = list(iter_records(batch.data))
        assert len(found) == len(batch.indexes)
        for at, record in zip(batch.indexes, found, strict=True):
            want = records[at]
            assert record.key == (None if want["key"] is None else want["key"].encode())
            assert record.value == (None if want["value"] is None else want["value"].encode())
            assert record.timestamp_ms == want["timestamp"]
            assert [name for name, _ in record.headers] == [each["name"] for each in want["headers"]]
        seen += batch.indexes
    assert sorted(seen) == list(range(300))
    whole = plan_batches(body, Format.STRING, "t", 2, None, 1, 5, 1 << 20)
    assert [sum(1 for _ in iter_headers(batch.data)) for batch in whole.batches] == [1, 1]


@pytest.mark.parametrize("acks", ["all", "-1", "1", "0"])
async def test_every_kind_of_acknowledgement_answers_offsets(house, acks: str) -> None:
    assert [each["offset"] for each in await house.produce("t", [{"value": 1}, {"value": 2}], acks=acks)] == [0, 1]


async def test_a_large_body_is_parsed_beside_the_loop_with_the_same_result(house) -> None:
    values = ["v" * 1000 + str(n) for n in range(200)]
    placed = await house.produce("t", [{"value": value} for value in values])
    assert [each["offset"] for each in placed] == list(range(200))
    assert [record["value"] for record in await house.read("t")] == values


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_an_unknown_topic_is_made_as_the_broker_says(house, tmp_path) -> None:
    await house.produce("made", [{"value": 1}])
    assert len(house.node.topic("made").partition_ids) == 1
    object.__setattr__(house.node.config, "auto_create_topics_enable", False)
    assert "other" in told(await post(house, "/topics/other", '{"records":[{"value":1}]}'), 404, 40401)


async def test_a_refused_body_makes_no_topic(house) -> None:
    told(await post(house, "/topics/t", "{}"), 422, 42203)
    assert "t" not in house.node.image.topics


async def test_a_topic_name_that_cannot_be(house) -> None:
    told(await post(house, "/topics/a%20b", '{"records":[{"value":1}]}'), 422, 40002)
    told(await post(house, "/topics/" + "x" * 250, '{"records":[{"value":1}]}'), 422, 40002)


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/vnd.kafka.avro.v2+json", "/"],
)
async def test_a_content_type_that_is_not_taken(house, content_type: str | None) -> None:
    message = told(await post(house, "/topics/t", '{"records":[{"value":1}]}', content_type), 415, 41501)
    assert JSON in message


async def test_a_compressed_body_is_named_as_such(house) -> None:
    headers = {"content-type": JSON, "content-encoding": "gzip"}
    answer = await house.client.post("/topics/t", content=b"\x1f\x8b", headers=headers)
    assert "gzip" in told(answer, 415, 41501)


BAD_BODIES = [
    (JSON, b"", 400, 40002),
    (JSON, b"{", 400, 40002),
    (JSON, b"\x00\xff", 400, 40002),
    (JSON, b'{"records":[{"value":NaN}]}', 400, 40002),
    (JSON, b'{"records":[{"value":Infinity}]}', 400, 40002),
    (JSON, b'{"records":[{"value":01}]}', 400, 40002),
    (JSON, b'{"records":[{"value":"\xff"}]}', 400, 40002),
    (JSON, b'{"records":[{"value":"\xed\xa0\x80"}]}', 400, 40002),
    (JSON, b'{"records":[{"value":"\\ud800"}]}', 400, 40002),
    (JSON, b'{"records":[{"value":"a\nb"}]}', 400, 40002),
    (JSON, b'{"records":[{"value":[1,]}]}', 400, 40002),
    (JSON, b'{"records":[{"value":1}]}{"records":[]}', 400, 40002),
    (JSON, b'{"records":[{"value":1}]', 400, 40002),
    (JSON, b'{"records":[{"value":' + b"[" * 50_000 + b"]" * 50_000 + b"}]}", 400, 40002),
    (STRING, b"[" * 100_000, 422, 42203),
    (JSON, b"[]", 422, 42203),
    (JSON, b"null", 422, 42203),
    (JSON, b"{}", 422, 42203),
    (JSON, b'{"records":{}}', 422, 42203),
    (JSON, b'{"records":[1]}', 422, 42203),
    (JSON, b'{"records":[null]}', 422, 42203),
    (JSON, b'{"records":[{"valeu":1}]}', 422, 42203),
    (JSON, b'{"records":[{"partition":"0"}]}', 422, 42203),
    (JSON, b'{"records":[{"partition":1.5}]}', 422, 42203),
    (JSON, b'{"records":[{"timestamp":-1}]}', 422, 42203),
    (JSON, b'{"records":[{"timestamp":9223372036854775808}]}', 422, 42203),
    (JSON, b'{"records":[{"headers":[{"name":"a","value":"?"}]}]}', 422, 42203),
    (JSON, b'{"records":[{"headers":[{"value":""}]}]}', 422, 42203),
    (BINARY, b'{"records":[{"value":"AAA"}]}', 422, 42203),
    (BINARY, b'{"records":[{"value":"A-_="}]}', 422, 42203),
    (BINARY, b'{"records":[{"value":"AA==\\n"}]}', 422, 42203),
    (BINARY, b'{"records":[{"value":7}]}', 422, 42203),
    (STRING, b'{"records":[{"value":{}}]}', 422, 42203),
    (STRING, b'{"records":[{"value":"\xff"}]}', 400, 40002),
    (JSON, b'{"records":[]}', 422, 42206),
]


async def test_a_bad_body_is_refused_whole(house) -> None:
    await house.node.create_topic("t", 1)
    for content_type, body, status, error_code in BAD_BODIES:
        assert told(await post(house, "/topics/t", body, content_type), status, error_code), body[:80]
    assert house.node.head(house.node.topic("t").partition_ids[0]).high_watermark == 0


async def test_a_number_beyond_every_integer_is_a_wrong_partition(house) -> None:
    await house.node.create_topic("t", 1)
    answer = await post(house, "/topics/t", b'{"records":[{"partition":%s}]}' % (b"9" * 40))
    assert answer.status_code == 200
    assert answer.json()["offsets"][0]["error_code"] == 40402


async def test_the_message_names_the_place(house) -> None:
    message = told(await post(house, "/topics/t", '{"records":[{"value":1},{"valeu":2}]}'), 422, 42203)
    assert "valeu" in message
    assert "records[" in message


@pytest.mark.parametrize("query", [{"acks": "2"}, {"acks": ""}, {"ack": "1"}, {"timeout": "1"}])
async def test_a_wrong_query_is_refused(house, query: dict[str, str]) -> None:
    message = told(await post(house, "/topics/t", '{"records":[{"value":1}]}', **query), 400, 40002)
    assert "acks" in message


async def test_a_body_above_the_limit_is_refused_by_its_length_and_by_its_bytes(house) -> None:
    body = b'{"records":[{"value":"' + b"x" * (2 << 20) + b'"}]}'
    assert str(2 << 20) in told(await post(house, "/topics/t", body), 413, 41301)

    async def chunks():
        for _ in range(40):
            yield b" " * 100_000

    answer = await house.client.post("/topics/t", content=chunks(), headers={"content-type": JSON})
    told(answer, 413, 41301)
    assert answer.headers["connection"] == "close"


async def test_a_body_that_does_not_come_ends_with_408(house) -> None:
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/topics/t", "query_string": b"",
        "headers": [(b"content-type", JSON.encode())],
    }  # fmt: skip
    await house.app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error_code"] == 40801


async def test_a_client_that_goes_while_sending_gets_nothing_and_harms_nobody(house) -> None:
    messages = [{"type": "http.request", "body": b'{"rec', "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/topics/t", "query_string": b"",
        "headers": [(b"content-type", JSON.encode())],
    }  # fmt: skip
    await house.app(scope, receive, send)
    assert sent == []
    assert house.node.image.topics == {}


async def test_a_topic_that_is_closed_under_the_request_shows_in_the_records(house) -> None:
    await house.node.create_topic("t", 1)
    image = house.node.topic("t")
    gone = house.node.image
    await house.node.delete_topic(image)
    house.node.image = gone  # what a request holds that began before
    placed = await house.produce("t", [{"value": 1}])
    assert placed[0]["error_code"] == 40401
    assert placed[0]["error"]


async def test_without_the_shim_the_answers_are_the_same(house) -> None:
    transport = httpx.ASGITransport(await house.app.rest())
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as plain:
        answer = await plain.post("/topics/t", json={"records": [{"value": 1}]})
        assert answer.json()["offsets"][0]["offset"] == 0
        told(await plain.post("/topics/t", content=b"{", headers={"content-type": JSON}), 400, 40002)
        read = await plain.get("/topics/t/partitions/0/records", params={"timeout": 0}, headers={"accept": JSON})
        assert [record["value"] for record in read.json()] == [1]


async def test_a_fault_of_ours_is_a_500_without_details(house) -> None:
    broken = create_app(None, clock=house.clock, lifecycle=house.lifecycle, limits=HttpLimits())  # type: ignore[arg-type]
    transport = httpx.ASGITransport(broken)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        answer = await client.post("/topics/t", json={"records": [{"value": 1}]})
    message = told(answer, 500, 50002)
    assert "NoneType" not in message
