"""What the verbs share: how they print, and how they fail. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Coroutine, Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import typer


class Failure(Exception):
    """A verb that could not do what it was asked: one line on stderr, and an exit code."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.exit_code = exit_code


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class Terminated(Exception):
    """SIGTERM came, and what was under way has been brought to an end."""


def run_async(main: Coroutine[Any, Any, None]) -> None:
    """Run a verb that waits. SIGTERM ends it as Ctrl-C does, in order: what it owes is settled, then `Terminated`."""
    import asyncio  # not for `--help`
    import signal

    terminated = False

    async def watched() -> None:
        task = asyncio.ensure_future(main)

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        await task

    try:
        asyncio.run(watched())
    except asyncio.CancelledError:
        if not terminated:
            raise
    if terminated:
        raise Terminated


FormatOption: TypeAlias = Annotated[
    Format, typer.Option("--format", envvar="LOGSTORE_FORMAT", help="How data is printed: for people or for programs.")
]
BootstrapOption: TypeAlias = Annotated[
    str, typer.Option("--bootstrap", "-b", envvar="LOGSTORE_BOOTSTRAP", help="Kafka addresses: HOST:PORT[,HOST:PORT…].")
]
BOOTSTRAP = "127.0.0.1:9092"


def print_json(document: object) -> None:
    """One JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(**fields: object) -> None:
    """One JSON document on a line of its own, where there may be many."""
    print(json.dumps(fields, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell: numbers to the right, None as `-`, at least two spaces between."""
    table = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *table, strict=True)]
    numeric = [all(_is_number(cell) for cell in column) for column in zip(*table, strict=True)] or [False] * len(head)
    for line in (head, *table):
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True))
        print("  ".join(cells).rstrip())


def report(done: Sequence[tuple[str, str, int]], output: Format, remark: str = "") -> None:
    """What became of each thing: its name, the outcome in words, the error code (0: none).

    Raises `Failure`, for exit code 1, when one of them failed; `remark` ends the line of each that did not.
    """
    if output is Format.JSON:
        print_json([{"name": name, "outcome": outcome, "error_code": code} for name, outcome, code in done])
    else:
        for name, outcome, code in done:
            if not code:
                print(f"{name}: {outcome}{remark}")
    failed = [f"{name}: {outcome}" for name, outcome, code in done if code]
    if failed:
        raise Failure("; ".join(failed))


def note(text: str) -> None:
    """A line for people, beside the data."""
    print(text, file=sys.stderr)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.lstrip("-").isdigit()
