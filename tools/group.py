"""`logstore group`: list, describe, reset and delete consumer groups of a running server."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer

from api.kafka import codec
from api.kafka.messages.consumer_protocol_assignment import DATA as ASSIGNMENT
from api.kafka.messages.consumer_protocol_assignment import ConsumerProtocolAssignment
from api.kafka.messages.delete_groups import DeleteGroupsRequest, DeleteGroupsResponse
from api.kafka.messages.describe_groups import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from api.kafka.messages.list_groups import ListGroupsRequest, ListGroupsResponse
from api.kafka.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from api.kafka.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchResponse
from cluster.error_codes import ErrorCode
from logstore.errors import LogstoreError
from logstore.types import Offset, TopicPartition
from tools.client import EARLIEST, LATEST, Client, by_topic, check, outcome, refusal
from tools.output import BOOTSTRAP, BootstrapOption, Failure, Format, FormatOption, print_json, print_table, report
from tools.positions import Kind, Position, parse_position

OFFSET_COMMIT: Final = 8
OFFSET_FETCH: Final = 9
DESCRIBE_GROUPS: Final = 15
LIST_GROUPS: Final = 16
DELETE_GROUPS: Final = 42

# From version 10 on these two name topics by id; names are what people type and read.
_BY_NAME_VERSION_MAX: Final = 9
_NO_MEMBERS: Final = ("Empty", "Dead")
_INT16: Final = struct.Struct(">h")

app = typer.Typer(rich_markup_mode=None, add_completion=False, help="Consumer groups of a running server.")

Names = Annotated[list[str], typer.Argument(metavar="GROUP", show_default=False)]


class Lag(NamedTuple):
    """One line of the lag table. None: nothing committed, or nobody reads it."""

    topic: str
    partition: int
    current_offset: Offset | None
    log_end_offset: Offset
    lag: int | None
    member_id: str | None
    client_id: str | None
    host: str | None


@app.command("list")
def list_(bootstrap: BootstrapOption = BOOTSTRAP, output: FormatOption = Format.TEXT) -> None:
    """List groups with their state."""
    with Client(bootstrap) as client:
        answer = client.call(LIST_GROUPS, ListGroupsRequest(), ListGroupsResponse)
    check(answer.error_code, None, "groups")
    groups = sorted(answer.groups, key=lambda group: group.group_id)
    if output is Format.JSON:
        print_json(
            [
                {"group": g.group_id, "state": g.group_state, "type": g.group_type, "protocol": g.protocol_type}
                for g in groups
            ]
        )
    else:
        print_table(
            ["GROUP", "STATE", "TYPE"], [(g.group_id, g.group_state or None, g.group_type or None) for g in groups]
        )


@app.command()
def describe(groups: Names, bootstrap: BootstrapOption = BOOTSTRAP, output: FormatOption = Format.TEXT) -> None:
    """Show the state of groups, and how far each is behind in every partition."""
    described = []
    with Client(bootstrap) as client:
        for group in groups:
            coordinator = client.coordinator(group)
            state = _state(coordinator, group)
            committed = _committed(coordinator, group)
            if state.group_state == "Dead" and not committed:
                raise Failure(f"group {group} does not exist", hint="`logstore group list` shows those there are")
            described.append((state, _lags(client, state, committed)))
    if output is Format.JSON:
        print_json([_document(state, lags) for state, lags in described])
        return
    for number, (state, lags) in enumerate(described):
        strategy = f"  assignor {state.protocol_data}" if state.protocol_data else ""
        total = sum(lag.lag or 0 for lag in lags)
        print("\n" * bool(number) + f"{state.group_id}  {state.group_state}  members {len(state.members)}", end="")
        print(f"{strategy}  lag {total}\n")
        print_table([field.upper().replace("_", "-") for field in Lag._fields], lags)


@app.command()
def reset(
    group: Annotated[str, typer.Argument(metavar="GROUP", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="start, end, an offset, @TIME, or +N / -N from where the group is.", show_default=False
        ),
    ],
    topic: Annotated[
        list[str] | None, typer.Option("--topic", "-t", help="Only this topic; the default is all the group has read.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the new offsets, commit nothing.")] = False,
    bootstrap: BootstrapOption = BOOTSTRAP,
    output: FormatOption = Format.TEXT,
) -> None:
    """Set where a group without members goes on reading.

    Offsets outside a partition are moved to its nearest end. A group that does not exist is made, if --topic is given.

    \b
    Examples:
        logstore group reset billing --to start --dry-run
        logstore group reset billing --topic orders --to @2026-01-01T00:00:00Z
    """
    position = parse_position("--to", to)
    with Client(bootstrap) as client:
        coordinator = client.coordinator(group)
        state = _state(coordinator, group)
        if state.group_state not in _NO_MEMBERS:
            count = len(state.members)
            raise Failure(
                f"group {group} is {state.group_state} with {count} member{'s' * (count != 1)}",
                hint="stop them first: they would go on from where they are",
            )
        committed = _committed(coordinator, group)
        wanted = _wanted(client, group, committed, topic or [])
        targets = _targets(client, position, wanted, committed)
        if not dry_run:
            _commit(coordinator, group, targets)
    changes = [(*partition, committed.get(partition), offset) for partition, offset in sorted(targets.items())]
    if output is Format.JSON:
        print_json([dict(zip(("topic", "partition", "from", "to"), change, strict=True)) for change in changes])
    else:
        print_table(["TOPIC", "PARTITION", "FROM", "TO"], changes)


@app.command()
def delete(groups: Names, bootstrap: BootstrapOption = BOOTSTRAP, output: FormatOption = Format.TEXT) -> None:
    """Delete groups without members, and their offsets."""
    results = []
    with Client(bootstrap) as client:
        for group in groups:
            answer = client.coordinator(group).call(
                DELETE_GROUPS, DeleteGroupsRequest(groups_names=[group]), DeleteGroupsResponse
            )
            results += answer.results
    report([(r.group_id, outcome(r.error_code, None, "deleted"), r.error_code) for r in results], output)


# --- what the server knows --------------------------------------------------------------------------------------------


def _state(coordinator: Client, group: str) -> DescribedGroup:
    """The group; one that does not exist has the state Dead."""
    answer = coordinator.call(DESCRIBE_GROUPS, DescribeGroupsRequest(groups=[group]), DescribeGroupsResponse)
    state = answer.groups[0] if answer.groups else DescribedGroup(group_id=group, group_state="Dead")
    if state.error_code == ErrorCode.GROUP_ID_NOT_FOUND:
        return DescribedGroup(group_id=group, group_state="Dead")
    check(state.error_code, state.error_message, f"group {group}")
    return state


def _committed(coordinator: Client, group: str) -> dict[TopicPartition, Offset]:
    request = OffsetFetchRequest(
        groups=[OffsetFetchRequestGroup(group_id=group, topics=None)], group_id=group, topics=None
    )
    answer = coordinator.call(OFFSET_FETCH, request, OffsetFetchResponse, _BY_NAME_VERSION_MAX)
    if answer.groups and answer.groups[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND:
        return {}
    check(answer.groups[0].error_code if answer.groups else answer.error_code, None, f"offsets of group {group}")
    topics: Sequence[Any] = answer.groups[0].topics if answer.groups else answer.topics
    return {
        TopicPartition(topic.name, p.partition_index): p.committed_offset
        for topic in topics
        for p in topic.partitions
        if p.committed_offset >= 0
    }


def _lags(client: Client, state: DescribedGroup, committed: Mapping[TopicPartition, Offset]) -> list[Lag]:
    readers = {partition: member for member in state.members for partition in _assigned(state, member)}
    partitions = sorted(committed.keys() | readers.keys())
    known = {
        topic.name for topic in client.metadata(sorted({p.topic for p in partitions})).topics if not topic.error_code
    }
    ends = client.offsets({p: LATEST for p in partitions if p.topic in known}) if known else {}
    lags = []
    for partition, end in sorted(ends.items()):
        at, reader = committed.get(partition), readers.get(partition)
        lag = None if at is None else max(end - at, 0)
        who = (reader.member_id, reader.client_id, reader.client_host) if reader else (None, None, None)
        lags.append(Lag(partition.topic, partition.partition, at, end, lag, *who))
    return lags


def _assigned(state: DescribedGroup, member: DescribedGroupMember) -> list[TopicPartition]:
    """What a member reads. Assignments of other protocols than the consumer's are bytes nobody here understands."""
    raw = memoryview(member.member_assignment)
    if state.protocol_type != "consumer" or len(raw) < _INT16.size:
        return []
    try:
        version = min(_INT16.unpack_from(raw)[0], ASSIGNMENT.last)
        assignment = codec.read_payload(ASSIGNMENT, version, raw, _INT16.size)
    except LogstoreError:
        return []
    assert isinstance(assignment, ConsumerProtocolAssignment)
    return [TopicPartition(one.topic, p) for one in assignment.assigned_partitions for p in one.partitions]


