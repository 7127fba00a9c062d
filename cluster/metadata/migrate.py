"""Opens `metadata.db`, or refuses it, and brings its schema to the newest version.

Versions are the numbers of the files in `migrations/`, applied in order, each in one transaction with its row in
`schema_version`. `application_id` in the file's header marks the file as ours. An older program refuses a newer schema.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final

from logstore.errors import DamagedSegment, NotWritten, UnsupportedFormat

APPLICATION_ID: Final = 0x6C6F6773  # "logs"
_BUSY_TIMEOUT_S: Final = 10.0
_CHECKED_BYTES_MAX: Final = 64 << 20
"""Up to this size the whole file is checked when it is opened (about 0.1 s); above, damage is found when it is read."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection with transactions under our control, durable on every commit (WAL, synchronous=FULL).

    Raises: DamagedSegment (not a database, or damaged), UnsupportedFormat (another program's or a newer schema),
        NotWritten (cannot be opened or written).
    """
    try:
        known = path.stat().st_size if path.exists() else 0
        db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.OperationalError) as error:
        raise NotWritten(
            f"{path} cannot be opened: {error}", hint="check that the directory exists and is ours"
        ) from error
    try:
        _prepare(db, path, check=0 < known <= _CHECKED_BYTES_MAX)
    except sqlite3.OperationalError as error:
        db.close()
        raise NotWritten(f"{path} cannot be made ready: {error}", hint="check free space and permissions") from error
    except sqlite3.DatabaseError as error:
        db.close()
        raise damaged(path, str(error)) from error
    except BaseException:
        db.close()
        raise
    return db


def damaged(path: Path, what: str) -> DamagedSegment:
    return DamagedSegment(
        f"{path} is damaged: {what}",
        path=str(path),
        position=0,
        hint="restore it from a backup, or move it away: topics are found again in their directories, offsets are lost",
    )


def _prepare(db: sqlite3.Connection, path: Path, *, check: bool) -> None:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID and (tables or application_id):
        raise UnsupportedFormat(
            f"{path} is a database of another program", hint="point the server at another data directory"
        )
    if check:
        ((verdict,),) = db.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise damaged(path, str(verdict))
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    try:
        _migrate(db, path)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT")
    applied = {version for (version,) in db.execute("SELECT version FROM schema_version")}
    scripts = dict(_scripts())
    newest = max(applied, default=0)
    if applied - scripts.keys() or applied != set(range(1, newest + 1)):
        raise UnsupportedFormat(
            f"{path} has schema version {newest}, this program knows up to {max(scripts)}",
            hint="it was written by a newer release: start that one",
        )
    for version in sorted(scripts.keys() - applied):
        name, sql = scripts[version]
        for statement in _statements(sql):
            db.execute(statement)
        db.execute("INSERT INTO schema_version VALUES (?, ?)", (version, name))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _scripts() -> Iterator[tuple[int, tuple[str, str]]]:
    for file in (resources.files("cluster.metadata") / "migrations").iterdir():
        if file.name.endswith(".sql"):
            yield int(file.name[:4]), (file.name, file.read_text("utf-8"))


def _statements(sql: str) -> Iterator[str]:
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError("a migration ends in the middle of a statement")
