"""One API key a file; `SERVED` lists what this node serves, and so what ApiVersions advertises.

A module is imported by the first request that needs it: all of them together would double the time to the first answer.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final, NamedTuple


class Served(NamedTuple):
    """One API with the versions its module implements; a test compares them with the module's own constants."""

    api_key: int
    name: str
    low: int
    high: int

    def load(self) -> ModuleType:
        return import_module(f"{__name__}.{self.name}")


SERVED: Final = (
    Served(0, "produce", 3, 13),
    Served(1, "fetch", 4, 16),
    Served(2, "list_offsets", 1, 11),
    Served(3, "metadata", 0, 13),
    Served(8, "offset_commit", 2, 10),
    Served(9, "offset_fetch", 1, 10),
    Served(10, "find_coordinator", 0, 6),
    Served(11, "join_group", 0, 9),
    Served(12, "heartbeat", 0, 4),
    Served(13, "leave_group", 0, 5),
    Served(14, "sync_group", 0, 5),
    Served(15, "describe_groups", 0, 6),
    Served(16, "list_groups", 0, 5),
    Served(18, "api_versions", 0, 4),
    Served(19, "create_topics", 2, 7),
    Served(20, "delete_topics", 1, 6),
    Served(21, "delete_records", 0, 2),
    Served(22, "init_producer_id", 0, 5),
    Served(32, "describe_configs", 1, 4),
    Served(33, "alter_configs", 0, 2),
    Served(37, "create_partitions", 0, 3),
    Served(42, "delete_groups", 0, 2),
    Served(44, "incremental_alter_configs", 0, 1),
    Served(47, "offset_delete", 0, 0),
    Served(60, "describe_cluster", 0, 2),
)
