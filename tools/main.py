"""The `logstore` command. One module per verb, imported when the verb is called, so that `--help` is quick.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated. A reader that closes the pipe ends a verb
silently. A standard stream that is closed counts as /dev/null.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup

from logstore.errors import LogstoreError
from tools.output import Failure, Terminated

VERBS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("tools.serve", "Run a broker: Kafka protocol and HTTP over one directory."),
    "topic": ("tools.topic", "Create, list, describe, alter and delete topics."),
    "produce": ("tools.produce", "Write records from lines or JSON."),
    "consume": ("tools.consume", "Read records."),
    "group": ("tools.group", "List, describe, reset and delete consumer groups."),
    "segment": ("tools.segment", "Look at, check and repair log files, with no server."),
}
"""Verb -> module that has its `app`, line of help."""

# typer's own base class of wrong usage: it exports only this child.
_UsageError: Final = cast(type[Exception], typer.BadParameter.__mro__[1])


class _Verbs(TyperGroup):
    """Knows the verbs by name and line of help; the real command takes the place of that when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in VERBS:
            verb: typer.Typer = import_module(VERBS[name][0]).app
            verb.rich_markup_mode = None  # plain help text everywhere: quick, and the same in a pipe
            command = typer.main.get_command(verb)
        return name, command, rest


app = typer.Typer(cls=_Verbs, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"logstore {version('logstore-engine')}")
        except PackageNotFoundError:
            print("logstore, not installed")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """An append-only log that Kafka clients, HTTP clients and Python programs share.

    Start one with `logstore serve`, then try `echo hello | logstore produce greetings` and
    `logstore consume greetings -o start`.
    """


def command() -> TyperGroup:
    """The whole command, with a stand-in for each verb."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, (_, help_line) in VERBS.items():
        group.add_command(TyperCommand(name, help=help_line))
    return group


def run(args: Sequence[str]) -> int:
    """Run one command line; the exit code. Everything that can go wrong with it becomes one line on stderr."""
    group = command()
    code = _outcome(group, args)
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes it once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            return code or _fail(str(error.strerror), 1)
    return code


def _outcome(group: TyperGroup, args: Sequence[str]) -> int:
    try:
        with group.make_context("logstore", list(args) or ["--help"]) as context:
            group.invoke(context)
    except typer.Exit as exit_:
        return exit_.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Terminated:
        return 143
    except BrokenPipeError:
        return 0  # Nobody reads stdout any more: that ends the work, and is no failure.
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _fail(f"{what}{error.strerror or error}", 1)
    except UnicodeEncodeError as error:
        return _fail(f"{error.object!r} is not UTF-8", 2)
    except (LogstoreError, Failure) as error:
        return _fail(str(error), getattr(error, "exit_code", 1))
    except _UsageError as error:
        known = getattr(error, "ctx", None)
        path = known.command_path if known is not None else _command_path(group, args)
        return _fail(f"{_message(error).rstrip('.')} (see `{path} --help`)", 2)
    return 0


def _command_path(group: TyperGroup, args: Sequence[str]) -> str:
    """The words of `args` that name a command: the parser's own errors do not know theirs."""
    words, commands = ["logstore"], group.commands
    for arg in args:
        if arg not in commands:
            break
        words.append(arg)
        verb = typer.main.get_command(import_module(VERBS[arg][0]).app) if commands is group.commands else None
        commands = verb.commands if isinstance(verb, TyperGroup) else {}
    return " ".join(words)


def _message(error: BaseException) -> str:
    message: str = getattr(error, "format_message", error.__str__)()
    return message.removeprefix("Invalid value: ").replace(": Value error, ", ": ")


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def main() -> None:
    """The entry point."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    if "_LOGSTORE_COMPLETE" in os.environ:
        command().main(prog_name="logstore")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
