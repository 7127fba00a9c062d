"""Options of topics and of this broker as the config APIs show them: value, source, type, synonyms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from cluster.config import BROKER_OPTIONS, describe
from cluster.image import TopicImage
from cluster.node import Node
from logstore.config import OPTIONS, Option, format_option, parse_topic_config

TOPIC: Final = 2
BROKER: Final = 4

# Sources (DescribeConfigs version 1).
TOPIC_CONFIG: Final = 1
STATIC_BROKER_CONFIG: Final = 4
DEFAULT_CONFIG: Final = 5

# Types (DescribeConfigs version 3).
BOOLEAN: Final = 1
STRING: Final = 2
INT: Final = 3
LONG: Final = 5
DOUBLE: Final = 6
LIST: Final = 7
_INT32_MAX: Final = 2**31 - 1


class Described(NamedTuple):
    """One option of one resource. `synonyms` are (name, value, source), the one in force first."""

    name: str
    value: str | None
    source: int
    kind: int
    help: str
    synonyms: tuple[tuple[str, str | None, int], ...]


def describe_topic(node: Node, topic: TopicImage) -> Iterator[Described]:
    """Every option of a topic, in the order of their names: its own value, else the broker's."""
    defaults = node.topic_defaults
    config = parse_topic_config(topic.config, defaults)
    static = {known.topic: name for name, (_, known) in BROKER_OPTIONS.items() if known.topic}
    for name, (_, known) in sorted(OPTIONS.items()):
        default = format_option(defaults, name)
        broker_key = static.get(name, name)
        source = DEFAULT_CONFIG if default == format_option(_BUILT_IN, name) else STATIC_BROKER_CONFIG
        synonyms: tuple[tuple[str, str | None, int], ...] = ((broker_key, default, source),)
        if name in topic.config:
            source = TOPIC_CONFIG
            synonyms = ((name, format_option(config, name), TOPIC_CONFIG), *synonyms)
        yield Described(name, format_option(config, name), source, _kind(known), known.help, synonyms)


def describe_broker(node: Node) -> Iterator[Described]:
    """Every option of this broker, in the order of their names."""
    for each in sorted(describe(node.config)):
        source = DEFAULT_CONFIG if each.is_default else STATIC_BROKER_CONFIG
        kind = _kind(BROKER_OPTIONS[each.name][1])
        yield Described(each.name, each.value, source, kind, each.help, ((each.name, each.value, source),))


_BUILT_IN = parse_topic_config({})


def _kind(known: Option) -> int:
    if known.choices:
        return LIST if known.name == "cleanup.policy" else STRING
    if known.kind is bool:
        return BOOLEAN
    if known.kind is float:
        return DOUBLE
    if known.kind is not int:
        return STRING
    return INT if known.high is not None and known.high <= _INT32_MAX else LONG
