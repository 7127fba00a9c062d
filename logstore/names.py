"""Names of topics and of the directories that hold their partitions. A leaf, pure."""

from __future__ import annotations

import re
from typing import Final

from logstore.errors import InvalidTopicName
from logstore.types import TopicPartition

TOPIC_NAME_CHARS_MAX: Final = 249
_TOPIC_NAME: Final = re.compile(r"[a-zA-Z0-9._-]+")
_PARTITION_DIR: Final = re.compile(r"([a-zA-Z0-9._-]+)-(0|[1-9][0-9]{0,9})")
_RETIRED_SUFFIXES: Final = ("-delete", "-stray", "-future")
_FILE_NAME_CHARS_MAX: Final = 255


def validate_topic_name(name: str) -> None:
    """Kafka's rule (org.apache.kafka.common.internals.Topic). Raises `InvalidTopicName`."""
    if not name or name in (".", "..") or len(name) > TOPIC_NAME_CHARS_MAX or not _TOPIC_NAME.fullmatch(name):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise InvalidTopicName(
            f"{shown!r} is no topic name",
            hint=f"use 1 to {TOPIC_NAME_CHARS_MAX} of a-z A-Z 0-9 . _ -, but neither . nor .. alone",
        )


def collision_key(name: str) -> str:
    """Equal for names that Kafka keeps apart from each other: metrics write both `.` and `_` as `_`."""
    return name.replace(".", "_")


def partition_dir(topic_partition: TopicPartition) -> str:
    return f"{topic_partition.topic}-{topic_partition.partition}"


def parse_partition_dir(name: str) -> TopicPartition | None:
    """The partition a directory holds, or None if it is not named like one or was retired."""
    match = _PARTITION_DIR.fullmatch(name)
    if match is None or name.endswith(_RETIRED_SUFFIXES):
        return None
    return TopicPartition(match[1], int(match[2]))


def retired_dir(topic_partition: TopicPartition, unique_id: str, suffix: str) -> str:
    """`<topic>-<n>.<unique id><suffix>`, the topic cut to what a file name holds. `suffix`: `-delete` or `-stray`."""
    tail = f"-{topic_partition.partition}.{unique_id}{suffix}"
    return topic_partition.topic[: _FILE_NAME_CHARS_MAX - len(tail)] + tail
