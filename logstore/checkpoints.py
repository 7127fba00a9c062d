"""Kafka's checkpoint files: one offset per partition, as text. A leaf, pure.

0                       version
2                       number of lines that follow
orders 0 4711           topic partition offset
orders 1 815
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from logstore.types import Offset, TopicPartition

RECOVERY_POINT_FILE: Final = "recovery-point-offset-checkpoint"
LOG_START_FILE: Final = "log-start-offset-checkpoint"


def encode_checkpoint(offsets: Mapping[TopicPartition, Offset]) -> bytes:
    lines = [f"{topic} {partition} {offset}" for (topic, partition), offset in sorted(offsets.items())]
    return "\n".join(["0", str(len(lines)), *lines, ""]).encode()


def decode_checkpoint(data: bytes) -> dict[TopicPartition, Offset]:
    """What a checkpoint says. A line that cannot be read is left out: its partition is recovered from its start."""
    version, _, *lines = [*data.decode("utf-8", "replace").splitlines(), "", ""]
    offsets: dict[TopicPartition, Offset] = {}
    if version.strip() == "0":
        for line in lines:
            match line.split():
                case [topic, partition, offset] if partition.isdecimal() and offset.isdecimal():
                    offsets[TopicPartition(topic, int(partition))] = int(offset)
    return offsets
