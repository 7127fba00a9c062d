"""One API key a file; `modules` lists what this node serves, and so what ApiVersions advertises."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

SERVED = (
    "produce",
    "fetch",
    "list_offsets",
    "metadata",
    "offset_commit",
    "offset_fetch",
    "find_coordinator",
    "join_group",
    "heartbeat",
    "leave_group",
    "sync_group",
    "describe_groups",
    "list_groups",
    "api_versions",
    "create_topics",
    "delete_topics",
    "delete_records",
    "init_producer_id",
    "describe_configs",
    "alter_configs",
    "create_partitions",
    "delete_groups",
    "incremental_alter_configs",
    "offset_delete",
    "describe_cluster",
)


def modules() -> list[ModuleType]:
    """The handler modules, in the order of their API keys."""
    return [import_module(f"{__name__}.{name}") for name in SERVED]
