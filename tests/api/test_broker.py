"""The server put together: it starts on a directory, answers both doors, and stops without keeping anyone waiting."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.broker import Broker
from api.kafka import codec
from api.kafka.messages import fetch as fe
from api.kafka.messages import join_group as jg
from api.kafka.messages import metadata as md
from cluster.config import BrokerConfig, ServeSettings
from logstore.errors import DirectoryLocked, InvalidConfig
from logstore.store import Store

HOST = "127.0.0.1"
FETCH, METADATA, JOIN = 1, 3, 11


def settings(path: Path, http: bool = False, kafka_port: int = 0) -> ServeSettings:
    return ServeSettings(path / "data", (HOST, kafka_port), (HOST, 0) if http else None, None, BrokerConfig())


class Talk:
    """One Kafka connection, a request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: tuple[str, int]) -> Talk:
        return cls(*await asyncio.open_connection(*address))

    def ask(self, api_key: int, version: int, message: Any) -> None:
        body = codec.write_request_header(api_key, version, 1, "test") + codec.write_request(api_key, version, message)
        self.writer.write(struct.pack(">i", len(body)) + body)

    async def answer(self, api_key: int, version: int) -> Any:
        (size,) = struct.unpack(">i", await self.reader.readexactly(4))
        reply = memoryview(await self.reader.readexactly(size))
        return codec.read_response(api_key, version, reply, codec.read_response_header(api_key, version, reply)[1])

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def call(self, api_key: int, version: int, message: Any) -> Any:
        self.ask(api_key, version, message)
        return await self.answer(api_key, version)


async def test_a_stop_answers_parked_fetches_and_joins_at_once(tmp_path: Path) -> None:
    broker = Broker(settings(tmp_path))
    kafka = (await broker.start()).kafka
    reader, member = await Talk.to(kafka), await Talk.to(kafka)
    await reader.call(METADATA, 9, md.MetadataRequest([md.MetadataRequestTopic(name="t")]))
    part = fe.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1000)
    topics = [fe.FetchTopic(topic="t", partitions=[part])]
    reader.ask(FETCH, 11, fe.FetchRequest(max_wait_ms=300_000, min_bytes=1, topics=topics))
    protocols = [jg.JoinGroupRequestProtocol("range", b"")]
    joining = jg.JoinGroupRequest("g", 10_000, 300_000, "", None, "consumer", protocols)
    first = await member.call(JOIN, 3, joining)
    other = await Talk.to(kafka)
    other.ask(JOIN, 3, joining)  # waits for the first to rejoin
    await member.call(METADATA, 9, md.MetadataRequest([]))  # all of that has been taken in
    begun = time.monotonic()
    await broker.stop()
    assert time.monotonic() - begun < 3, "the parked requests were waited for"
    assert (await reader.answer(FETCH, 11)).responses[0].partitions[0].error_code == 0
    assert first.error_code == 0
    assert (await other.answer(JOIN, 3)).error_code == 15
    assert await reader.reader.read() == b""
    for talk in (reader, member, other):
        await talk.close()


async def test_both_doors_answer_once_start_returns(tmp_path: Path) -> None:
    broker = Broker(settings(tmp_path, http=True))
    addresses = await broker.start()
    try:
        assert addresses.http is not None
        url = f"http://{HOST}:{addresses.http[1]}"
        async with httpx.AsyncClient(base_url=url) as client:
            sent = await client.post("/topics/t", json={"records": [{"value": 1}]})
            assert sent.json()["offsets"][0]["offset"] == 0
            assert (await client.get("/readyz")).status_code == 200
            scraped = (await client.get("/metrics")).text
        assert 'kafka_topic_partition_current_offset{partition="0",topic="t"} 1.0' in scraped
        assert "logstore_kafka_connections 0.0" in scraped
        assert "http://" in str(addresses)
        talk = await Talk.to(addresses.kafka)
        found = await talk.call(METADATA, 9, md.MetadataRequest(None))
        assert [topic.name for topic in found.topics] == ["t"]
        assert (found.brokers[0].host, found.brokers[0].port) == addresses.kafka
        await talk.close()
    finally:
        await broker.stop()


async def test_a_start_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    first = Broker(settings(tmp_path))
    addresses = await first.start()
    with pytest.raises(DirectoryLocked):
        await Broker(settings(tmp_path)).start()
    second = tmp_path / "second"
    second.mkdir()
    with pytest.raises(InvalidConfig):
        await Broker(settings(second, kafka_port=addresses.kafka[1])).start()
    await first.stop()
    again = Broker(settings(second, kafka_port=addresses.kafka[1]))
    assert (await again.start()).kafka == addresses.kafka
    await again.stop()


async def test_options_of_the_background_work_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Store] = []
    open_ = Store.open

    def noting(*args: Any, **named: Any) -> Store:
        opened.append(open_(*args, **named))
        return opened[-1]

    monkeypatch.setattr(Store, "open", noting)
    config = BrokerConfig(log_retention_check_interval_ms=1234)
    broker = Broker(ServeSettings(tmp_path / "data", (HOST, 0), None, None, config))
    await broker.start()
    await broker.stop()
    assert [store.retention_interval_ms for store in opened] == [1234]
