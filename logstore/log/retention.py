"""Taking whole segments out of a log: renamed to `….deleted` at once, removed after `file.delete.delay.ms`.

The delay lets a reader that found the name still open the file; a reader that holds a slice needs none. No thread of
its own: a driver calls `remove_due`.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Final

from logstore.files import Files
from logstore.segment.segment import DELETED_SUFFIX, FILE_SUFFIXES, SNAPSHOT_SUFFIX, Segment, file_name
from logstore.types import TimestampMs

_SUFFIXES: Final = (*FILE_SUFFIXES, SNAPSHOT_SUFFIX)


class Graveyard:
    """Files that left their log and wait to be removed."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._waiting: deque[tuple[TimestampMs, str]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def bury(self, directory: str, segment: Segment, due_ms: TimestampMs) -> None:
        """Rename the files of a segment that is no longer in its log."""
        segment.release()
        for suffix in _SUFFIXES:
            path = f"{directory}/{file_name(segment.base_offset, suffix)}"
            with suppress(FileNotFoundError):
                self._files.rename(path, path + DELETED_SUFFIX)
                self._waiting.append((due_ms, path + DELETED_SUFFIX))

    def remove_due(self, now_ms: TimestampMs) -> int:
        """Remove what has waited long enough. Returns the number of files."""
        removed = 0
        while self._waiting and self._waiting[0][0] <= now_ms:
            self._files.remove(self._waiting.popleft()[1])
            removed += 1
        return removed