def _document(state: DescribedGroup, lags: Sequence[Lag]) -> dict[str, Any]:
    return {
        "group": state.group_id,
        "state": state.group_state,
        "protocol": state.protocol_type,
        "assignor": state.protocol_data,
        "members": [
            {
                "member_id": m.member_id,
                "group_instance_id": m.group_instance_id,
                "client_id": m.client_id,
                "host": m.client_host,
                "partitions": [list(p) for p in _assigned(state, m)],
            }
            for m in state.members
        ],
        "lag": sum(lag.lag or 0 for lag in lags),
        "partitions": [lag._asdict() for lag in lags],
    }


# --- reset ------------------------------------------------------------------------------------------------------------


def _wanted(
    client: Client, group: str, committed: Mapping[TopicPartition, Offset], topics: Sequence[str]
) -> list[TopicPartition]:
    if topics:
        found = client.partitions(topics)
        return [TopicPartition(topic, p) for topic, partitions in found.items() for p in partitions]
    if not committed:
        raise Failure(f"group {group} has no offsets", hint="name the topics with --topic")
    return sorted(committed)


def _targets(
    client: Client, position: Position, wanted: Sequence[TopicPartition], committed: Mapping[TopicPartition, Offset]
) -> dict[TopicPartition, Offset]:
    """The new offset of each partition, within its ends."""
    starts = client.offsets(dict.fromkeys(wanted, EARLIEST))
    ends = client.offsets(dict.fromkeys(wanted, LATEST))
    moments = client.offsets(dict.fromkeys(wanted, position.value)) if position.kind is Kind.TIME else {}
    targets = {}
    for partition in wanted:
        start, end = starts[partition], ends[partition]
        here = committed.get(partition)
        match position.kind:
            case Kind.START:
                offset = start
            case Kind.END:
                offset = end
            case Kind.OFFSET:
                offset = position.value
            case Kind.TIME:
                offset = moments[partition] if moments[partition] >= 0 else end
            case _ if here is None:
                raise Failure(f"{partition} has no offset to move from", hint="use --to start, end or an offset")
            case Kind.PLUS:
                offset = here + position.value
            case Kind.MINUS:
                offset = here - position.value
        targets[partition] = min(max(offset, start), end)
    return targets


def _commit(coordinator: Client, group: str, targets: Mapping[TopicPartition, Offset]) -> None:
    topics = [
        OffsetCommitRequestTopic(
            name=topic,
            partitions=[OffsetCommitRequestPartition(partition_index=i, committed_offset=o) for i, o in partitions],
        )
        for topic, partitions in by_topic(targets.items())
    ]
    answer = coordinator.call(
        OFFSET_COMMIT, OffsetCommitRequest(group_id=group, topics=topics), OffsetCommitResponse, _BY_NAME_VERSION_MAX
    )
    refused = [
        f"{topic.name}-{p.partition_index}: {problem.text}"
        for topic in answer.topics
        for p in topic.partitions
        if (problem := refusal(p.error_code, None)) is not None
    ]
    if refused:
        set_count = len(targets) - len(refused)
        raise Failure(f"group {group}: {'; '.join(refused)}", hint=f"{set_count} other partitions were set")
