"""`logstore serve`: settings in, `api.broker.run` out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from logstore.errors import InvalidConfig
from tools.output import Failure, note
from tools.settings import OWN_KEYS, gather

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def serve(
    data_dir: Annotated[
        str | None, typer.Option(help=f"{OWN_KEYS['data.dir'][1]} [default: {OWN_KEYS['data.dir'][0]}]")
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help=f"{OWN_KEYS['kafka'][1]} [default: {OWN_KEYS['kafka'][0]}]"),
    ] = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help=f"{OWN_KEYS['http'][1]} [default: {OWN_KEYS['http'][0]}]")
    ] = None,
    advertise: Annotated[str | None, typer.Option(metavar="HOST:PORT", help=OWN_KEYS["advertise"][1])] = None,
    config: Annotated[
        Path | None,
        typer.Option(envvar="LOGSTORE_CONFIG", help="Settings: ….toml, or a ….properties made for Kafka."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One broker key, by Kafka's name. Repeatable."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help=OWN_KEYS["insecure"][1])] = False,
) -> None:
    """Run a broker on one directory until SIGTERM or Ctrl-C.

    Every setting is looked for in this order: option, environment (`LOGSTORE_…`), --config file, default.
    docs/configuration.md lists them all.

    \b
    Examples:
        logstore serve
        logstore serve --data-dir /var/lib/logstore --kafka 127.0.0.1:19092 --http off
        logstore serve --set num.partitions=3 --set log.retention.ms=1d
    """
    named = {"data.dir": data_dir, "kafka": kafka, "http": http, "advertise": advertise}
    flags = {key: value for key, value in named.items() if value is not None}
    if insecure:
        flags["insecure"] = "true"
    try:
        gathered = gather(flags, set_ or [], os.environ, config)
    except InvalidConfig as error:
        raise Failure(str(error), exit_code=2) from None
    for warning in gathered.warnings:
        note(f"warning: {warning}")
    from api.broker import run

    run(gathered.serve)
