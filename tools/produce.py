"""`logstore produce`: lines or JSON lines to records, over aiokafka, idempotent and acknowledged by default."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from logstore.types import Header
from tools.output import BOOTSTRAP, BootstrapOption, Failure, Format, note, print_json, run_async
from tools.records import NewRecord, Parser, json_parser, line_parser, parse_line

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

REQUEST_BYTES_MAX: Final = 100 << 20  # what a broker takes by default; smaller limits are the topic's to refuse
CHUNK_BYTES: Final = 1 << 18
ANSWER_S_MAX: Final = 30.0
STOP_S_MAX: Final = 2.0

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class Input(StrEnum):
    LINES = "lines"
    JSON = "json"


class Acks(StrEnum):
    ALL = "all"
    ONE = "1"
    NONE = "0"


class Codec(StrEnum):
    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


@app.command()
def produce(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", show_default=False)],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Read in turn; the default is stdin.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="The same key for every record.")] = None,
    key_delimiter: Annotated[
        str | None, typer.Option("--key-delimiter", "-K", help="What stands between key and value in a line.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="For every record. Repeatable.")
    ] = None,
    compression: Annotated[Codec, typer.Option("--compression", "-z", help="Codec of the batches.")] = Codec.NONE,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", min=0, help="Send all to this one instead of choosing by key.")
    ] = None,
    acks: Annotated[Acks, typer.Option("--acks", help="all: on disk; 1: taken; 0: not waited for.")] = Acks.ALL,
    tombstone: Annotated[bool, typer.Option("--tombstone", "-Z", help="An empty value deletes its key.")] = False,
    input_: Annotated[
        Input, typer.Option("--input", "-f", help="What a line is: a value, or a JSON object.")
    ] = Input.LINES,
    output: Annotated[
        Format,
        typer.Option("--format", envvar="LOGSTORE_FORMAT", help="The summary: text on stderr, or JSON on stdout."),
    ] = Format.TEXT,
    bootstrap: BootstrapOption = BOOTSTRAP,
) -> None:
    """Write one record per line of stdin or of files.

    A JSON line may have "key", "value" (or "key_base64", "value_base64"), "headers", "timestamp" (ms) and "partition".
    Values that are not text are written as JSON, no value is a tombstone. Records before a line that does not parse are
    written, those behind it are not.

    \b
    Examples:
        echo hello | logstore produce greetings
        logstore produce users -K : users.txt
        logstore consume orders -o start -e -f json | logstore produce copy -f json
    """
    headers = tuple(_header(text) for text in header or [])
    fixed_key = None if key is None else os.fsencode(key)
    if input_ is Input.JSON:
        if key_delimiter is not None:
            raise typer.BadParameter("--key-delimiter is for lines; a JSON line has its own key")
        parser = json_parser(fixed_key, headers, tombstone)
    else:
        if key is not None and key_delimiter is not None:
            raise typer.BadParameter("--key and --key-delimiter exclude each other")
        if key_delimiter == "":
            raise typer.BadParameter("--key-delimiter is empty, write for example -K :")
        parser = line_parser(fixed_key, os.fsencode(key_delimiter) if key_delimiter else None, headers, tombstone)
    addresses = _ready(bootstrap, topic)
    options = {
        "bootstrap_servers": addresses,
        "acks": acks.value if acks is Acks.ALL else int(acks.value),
        "enable_idempotence": acks is Acks.ALL,
        "compression_type": None if compression is Codec.NONE else compression.value,
    }
    tally = Tally(topic)
    try:
        run_async(_send(tally, parser, files or [], partition, options))
    finally:
        tally.report(output)
    if tally.failed:
        raise Failure(f"{tally.failed} record{'s' * (tally.failed != 1)} not written: {tally.first_error}")


class Tally:
    """What became of the records: offsets by partition, failures."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.written: dict[int, list[int]] = {}
        """Partition -> count, first and last offset; the offsets are -1 where the server told none."""
        self.unconfirmed = 0
        """Sent with acks 0: nobody knows what became of them."""
        self.sent = 0
        self.settled = 0
        self.failed = 0
        self.first_error = ""

    def settle(self, future: asyncio.Future[Any]) -> None:
        """Called with each record's answer."""
        self.settled += 1
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            self.failed += 1
            self.first_error = self.first_error or _describe(error)
            return
        answer = future.result()
        if answer is None:
            self.unconfirmed += 1
            return
        offset = -1 if answer.offset is None else answer.offset
        seen = self.written.setdefault(answer.partition, [0, offset, offset])
        seen[0] += 1
        seen[1], seen[2] = min(seen[1], offset), max(seen[2], offset)

    def report(self, output: Format) -> None:
        partitions = [
            {"partition": p, "count": count, "first_offset": first, "last_offset": last}
            for p, (count, first, last) in sorted(self.written.items())
        ]
        count = sum(seen[0] for seen in self.written.values()) + self.unconfirmed
        if output is Format.JSON:
            print_json({"topic": self.topic, "count": count, "failed": self.failed, "partitions": partitions})
        else:
            where = "".join(
                f", partition {p}" + (f": {first}-{last}" if first >= 0 else "")
                for p, (_, first, last) in sorted(self.written.items())
            )
            where += ", sent without waiting for an answer" * bool(self.unconfirmed)
            note(f"{self.topic}: {count} record{'s' * (count != 1)}{where}")


