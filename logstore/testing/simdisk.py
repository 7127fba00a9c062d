"""A disk in memory that forgets what was not synced: `logstore.files.Files` with faults on demand and a seed.

Fault model. It is harsher than ext4 or XFS with default options: what holds here holds there.

  Contents. A file's bytes are cut into sectors of 512. Until `fdatasync` of the file returned, a crash may leave each
    sector with any content it had since the last sync, in any mixture: writes are kept, lost or torn, in any order.
    The size is metadata of its own: any size since the last sync, with or without the bytes it covers; what was never
    written reads as zeros. A write may also be cut at any byte.
  Names. Until `fsync_dir` of the directory returned, each create, rename, remove and mkdir in it may be kept or undone,
    in any order, but for those that touch the same name: those stay in order. A rename is kept or undone as one, and
    so is a replacement. `fdatasync` of a file does nothing for its name; a directory whose own name is lost takes along
    everything in it.
  write_file. Its steps, each with the fate above: create `….tmp`, write, with `sync` fdatasync, rename, with `sync`
    fsync_dir. So without `sync` a crash may leave the new name with an empty or torn content.
  fdatasync that fails. Of the sectors written since the last sync some reach the disk and the others never will: the
    pages count as clean, are still read back, and a later success proves nothing about them. Only writing a sector
    again gives it another chance. Sizes and names stay pending.
  fsync_dir that fails. Nothing happened; a later success is one.
  Full disk. `room_bytes` is what still fits; a write that does not fit is kept as far as it does, then refused.
    Nothing that is removed gives room back; whoever tests sets `room_bytes` again.
  Never. What a returned `fdatasync` or `fsync_dir` covered is not lost or changed by anything but later calls. Bits do
    not rot, no write lands elsewhere, a read returns what was written.

`crash` is the power cut: from then on the disk is what the machine would find. `kill` ends only the process: handles
are closed, locks free, what is written stays, and stays unsynced. `lose_power_after` puts the cut inside a call: then
whatever would change the disk or read an open file raises `PowerLost`, until `crash`; syncs raise `DurabilityUnknown`,
since they may run on a thread that has to end its round. A map is a snapshot of the file as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from errno import EIO, ENOSPC
from pathlib import Path
from threading import Lock as Mutex
from typing import Final, Literal, NamedTuple, TypeAlias

from logstore.clock import Chance, Clock
from logstore.errors import DirectoryLocked, DurabilityUnknown, NotWritten
from logstore.types import Buffer, Position

SECTOR_BYTES: Final = 512

Operation: TypeAlias = Literal["open", "write", "truncate", "rename", "remove", "mkdir", "fdatasync", "fsync_dir"]


class PowerLost(BaseException):
    """The machine is off: no code of the process under test may run on, hence no `Exception`."""


class _Write(NamedTuple):
    """`data` written at `position`; without data, the file cut or grown to `position` bytes."""

    position: Position
    data: bytes | None


class _File:
    __slots__ = ("cache", "disk", "modified_ms", "pending")

    def __init__(self, content: bytes = b"") -> None:
        self.cache = bytearray(content)  # what the process reads
        self.disk = bytes(content)  # what a crash cannot take
        self.pending: list[_Write] = []  # since the last sync
        self.modified_ms = 0

    def apply(self, write: _Write) -> None:
        _apply(self.cache, write)
        self.pending.append(write)


_Node: TypeAlias = "_File | _Directory"
_Change: TypeAlias = "tuple[tuple[str, _Node | None], ...]"
"""Names that change together, and what each stands for afterwards."""


class _Directory:
    __slots__ = ("disk", "names", "pending")

    def __init__(self) -> None:
        self.names: dict[str, _Node] = {}
        self.disk: dict[str, _Node] = {}
        self.pending: list[_Change] = []

    def change(self, *change: tuple[str, _Node | None]) -> None:
        _rename(self.names, change)
        self.pending.append(change)


class SimDisk:
    """See the module's text. Safe to sync from another thread; faults are set by the thread that owns the test."""

    def __init__(self, chance: Chance, clock: Clock | None = None) -> None:
        """`chance` decides what is lost and may be replaced at any time; `clock` gives files their `modified_ms`."""
        self.chance = chance
        self.room_bytes: int | None = None
        self.operations = 0  # that change or sync something
        self.is_off = False
        self._clock = clock
        self._root = _Directory()
        self._handles: dict[int, tuple[_File, str, bool]] = {}
        self._next_handle = 1000  # never used twice: a handle from before a crash stays dead
        self._locks: dict[str, _Lock] = {}
        self._faults: dict[Operation, int] = {}
        self._operations_left: int | None = None
        self._mutex = Mutex()

    # --- faults -----------------------------------------------------------------------------------------------------

    def fail(self, operation: Operation, times: int = 1) -> None:
        """Let the next `times` calls fail that do `operation`, on whatever file; 0 calls it off."""
        self._faults[operation] = times

    def lose_power_after(self, operations: int) -> None:
        """Do so many more operations that change or sync something; the one after raises `PowerLost`."""
        self._operations_left = operations

    def heal(self) -> None:
        """Call off every fault that was asked for and has not happened."""
        self._faults.clear()
        self._operations_left = self.room_bytes = None

    def kill(self) -> None:
        """The process ends: handles are closed, locks are free, everything written stays.

        After `lose_power_after` it stands for a process that was killed amid a call.
        """
        self.is_off, self._operations_left = False, None
        self._handles.clear()
        self._locks.clear()

    def crash(self) -> None:
        """The power fails and returns. Afterwards everything on the disk is synced, for it is what is there."""
        self.kill()
        self.heal()
        self._survive(self._root)

    def _survive(self, directory: _Directory) -> None:
        names = dict(directory.disk)
        for change in self._kept(directory.pending):
            _rename(names, change)
        directory.names, directory.disk, directory.pending = names, dict(names), []
        for node in names.values():
            if isinstance(node, _Directory):
                self._survive(node)
            else:
                node.disk = self._content(node)
                node.cache, node.pending = bytearray(node.disk), []

    def _kept(self, changes: Sequence[_Change]) -> Iterator[_Change]:
        """Changes of names that outlive the crash: all, a beginning, or any but those behind a lost one of a name."""
        mood = self.chance.below(4)
        kept_first = len(changes) if mood == 0 else self.chance.below(len(changes) + 1)
        lost: set[str] = set()
        for number, change in enumerate(changes):
            names = {name for name, _ in change}
            keeps = number < kept_first if mood < 3 else bool(self.chance.below(2))
            if keeps and not names & lost:
                yield change
            else:
                lost |= names

    def _content(self, file: _File) -> bytes:
        """What a crash leaves of a file: one of six ways, from nothing lost to every sector for itself."""
        writes = file.pending
        if not writes:
            return file.disk
        mood = self.chance.below(6)
        if mood == 0:
            return _after(file.disk, writes)
        if mood == 1:
            return file.disk
        if mood == 2:  # a beginning
            return _after(file.disk, writes[: self.chance.below(len(writes) + 1)])
        if mood == 3:  # a beginning, the last of it cut at some byte
            count = self.chance.below(len(writes))
            position, data = writes[count]
            torn = [] if not data else [_Write(position, data[: self.chance.below(len(data))])]
            return _after(file.disk, [*writes[:count], *torn])
        if mood == 4:  # some of them, whole
            return _after(file.disk, [write for write in writes if self.chance.below(2)])
        return self._sectors(file.disk, writes)

    def _sectors(self, disk: bytes, writes: Sequence[_Write]) -> bytes:
        """Every sector with one of its contents since the last sync, and one of the file's sizes."""
        content = bytearray(disk)
        sizes = [len(disk)]
        versions: dict[int, list[bytes]] = {}
        for write in writes:
            before = bytes(content)
            _apply(content, write)
            sizes.append(len(content))
            for sector in _sectors_of(write, len(before)):
                known = versions.setdefault(sector, [_sector(before, sector)])
                known.append(_sector(content, sector))
        size = sizes[self.chance.below(len(sizes))] if self.chance.below(2) else sizes[-1]
        left = bytearray(max(sizes))
        left[: len(disk)] = disk
        for sector, known in versions.items():
            start = sector * SECTOR_BYTES
            left[start : start + SECTOR_BYTES] = known[self.chance.below(len(known))]
        return bytes(left[:size]).ljust(size, b"\0")

    def _step(self, operation: Operation, path: str) -> None:
        """One operation that changes or syncs something; or its failure."""
        if not self.is_off and self._operations_left is not None:
            self.is_off = self._operations_left == 0
            self._operations_left -= 1
        is_sync = operation in ("fdatasync", "fsync_dir")
        if self.is_off:
            if is_sync:  # maybe on the thread that syncs, which is to end its round
                raise DurabilityUnknown(f"cannot sync {path}: the power is off")
            raise PowerLost
        self.operations += 1
        if self._faults.get(operation, 0):
            self._faults[operation] -= 1
            reason = os.strerror(EIO)
            raise DurabilityUnknown(f"cannot sync {path}: {reason}") if is_sync else _refusal(path, reason)

    # --- handles ----------------------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> int:
        file = self._node(path)
        if isinstance(file, _Directory):
            raise _refusal(path, "is a directory")
        if create:
            self._step("open", path)
        if file is None:
            if not create:
                raise FileNotFoundError(path)
            file = self._create(path)
        with self._mutex:
            self._next_handle += 1
            self._handles[self._next_handle] = file, path, create
            return self._next_handle

    def close(self, handle: int) -> None:
        self._handles.pop(handle, None)  # of a process that is gone, maybe

    def pwritev(self, handle: int, views: Sequence[Buffer], position: Position, size_bytes: int) -> None:
        file, path = self._writable(handle)
        self._step("write", path)
        data = b"".join(views)
        if len(data) != size_bytes:
            raise ValueError(f"{size_bytes} bytes were announced, {len(data)} came")
        self._write(file, path, position, data)

    def pread(self, handle: int, size_bytes: int, position: Position) -> bytes:
        return bytes(self._open_file(handle).cache[position : position + size_bytes])

    def map(self, handle: int) -> memoryview:
        return memoryview(bytes(self._open_file(handle).cache))

    def truncate(self, handle: int, size_bytes: int) -> None:
        file, path = self._writable(handle)
        self._step("truncate", path)
        with self._mutex:
            file.apply(_Write(size_bytes, None))

    def fdatasync(self, handle: int) -> None:
        if handle not in self._handles:
            raise DurabilityUnknown(f"cannot sync handle {handle}: it is closed")
        file, path, _ = self._handles[handle]
        self._sync(file, path)

    def fsync_dir(self, path: str) -> None:
        directory = self._node(path)
        if not isinstance(directory, _Directory):
            raise DurabilityUnknown(f"cannot sync {path}: it is no directory")
        self._step("fsync_dir", path)
        with self._mutex:
            directory.disk, directory.pending = dict(directory.names), []

    # --- paths ------------------------------------------------------------------------------------------------------

    def size(self, path: str) -> int:
        return len(self._file(path).cache)

    def modified_ms(self, path: str) -> int:
        return self._file(path).modified_ms

    def read_file(self, path: str) -> bytes:
        return bytes(self._file(path).cache)

    def write_file(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        temporary = path + ".tmp"
        try:
            self._step("open", temporary)
            file = self._node(temporary)
            if isinstance(file, _File):
                file.apply(_Write(0, None))
            else:
                file = self._create(temporary)
            self._step("write", temporary)
            self._write(file, temporary, 0, bytes(data))
            if sync:
                self._sync(file, temporary)
            self.rename(temporary, path)
        except NotWritten:
            self.remove(temporary)
            raise
        if sync:
            self.fsync_dir(os.path.dirname(path))

    def rename(self, old: str, new: str) -> None:
        self._step("rename", new)
        directory, old_name = self._parent(old)
        other, new_name = self._parent(new)
        if other is not directory:
            raise ValueError(f"{old} and {new} are not in one directory: that is not simulated")
        if old_name not in directory.names:
            raise FileNotFoundError(old)
        with self._mutex:
            directory.change((old_name, None), (new_name, directory.names[old_name]))

    def remove(self, path: str) -> None:
        directory, name = self._parent(path)
        if isinstance(directory.names.get(name), _File):
            self._step("remove", path)
            with self._mutex:
                directory.change((name, None))

    def remove_tree(self, path: str) -> None:
        node = self._node(path)
        if not isinstance(node, _Directory):
            return
        with suppress(NotWritten):
            for name, child in list(node.names.items()):
                if isinstance(child, _Directory):
                    self.remove_tree(f"{path}/{name}")
                else:
                    self.remove(f"{path}/{name}")
            self._step("remove", path)
            directory, name = self._parent(path)
            with self._mutex:
                directory.change((name, None))

    def mkdir(self, path: str) -> None:
        directory = self._root
        for name in _names(path):
            node = directory.names.get(name)
            if node is None:
                self._step("mkdir", path)
                node = _Directory()
                with self._mutex:
                    directory.change((name, node))
            if isinstance(node, _File):
                raise _refusal(path, "is a file")
            directory = node

    def exists(self, path: str) -> bool:
        return self._node(path) is not None

    def is_dir(self, path: str) -> bool:
        return isinstance(self._node(path), _Directory)

    def listdir(self, path: str) -> list[str]:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise FileNotFoundError(path)
        return sorted(node.names)

    def lock(self, path: str) -> _Lock:
        if path in self._locks:
            raise DirectoryLocked(f"{os.path.dirname(path)} is in use", pid=os.getpid())
        self.close(self.open(path, create=True))
        self._locks[path] = lock = _Lock(self._locks, path)
        return lock

    def export(self, directory: Path, path: str = "") -> None:
        """Copy what the process sees below `path` into a real directory: for tools that read real files."""
        node = self._node(path) if path else self._root
        assert isinstance(node, _Directory), path
        directory.mkdir(parents=True, exist_ok=True)
        for name, child in node.names.items():
            if isinstance(child, _Directory):
                self.export(directory / name, f"{path}/{name}")
            else:
                (directory / name).write_bytes(child.cache)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _write(self, file: _File, path: str, position: Position, data: bytes) -> None:
        fits = data
        if self.room_bytes is not None:
            fits = data[: self.room_bytes]
            self.room_bytes -= len(fits)
        with self._mutex:
            if fits:
                file.apply(_Write(position, fits))
            file.modified_ms = self._clock.now_ms() if self._clock else 0
        if len(fits) < len(data):
            raise _refusal(path, os.strerror(ENOSPC))

    def _sync(self, file: _File, path: str) -> None:
        try:
            self._step("fdatasync", path)
        except DurabilityUnknown:
            if not self.is_off:
                self._drop_pages(file)
            raise
        with self._mutex:
            # Sectors whose pages an earlier failure dropped stay lost, whatever the cache shows.
            file.disk, file.pending = _after(file.disk, file.pending), []

    def _drop_pages(self, file: _File) -> None:
        """A failed sync: each sector is written or forgotten, sizes stay pending."""
        with self._mutex:
            writes, disk = file.pending, bytearray(file.disk)
            content = bytearray(file.disk)
            dirty: set[int] = set()
            for write in writes:
                dirty.update(_sectors_of(write, len(content)))
                _apply(content, write)
            for sector in sorted(dirty):
                if self.chance.below(2):
                    start = sector * SECTOR_BYTES
                    data = _sector(content, sector)
                    _apply(disk, _Write(start, data[: max(len(content) - start, 0)]))
            file.disk = bytes(disk)
            file.pending = [_Write(len(content), None)] if len(disk) != len(content) else []

    def _create(self, path: str) -> _File:
        directory, name = self._parent(path)
        file = _File()
        with self._mutex:
            directory.change((name, file))
        return file

    def _node(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for name in _names(path):
            if not isinstance(node, _Directory):
                return None
            node = node.names.get(name)
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        parent, _, name = path.rpartition("/")
        node = self._node(parent)
        if not isinstance(node, _Directory):
            raise FileNotFoundError(parent)
        return node, name

    def _file(self, path: str) -> _File:
        node = self._node(path)
        if not isinstance(node, _File):
            raise FileNotFoundError(path)
        return node

    def _open_file(self, handle: int) -> _File:
        if self.is_off:
            raise PowerLost
        return self._handles[handle][0]

    def _writable(self, handle: int) -> tuple[_File, str]:
        if handle not in self._handles:
            raise _refusal(str(handle), "the handle is closed")
        file, path, writable = self._handles[handle]
        if not writable:
            raise _refusal(path, "it is open for reading only")
        return file, path


class _Lock:
    def __init__(self, held: dict[str, _Lock], path: str) -> None:
        self._held, self._path = held, path

    def release(self) -> None:
        if self._held.get(self._path) is self:  # else the next process has it
            del self._held[self._path]


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _refusal(path: str, reason: str) -> NotWritten:
    return NotWritten(f"cannot write {path}: {reason}")


def _rename(names: dict[str, _Node], change: _Change) -> None:
    for name, node in change:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _apply(content: bytearray, write: _Write) -> None:
    position, data = write
    if len(content) < position:
        content.extend(bytes(position - len(content)))
    if data is None:
        del content[position:]
    else:
        content[position : position + len(data)] = data


def _after(disk: bytes, writes: Sequence[_Write]) -> bytes:
    content = bytearray(disk)
    for write in writes:
        _apply(content, write)
    return bytes(content)


def _sectors_of(write: _Write, size_before: int) -> range:
    """Sectors a write touches; for a cut, those that lose bytes."""
    end = size_before if write.data is None else write.position + len(write.data)
    return range(write.position // SECTOR_BYTES, -(-end // SECTOR_BYTES))


def _sector(content: bytes | bytearray, sector: int) -> bytes:
    start = sector * SECTOR_BYTES
    return bytes(content[start : start + SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")
