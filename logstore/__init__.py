"""logstore: an append-only log to embed, and the engine of the broker.

    import logstore

    with logstore.open("events") as store:
        orders = store.create_topic("orders", partitions=4)
        orders.append(b"placed", key=b"customer-7")
        print(list(orders.read()))

Nothing is loaded until it is used, so that importing this package costs next to nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logstore.embedded import LogStore, Topic
    from logstore.errors import LogstoreError
    from logstore.types import Record

__all__ = ["LogStore", "LogstoreError", "Record", "Topic", "open"]

_HOMES = {
    "LogStore": "logstore.embedded",
    "LogstoreError": "logstore.errors",
    "Record": "logstore.types",
    "Topic": "logstore.embedded",
}


def open(path: str | os.PathLike[str]) -> LogStore:  # noqa: A001 - read as logstore.open
    """Open the data directory at `path`, made if missing, as its only owner. See `logstore.embedded`.

    Raises: DirectoryLocked if another process has it open, NotWritten, DurabilityUnknown.
    """
    from logstore.embedded import LogStore

    return LogStore(path)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
