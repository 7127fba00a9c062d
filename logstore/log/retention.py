"""Taking whole segments out of a log: renamed to `….deleted` at once, removed after `file.delete.delay.ms`.

The delay lets a reader that found the name still open the file; a reader that holds a slice needs none. No thread of
its own: whoever drives it removes what `take_due` hands out.
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

    def take_due(self, now_ms: TimestampMs) -> list[str]:
        """The files that have waited long enough, for whoever removes them; they are forgotten here."""
        due = []
        while self._waiting and self._waiting[0][0] <= now_ms:
            due.append(self._waiting.popleft()[1])
        return due
