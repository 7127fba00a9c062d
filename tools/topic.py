"""`logstore topic`: create, list, describe, alter and delete topics of a running server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from api.kafka.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from api.kafka.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from api.kafka.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState
from api.kafka.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
)
from api.kafka.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from api.kafka.messages.metadata import MetadataResponseTopic
from cluster.error_codes import ErrorCode
from logstore.types import TopicPartition
from tools.client import EARLIEST, LATEST, Client, check, outcome
from tools.output import BOOTSTRAP, BootstrapOption, Format, FormatOption, print_json, print_table, report

CREATE_TOPICS: Final = 19
DELETE_TOPICS: Final = 20
DESCRIBE_CONFIGS: Final = 32
CREATE_PARTITIONS: Final = 37
INCREMENTAL_ALTER_CONFIGS: Final = 44

TOPIC_RESOURCE: Final = 2
SET_OPERATION: Final = 0
DELETE_OPERATION: Final = 1
TIMEOUT_MS: Final = 30_000
DRY_RUN: Final = " (dry run: nothing was changed)"

_SOURCES: Final[Mapping[int, str]] = {1: "topic", 2: "broker", 3: "broker", 4: "broker", 5: "default"}

app = typer.Typer(rich_markup_mode=None, add_completion=False, help="Topics of a running server.")

Names = Annotated[list[str], typer.Argument(metavar="NAME", show_default=False)]


@app.command()
def create(
    names: Names,
    partitions: Annotated[
        int, typer.Option("--partitions", "-p", help="How many; -1: num.partitions of the server.")
    ] = -1,
    config: Annotated[
        list[str] | None,
        typer.Option("--config", "-c", metavar="KEY=VALUE", help="An option of the topic. Repeatable."),
    ] = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="A topic that is there already is fine.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only, create nothing.")] = False,
    bootstrap: BootstrapOption = BOOTSTRAP,
    output: FormatOption = Format.TEXT,
) -> None:
    """Create topics.

    Example: logstore topic create orders payments -p 6 -c retention.ms=30d
    """
    configs = [CreatableTopicConfig(name=k, value=v) for k, v in key_values("--config", config or []).items()]
    topics = [CreatableTopic(name=n, num_partitions=partitions, replication_factor=-1, configs=configs) for n in names]
    request = CreateTopicsRequest(topics=topics, timeout_ms=TIMEOUT_MS, validate_only=dry_run)
    with Client(bootstrap) as client:
        answer = client.call(CREATE_TOPICS, request, CreateTopicsResponse)
    done = []
    for topic in answer.topics:
        exists = topic.error_code == ErrorCode.TOPIC_ALREADY_EXISTS
        said = "exists" if exists and if_not_exists else outcome(topic.error_code, topic.error_message, "created")
        done.append((topic.name, said, 0 if said == "exists" else topic.error_code))
    report(done, output, DRY_RUN if dry_run else "")


@app.command("list")
def list_(bootstrap: BootstrapOption = BOOTSTRAP, output: FormatOption = Format.TEXT) -> None:
    """List topics with their number of partitions."""
    with Client(bootstrap) as client:
        topics = sorted(client.metadata(None).topics, key=lambda topic: topic.name or "")
    if output is Format.JSON:
        print_json([_head(topic) for topic in topics])
    else:
        print_table(["NAME", "PARTITIONS"], [(topic.name, len(topic.partitions)) for topic in topics])


@app.command()
def describe(
    names: Names,
    partitions: Annotated[bool, typer.Option("--partitions", "-p", help="Every partition with its offsets.")] = False,
    bootstrap: BootstrapOption = BOOTSTRAP,
    output: FormatOption = Format.TEXT,
) -> None:
    """Show topics with their options, and with -p their partitions."""
    with Client(bootstrap) as client:
        topics = client.metadata(names).topics
        for topic in topics:
            check(topic.error_code, None, f"topic {topic.name}")
        configs = _configs(client, names)
        described = [
            _head(topic)
            | {"configs": {c.name: _config(c) for c in configs[topic.name or ""]}}
            | ({"partition_list": _partitions(client, topic)} if partitions else {})
            for topic in topics
        ]
    if output is Format.JSON:
        print_json(described)
        return
    for number, one in enumerate(described):
        print("\n" * bool(number) + f"{one['name']}  {one['partitions']} partitions  id {one['id']}\n")
        print_table(["OPTION", "VALUE", "FROM"], [(k, v["value"], v["source"]) for k, v in one["configs"].items()])
        if partitions:
            print()
            heads = ["partition", "leader", "replicas", "isr", "log_start_offset", "log_end_offset"]
            rows = [[_joined(p[head]) for head in heads] for p in one["partition_list"]]
            print_table([head.upper().replace("_", "-") for head in heads], rows)


@app.command()
def alter(
    names: Names,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Give an option a value. Repeatable.")
    ] = None,
    delete: Annotated[
        list[str] | None,
        typer.Option("--delete", metavar="KEY", help="Let an option go back to its default. Repeatable."),
    ] = None,
    partitions: Annotated[
        int | None, typer.Option("--partitions", "-p", min=1, help="How many there shall be: more than now.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only, change nothing.")] = False,
    bootstrap: BootstrapOption = BOOTSTRAP,
    output: FormatOption = Format.TEXT,
) -> None:
    """Change options of topics, or add partitions.

    Example: logstore topic alter orders --set retention.ms=7d --delete segment.bytes
    """
    changes = [
        AlterableConfig(name=k, config_operation=SET_OPERATION, value=v)
        for k, v in key_values("--set", set_ or []).items()
    ] + [AlterableConfig(name=k, config_operation=DELETE_OPERATION, value=None) for k in delete or []]
    if not changes and partitions is None:
        raise typer.BadParameter("nothing to alter: give --set, --delete or --partitions")
    done: list[tuple[str, str, int]] = []
    with Client(bootstrap) as client:
        if changes:
            resources = [AlterConfigsResource(TOPIC_RESOURCE, name, changes) for name in names]
            altered = client.call(
                INCREMENTAL_ALTER_CONFIGS,
                IncrementalAlterConfigsRequest(resources=resources, validate_only=dry_run),
                IncrementalAlterConfigsResponse,
            )
            done += [
                (r.resource_name, outcome(r.error_code, r.error_message, "altered"), r.error_code)
                for r in altered.responses
            ]
        if partitions is not None and not any(code for _, _, code in done):
            topics = [CreatePartitionsTopic(name=name, count=partitions, assignments=None) for name in names]
            grown = client.call(
                CREATE_PARTITIONS,
                CreatePartitionsRequest(topics=topics, timeout_ms=TIMEOUT_MS, validate_only=dry_run),
                CreatePartitionsResponse,
            )
            done += [
                (r.name, outcome(r.error_code, r.error_message, f"grown to {partitions} partitions"), r.error_code)
                for r in grown.results
            ]
    report(done, output, DRY_RUN if dry_run else "")


@app.command()
def delete(names: Names, bootstrap: BootstrapOption = BOOTSTRAP, output: FormatOption = Format.TEXT) -> None:
    """Delete topics with everything in them."""
    request = DeleteTopicsRequest(
        topics=[DeleteTopicState(name=name) for name in names], topic_names=list(names), timeout_ms=TIMEOUT_MS
    )
    with Client(bootstrap) as client:
        answer = client.call(DELETE_TOPICS, request, DeleteTopicsResponse)
    report(
        [(r.name or "", outcome(r.error_code, r.error_message, "deleted"), r.error_code) for r in answer.responses],
        output,
    )


def key_values(option: str, texts: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` texts by key. Raises wrong usage naming `option`."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{option} {text} is not KEY=VALUE, as in {option} retention.ms=7d")
        found[key.strip()] = value.strip()
    return found


def _head(topic: MetadataResponseTopic) -> dict[str, Any]:
    return {
        "name": topic.name,
        "id": str(topic.topic_id),
        "partitions": len(topic.partitions),
        "internal": topic.is_internal,
    }


def _config(config: DescribeConfigsResourceResult) -> dict[str, str | None]:
    return {"value": config.value, "source": _SOURCES.get(config.config_source, "other")}


def _configs(client: Client, names: Sequence[str]) -> dict[str, list[DescribeConfigsResourceResult]]:
    resources = [DescribeConfigsResource(TOPIC_RESOURCE, name, None) for name in names]
    answer = client.call(DESCRIBE_CONFIGS, DescribeConfigsRequest(resources=resources), DescribeConfigsResponse)
    for result in answer.results:
        check(result.error_code, result.error_message, f"options of {result.resource_name}")
    return {result.resource_name: sorted(result.configs, key=lambda c: c.name) for result in answer.results}


def _partitions(client: Client, topic: MetadataResponseTopic) -> list[dict[str, Any]]:
    partitions = sorted(topic.partitions, key=lambda p: p.partition_index)
    all_ = [TopicPartition(topic.name or "", p.partition_index) for p in partitions]
    starts, ends = (client.offsets(dict.fromkeys(all_, at)) for at in (EARLIEST, LATEST))
    return [
        {
            "partition": p.partition_index,
            "leader": p.leader_id,
            "replicas": p.replica_nodes,
            "isr": p.isr_nodes,
            "log_start_offset": starts[one],
            "log_end_offset": ends[one],
        }
        for p, one in zip(partitions, all_, strict=True)
    ]


def _joined(cell: object) -> object:
    return ",".join(map(str, cell)) if isinstance(cell, list) else cell
