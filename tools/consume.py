"""`logstore consume`: records to lines, over aiokafka."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from logstore.types import Offset, Record, TopicPartition
from tools.output import BOOTSTRAP, BootstrapOption, Failure, run_async
from tools.positions import Kind, Position, parse_position
from tools.records import Formatter, json_formatter, template_formatter

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

COMMIT_INTERVAL_S: Final = 1.0
WAIT_MS: Final = 500

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class Plan(NamedTuple):
    """When to stop, and how to print."""

    count_max: int | None
    exit_at_end: bool
    formatter: Formatter


@app.command()
def consume(
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC", show_default=False)],
    number: Annotated[int | None, typer.Option("--num", "-n", min=1, help="Stop after so many records.")] = None,
    offset: Annotated[
        str,
        typer.Option(
            "--offset",
            "-o",
            help="start, end, an offset, +N behind the start, -N before the end, @TIME (ms, or ISO date).",
        ),
    ] = "start",
    partitions: Annotated[
        str | None, typer.Option("--partitions", "-p", metavar="N,N", help="Only these partitions.", show_default=False)
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Read as a member of this group, and commit what was printed.")
    ] = None,
    output: Annotated[
        str,
        typer.Option("--format", "-f", help="json, or a template of %t %p %o %k %v %h %d \\n, with {hex} or {base64}."),
    ] = "%v\\n",
    exit_at_end: Annotated[
        bool, typer.Option("--exit-at-end", "-e", help="Stop once what is the end now has been printed.")
    ] = False,
    read_committed: Annotated[
        bool, typer.Option("--read-committed", help="Leave out open and aborted transactions.")
    ] = False,
    bootstrap: BootstrapOption = BOOTSTRAP,
) -> None:
    """Print records of topics, and go on printing until Ctrl-C.

    In a group --offset says where to begin where the group has not read yet: start or end.

    \b
    Examples:
        logstore consume orders -o start -e
        logstore consume orders -o @2026-01-01T00:00:00Z -f '%p/%o %k: %v\\n'
        logstore consume orders -g billing -n 100 -f json
    """
    position = parse_position("--offset", offset)
    formatter = json_formatter if output == "json" else template_formatter("%v\\n" if output == "text" else output)
    chosen = _partition_numbers(partitions)
    plan = Plan(number, exit_at_end, formatter)
    if group is not None and (chosen or position.kind not in (Kind.START, Kind.END)):
        raise typer.BadParameter(
            "a group chooses partitions and offsets itself: with --group, --offset is start or end, and no --partitions"
        )
    address, starts = _starts(bootstrap, topics, chosen, position, group is not None)
    options = {
        "bootstrap_servers": address,
        "group_id": group,
        "client_id": "logstore-consume",
        "enable_auto_commit": False,
        "auto_offset_reset": "latest" if position.kind is Kind.END else "earliest",
        "isolation_level": "read_committed" if read_committed else "read_uncommitted",
    }
    run_async(_consume(topics, starts, plan, options))


def _partition_numbers(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise typer.BadParameter(f"--partitions {text} is not a list of numbers, as in -p 0,2")
    return [int(part) for part in parts]


def _starts(
    bootstrap: str, topics: Sequence[str], chosen: Sequence[int], position: Position, is_group: bool
) -> tuple[str, dict[TopicPartition, Offset]]:
    """The address that answered, and the first offset of each partition (none in a group). Raises `Failure`."""
    from tools.client import EARLIEST, LATEST, Client

    with Client(bootstrap) as client:
        known = client.partitions(topics)
        if is_group:
            return client.bootstrap, {}
        for topic in topics:
            absent = sorted(set(chosen) - set(known[topic]))
            if absent:
                raise Failure(f"{topic} has no partition {absent[0]}", hint=f"it has {len(known[topic])}, from 0 on")
        wanted = [TopicPartition(topic, p) for topic in topics for p in (chosen or known[topic])]
        starts = client.offsets(dict.fromkeys(wanted, EARLIEST))
        ends = client.offsets(dict.fromkeys(wanted, LATEST))
        moments = client.offsets(dict.fromkeys(wanted, position.value)) if position.kind is Kind.TIME else {}
        return client.bootstrap, {p: _resolve(position, starts[p], ends[p], moments.get(p, -1)) for p in wanted}


def _resolve(position: Position, start: Offset, end: Offset, moment: Offset) -> Offset:
    """An offset within start..end."""
    match position.kind:
        case Kind.START:
            return start
        case Kind.END:
            return end
        case Kind.OFFSET:
            offset = position.value
        case Kind.PLUS:
            offset = start + position.value
        case Kind.MINUS:
            offset = end - position.value
        case Kind.TIME:
            offset = moment if moment >= 0 else end
    return min(max(offset, start), end)


async def _consume(
    topics: Sequence[str], starts: Mapping[TopicPartition, Offset], plan: Plan, options: dict[str, Any]
) -> None:
    from aiokafka import AIOKafkaConsumer
    from aiokafka import TopicPartition as ClientPartition
    from aiokafka.errors import KafkaError

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors come back as exceptions: said once is enough
    consumer = AIOKafkaConsumer(*(() if starts else topics), **options)
    try:
        await consumer.start()
        try:
            if starts:
                consumer.assign([ClientPartition(*partition) for partition in starts])
                for partition, offset in starts.items():
                    consumer.seek(ClientPartition(*partition), offset)
            await _print(consumer, plan, commits=options["group_id"] is not None)
        finally:
            await consumer.stop()
    except KafkaError as error:
        raise Failure(f"{', '.join(topics)}: {error}") from None


async def _print(consumer: AIOKafkaConsumer, plan: Plan, *, commits: bool) -> None:
    """Print until the plan says stop. What was printed, and no more, is committed once a second and at the end."""
    loop = asyncio.get_running_loop()
    ends: dict[Any, Offset] = {}
    printed: dict[Any, Offset] = {}
    left = plan.count_max
    committed_s = loop.time()
    try:
        while left is None or left > 0:
            if plan.exit_at_end and await _is_at_end(consumer, ends):
                return
            found = await consumer.getmany(timeout_ms=WAIT_MS, max_records=left)
            for where, messages in found.items():
                partition = TopicPartition(where.topic, where.partition)
                for m in messages:
                    record = Record(m.offset, m.timestamp, m.key, m.value, tuple(m.headers))
                    sys.stdout.buffer.write(plan.formatter(partition, record))
                if left is not None:
                    left -= len(messages)
            sys.stdout.buffer.flush()
            printed.update((where, messages[-1].offset + 1) for where, messages in found.items() if messages)
            if commits and loop.time() - committed_s >= COMMIT_INTERVAL_S:
                await _commit(consumer, printed)
                committed_s = loop.time()
    finally:
        if commits:
            await _commit(consumer, printed)


async def _commit(consumer: AIOKafkaConsumer, printed: dict[Any, Offset]) -> None:
    """Commit and forget what was printed of the partitions that are still this member's."""
    mine = {where: offset for where, offset in printed.items() if where in consumer.assignment()}
    printed.clear()
    if mine:
        await consumer.commit(mine)


async def _is_at_end(consumer: AIOKafkaConsumer, ends: dict[Any, Offset]) -> bool:
    """Whether every partition has been read up to what was its end when it was first seen."""
    assignment = consumer.assignment()
    new = [partition for partition in assignment if partition not in ends]
    if new:
        ends.update(await consumer.end_offsets(new))
    for partition in assignment:
        if await consumer.position(partition) < ends[partition]:
            return False
    return bool(assignment)
