"""One partition's part in a round of fsyncs."""

from __future__ import annotations

from logstore.errors import LogstoreError
from logstore.files import Files
from logstore.segment.reader import SegmentFile
from logstore.types import Offset


class FlushTicket:
    """What one fsync round has to do for one partition; `sync` may run on any thread, the rest on the log's."""

    __slots__ = ("_directory", "_files", "_segment_files", "end_offset", "error", "rolls")

    def __init__(
        self, files: Files, segment_files: list[SegmentFile], directory: str | None, end_offset: Offset, rolls: int
    ) -> None:
        self._files = files
        self._segment_files = segment_files
        self._directory = directory
        self.end_offset = end_offset
        self.rolls = rolls
        self.error: LogstoreError | None = None

    def sync(self) -> None:
        """Never raises: a failure waits in `error` for `finish_flush`."""
        try:
            for file in self._segment_files:
                file.sync()
            if self._directory is not None:
                self._files.fsync_dir(self._directory)
        except LogstoreError as error:
            self.error = error
