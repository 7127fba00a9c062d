"""`python -m tools.demo`: real data through real clients, with the server killed half-way. Exit code 0 or 1.

For each client a server is started on an empty directory. Every stream is written with idempotence on, the server is
killed with SIGKILL when half of it is acknowledged and started again, and everything is read back and compared: nothing
lost, nothing doubled, order kept, bytes, timestamps, headers and tombstones as sent. At the end the clients meet in one
topic. Seconds of writing hold the crash and the restart.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.demo.clients import ClientFailed, ClientMissing
from tools.demo.datasets import Dataset, load
from tools.demo.doors import cross
from tools.demo.server import ServerFailed, ServerProcess
from tools.demo.story import CLIENTS, Outcome, tell
from tools.output import note, print_table


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--client", choices=[*CLIENTS, "all"], default="all")
    parser.add_argument("--data", type=Path, help="directory of the data sets; default: the real ones, else small ones")
    parser.add_argument("--keep", action="store_true", help="leave the servers' directories")
    options = parser.parse_args(args)
    names = list(CLIENTS) if options.client == "all" else [options.client]
    try:
        datasets = load(options.data)
    except (OSError, ValueError) as error:
        note(f"error: no data: {error} (name a directory with --data)")
        return 1
    outcomes: list[Outcome] = []
    failures: list[str] = []
    with _directory(options.keep) as directory:
        for name in names:
            try:
                outcomes += _tell_all(directory / name, name, datasets)
            except (ClientFailed, ClientMissing, ServerFailed) as error:
                failures.append(f"{name}: {error}")
        if len(names) > 1:
            try:
                failures += [f"doors: {problem}" for problem in _cross(directory / "doors", names)]
            except (ClientFailed, ClientMissing, ServerFailed) as error:
                failures.append(f"doors: {error}")
    _report(outcomes)
    failures += [f"{o.client} {o.topic}: {problem}" for o in outcomes for problem in o.problems]
    for failure in failures:
        note(f"error: {failure}")
    return 1 if failures else 0


def _tell_all(directory: Path, name: str, datasets: Iterable[Dataset]) -> Iterator[Outcome]:
    with ServerProcess(directory) as server:
        for dataset in datasets:
            note(f"{name}: {dataset.topic}, {len(dataset.records)} records")
            yield tell(server, CLIENTS[name](server.kafka, server.http), dataset)
        server.terminate()


def _cross(directory: Path, names: Iterable[str]) -> list[str]:
    with ServerProcess(directory) as server:
        note("doors: every client reads what every other wrote")
        problems = cross([CLIENTS[name](server.kafka, server.http) for name in names], server.kafka)
        server.terminate()
        return problems


def _report(outcomes: Iterable[Outcome]) -> None:
    head = ["client", "topic", "records", "bytes", "write s", "MB/s", "read s", "MB/s", "crash", "result"]
    print_table(
        head,
        [
            [
                *(o.client, o.topic, o.records, o.size_bytes),
                *(f"{o.write_s:.2f}", _rate(o.size_bytes, o.write_s), f"{o.read_s:.2f}", _rate(o.size_bytes, o.read_s)),
                *("SIGKILL" if o.crashed else None, "FAILED" if o.problems else "same"),
            ]
            for o in outcomes
        ],
    )


def _rate(size_bytes: int, seconds: float) -> str:
    return f"{size_bytes / 1e6 / max(seconds, 0.001):.1f}"


@contextmanager
def _directory(keep: bool) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="logstore-demo-"))
    try:
        yield path
    finally:
        if keep:
            note(f"kept: {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # what the libraries say of themselves
    for library in ("aiokafka", "kafka"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # lost connections are the point here
    sys.exit(main())
