"""The operating system's files, behind one interface: the only module of logstore that calls the OS about them.

Everything that touches a disk is handed a `Files`, so that a simulated disk (lost, torn and reordered writes) can stand
in. Handles are small integers; paths are strings. What a crash may undo is part of the contract:

    pwritev, truncate   may be lost, wholly or in part, in any order, until `fdatasync` of that handle returned
    create, rename,     may be lost until `fsync_dir` of the directory that holds the name returned
    remove, mkdir
    write_file          with `sync` the old content or the new, whole, and the new one for good once it returned;
                        without, perhaps an empty or torn one: only for what can be made again and shows its damage

A `fdatasync` that failed may have dropped what was written: later successes say nothing of it until it is written anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
from collections.abc import Sequence
from typing import Final, NoReturn, Protocol

from logstore.errors import DamagedSegment, DirectoryLocked, DurabilityUnknown, NotWritten
from logstore.types import Buffer, Position

_HINTS: Final = {
    errno.ENOSPC: "the disk is full: free space or lower retention.bytes, then retry",
    errno.EDQUOT: "the disk quota is used up: raise it or lower retention.bytes, then retry",
    errno.EROFS: "the file system is mounted read-only: remount it, then retry",
    errno.EMFILE: "too many open files: raise `ulimit -n`, then retry",
    errno.ENFILE: "the system has too many open files: raise fs.file-max, then retry",
    errno.EACCES: "the process may not write there: check owner and mode of the data directory",
    errno.EFBIG: "the file system or `ulimit -f` allows no file that large: lower segment.bytes",
}


class Lock(Protocol):
    def release(self) -> None: ...


class Files(Protocol):
    """See the module's text for what survives a crash. A missing file raises `FileNotFoundError` where it is read."""

    def open(self, path: str, *, create: bool = False) -> int:
        """A handle for reading and, with `create`, writing (made if missing). Raises `NotWritten` if it cannot."""
        ...

    def close(self, handle: int) -> None: ...

    def pwritev(self, handle: int, views: Sequence[Buffer], position: Position, size_bytes: int) -> None:
        """Write all `views` (together `size_bytes`) at `position`. Raises `NotWritten`; then any part may be there."""
        ...

    def pread(self, handle: int, size_bytes: int, position: Position) -> bytes:
        """Up to `size_bytes` from `position`; fewer only at the end of the file. Raises `DamagedSegment`."""
        ...

    def map(self, handle: int) -> memoryview:
        """The whole file as it is now, read-only, mapped as long as the view or a slice of it lives."""
        ...

    def size(self, path: str) -> int: ...

    def modified_ms(self, path: str) -> int: ...

    def truncate(self, handle: int, size_bytes: int) -> None:
        """Raises `NotWritten`."""
        ...

    def fdatasync(self, handle: int) -> None:
        """Raises `DurabilityUnknown`: nobody may trust what was written since the last success. Any thread."""
        ...

    def fsync_dir(self, path: str) -> None:
        """Raises `DurabilityUnknown`. Any thread."""
        ...

    def read_file(self, path: str) -> bytes: ...

    def write_file(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        """Replace the small file `path` as a whole. Raises `NotWritten` or `DurabilityUnknown`."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None:
        """A missing file is no error."""
        ...

    def remove_tree(self, path: str) -> None: ...

    def mkdir(self, path: str) -> None:
        """With its parents; an existing one is no error."""
        ...

    def exists(self, path: str) -> bool: ...

    def is_dir(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Names in the directory, sorted."""
        ...

    def lock(self, path: str) -> Lock:
        """Own `path` until released or the process ends. Raises `DirectoryLocked` with the owner's pid."""
        ...


class OsFiles:
    """`Files` on the operating system. POSIX only."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def open(self, path: str, *, create: bool = False) -> int:
        try:
            handle = os.open(path, os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if create else os.O_RDONLY), 0o644)
        except FileNotFoundError:
            raise
        except OSError as error:
            _refuse(error, path)
        self._paths[handle] = path
        return handle

    def close(self, handle: int) -> None:
        self._paths.pop(handle, None)
        os.close(handle)

    def pwritev(self, handle: int, views: Sequence[Buffer], position: Position, size_bytes: int) -> None:
        try:
            written = os.pwritev(handle, views, position)
            while written != size_bytes:  # a short write: the rest is tried alone, so that a full disk shows itself
                rest = memoryview(b"".join(views))[written:]
                count = os.pwrite(handle, rest, position + written)
                if count == 0:
                    raise OSError(errno.ENOSPC, "nothing was written")
                written += count
        except OSError as error:
            _refuse(error, self._paths.get(handle, "?"))

    def pread(self, handle: int, size_bytes: int, position: Position) -> bytes:
        try:
            data = os.pread(handle, size_bytes, position)
            while 0 < len(data) < size_bytes:
                more = os.pread(handle, size_bytes - len(data), position + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            path = self._paths.get(handle, "?")
            raise DamagedSegment(
                f"cannot read {path} at byte {position}: {error.strerror}",
                path=path,
                position=position,
                hint="check the disk, then run `logstore segment verify`",
            ) from error
        return data

    def map(self, handle: int) -> memoryview:
        size_bytes = os.fstat(handle).st_size
        if size_bytes == 0:
            return memoryview(b"")  # mmap refuses an empty range
        return memoryview(mmap.mmap(handle, size_bytes, prot=mmap.PROT_READ))

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def modified_ms(self, path: str) -> int:
        return os.stat(path).st_mtime_ns // 1_000_000

    def truncate(self, handle: int, size_bytes: int) -> None:
        try:
            os.ftruncate(handle, size_bytes)
        except OSError as error:
            _refuse(error, self._paths.get(handle, "?"))

    def fdatasync(self, handle: int) -> None:
        try:
            os.fdatasync(handle)
        except OSError as error:
            _doubt(error, self._paths.get(handle, "?"))

    def fsync_dir(self, path: str) -> None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            _doubt(error, path)

    def read_file(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def write_file(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        temporary = path + ".tmp"
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                if sync:
                    try:
                        os.fdatasync(handle)
                    except OSError as error:
                        _doubt(error, path)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            _refuse(error, path)
        if sync:
            self.fsync_dir(os.path.dirname(path))

    def rename(self, old: str, new: str) -> None:
        try:
            os.replace(old, new)
        except FileNotFoundError:
            raise
        except OSError as error:
            _refuse(error, new)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_tree(self, path: str) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def mkdir(self, path: str) -> None:
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            _refuse(error, path)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def lock(self, path: str) -> Lock:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            _refuse(error, path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            os.close(handle)
            pid = int(owner) if owner.isdigit() else None
            raise DirectoryLocked(
                f"{os.path.dirname(path)} is in use by process {owner or '?'}",
                pid=pid,
                hint="one process owns a data directory: stop that one, or choose another directory",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        return _FileLock(handle)


class _FileLock:
    """A held flock. The file stays: removing it would let two later owners lock two different files."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def release(self) -> None:
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None


def _refuse(error: OSError, path: str) -> NoReturn:
    hint = _HINTS.get(error.errno or 0, "check the disk and the system's log, then retry")
    raise NotWritten(f"cannot write {path}: {error.strerror}", hint=hint) from error


def _doubt(error: OSError, path: str) -> NoReturn:
    raise DurabilityUnknown(
        f"cannot sync {path}: {error.strerror}", hint="check the disk, then reopen: recovery keeps what is whole"
    ) from error