async def _send(
    tally: Tally, parser: Parser, files: Sequence[Path], partition: int | None, options: dict[str, Any]
) -> None:
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors come back as exceptions: said once is enough
    producer = AIOKafkaProducer(
        client_id="logstore-produce",
        linger_ms=5,
        max_batch_size=CHUNK_BYTES,
        max_request_size=REQUEST_BYTES_MAX,
        **options,
    )
    patience_s = ANSWER_S_MAX
    try:
        await producer.start()
        try:
            known = await producer.partitions_for(tally.topic)
            async for where, line in _lines(files):
                await _send_one(producer, tally, parse_line(parser, line, where), partition, known, where)
        except asyncio.CancelledError:  # Ctrl-C, SIGTERM: somebody waits
            patience_s = STOP_S_MAX
            raise
        finally:
            try:
                await drain(producer, tally, patience_s)
            finally:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(producer.stop(), STOP_S_MAX)
    except KafkaError as error:
        raise Failure(f"{tally.topic}: {_describe(error)}") from None


async def drain(producer: AIOKafkaProducer, tally: Tally, patience_s: float) -> None:
    """Wait for the answers that are owed, as long as some keep coming: an idempotent producer would retry for ever."""
    flushing = asyncio.ensure_future(producer.flush())
    while True:
        settled = tally.settled
        done, _ = await asyncio.wait({flushing}, timeout=patience_s)
        if done:
            flushing.result()
            return
        if tally.settled == settled:
            flushing.cancel()
            lost = tally.sent - settled
            raise Failure(f"{tally.topic}: no answer for {patience_s:g} s, {lost} records may or may not be written")


async def _send_one(
    producer: AIOKafkaProducer, tally: Tally, record: NewRecord, partition: int | None, known: set[int], where: str
) -> None:
    if record.key is None and record.value is None:
        raise Failure(f"{where} has neither key nor value", hint="a tombstone needs the key that it deletes")
    chosen = record.partition if partition is None else partition
    if chosen is not None and chosen not in known:
        raise Failure(f"{where}: {tally.topic} has no partition {chosen}", hint=f"it has {len(known)}, from 0 on")
    future = await producer.send(
        tally.topic,
        record.value,
        record.key,
        chosen,
        record.timestamp_ms,
        [(name, value) for name, value in record.headers],
    )
    tally.sent += 1
    future.add_done_callback(tally.settle)


async def _lines(files: Sequence[Path]) -> AsyncIterator[tuple[str, bytes]]:
    """Each line without its end, with the words that say where it is."""
    paths: Sequence[Path | None] = files or [None]
    for path in paths:
        name = "stdin" if path is None else str(path)
        try:
            descriptor = sys.stdin.fileno() if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Failure(f"cannot read {path}: {error.strerror}") from None
        try:
            number, begun = 0, bytearray()
            async for chunk in _chunks(descriptor):
                first, *more = chunk.split(b"\n")
                begun += first
                if len(begun) > REQUEST_BYTES_MAX:
                    raise Failure(f"{name} line {number + 1} is longer than {REQUEST_BYTES_MAX} bytes")
                if not more:
                    continue
                *whole, last = more
                for line in (bytes(begun), *whole):
                    number += 1
                    yield f"{name} line {number}", line
                begun = bytearray(last)
            if begun:
                yield f"{name} line {number + 1}", bytes(begun)
        except OSError as error:
            raise Failure(f"cannot read {name}: {error.strerror}") from None
        finally:
            if path is not None:
                os.close(descriptor)


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What comes from a file, pipe or terminal, without keeping the loop from sending what came before."""
    while True:
        await _readable(descriptor)
        if not (chunk := os.read(descriptor, CHUNK_BYTES)):
            return
        yield chunk


async def _readable(descriptor: int) -> None:
    """Wait until a read would not block. The watch ends with the first event: a second one would outlive the data."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def stop_watching() -> None:
        loop.remove_reader(descriptor)
        ready.set_result(None)

    try:
        loop.add_reader(descriptor, stop_watching)
    except PermissionError:  # a regular file: always readable, and the selector refuses it
        await asyncio.sleep(0)
        return
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _header(text: str) -> Header:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise typer.BadParameter(f"--header {text} is not NAME:VALUE, as in -H source:import")
    return name, os.fsencode(value)


def _ready(bootstrap: str, topic: str) -> str:
    """Make sure the server answers and has the topic, or makes it now; the address that answered."""
    from api.kafka.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
    from tools.client import METADATA, Client, check

    with Client(bootstrap) as client:
        request = MetadataRequest(topics=[MetadataRequestTopic(name=topic)], allow_auto_topic_creation=True)
        for found in client.call(METADATA, request, MetadataResponse).topics:
            check(found.error_code, None, f"topic {topic}")
        return client.bootstrap


def _describe(error: BaseException | None) -> str:
    if error is None:
        return "given up"
    code = getattr(error, "errno", None)
    if not error.args and isinstance(code, int) and code > 0:  # the server's own refusal
        from tools.client import outcome

        return outcome(code, None, "")
    text = str(error)
    return text if text and text != "None" else type(error).__name__
