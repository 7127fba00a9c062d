import subprocess
import sys
from pathlib import Path

import pytest

from tools.gen_docs import TARGET, configuration
from tools.main import VERBS, run
from tools.output import print_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("args", "code", "stderr"),
    [
        (["topc"], 2, "error: No such command 'topc'. Did you mean 'topic'? (see `logstore --help`)\n"),
        (["topic"], 2, "error: Missing command (see `logstore topic --help`)\n"),
        (["topic", "creat"], 2, "Did you mean 'create'"),
        (["topic", "create"], 2, "error: Missing argument 'NAME' (see `logstore topic create --help`)\n"),
        (["topic", "create", "a", "-p", "many"], 2, "'-p'"),
        (["topic", "create", "a", "-c", "b"], 2, "--config b is not KEY=VALUE"),
        (
            ["topic", "alter", "a"],
            2,
            "error: nothing to alter: give --set, --delete or --partitions (see `logstore topic",
        ),
        (
            ["topic", "list", "--format", "xml"],
            2,
            "(env var: 'LOGSTORE_FORMAT'): 'xml' is not one of 'text', 'json' (see",
        ),
        (["topic", "alter", "a", "--set"], 2, "requires an argument (see `logstore topic alter --help`)\n"),
        (["consume", "-o"], 2, "requires an argument (see `logstore consume --help`)\n"),
        (["segment"], 2, "error: Missing command (see `logstore segment --help`)\n"),
        (["group", "reset", "g"], 2, "--to"),
        (["group", "reset", "g", "--to", "now"], 2, "--to now is not start"),
        (["consume"], 2, "TOPIC"),
        (["consume", "t", "-f", "%z"], 2, "%z is not one of"),
        (["consume", "t", "-g", "g", "-o", "5"], 2, "a group chooses"),
        (["consume", "t", "-p", "a"], 2, "--partitions a is not a list of numbers"),
        (["produce", "t", "-k", "a", "-K", ":"], 2, "exclude each other"),
        (["produce", "t", "-f", "json", "-K", ":"], 2, "--key-delimiter is for lines"),
        (["produce", "t", "-H", "a"], 2, "--header a is not NAME:VALUE"),
        (["serve", "--set", "num.partitons=1"], 2, "error: unknown option num.partitons from --set (did you mean num."),
        (["serve", "--kafka", ":9092"], 2, "add --insecure"),
        (["topic", "list", "-b", "127.0.0.1:1"], 1, "(is `logstore serve` running? tried 127.0.0.1:1)\n"),
        (["topic", "list", "-b", "nowhere"], 2, "--bootstrap=nowhere is not HOST:PORT"),
        (["produce", "t", "-b", "127.0.0.1:1"], 1, "is `logstore serve` running?"),
    ],
)
def test_wrong_usage_is_2_and_failure_1_in_one_line(args, code, stderr, capsys):
    assert run(args) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert stderr in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_names_every_verb(args, capsys):
    assert run(args) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert run([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: logstore {verb}")


def test_help_imports_nothing_heavy():
    check = (
        "import sys; from tools.main import run; run(['--help']);"
        "heavy = {'aiokafka', 'fastapi', 'uvicorn', 'msgspec', 'asyncio'} & set(sys.modules);"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_is_silent():
    """As in `logstore … | head -c 0`: the reader is gone before the first write."""
    command = [sys.executable, "-m", "tools", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("redirected", "code", "stderr"),
    [
        (">/dev/full", 1, "error: No space left on device\n"),
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("<&-", 0, ""),
    ],
)
def test_streams_that_are_full_or_closed(redirected, code, stderr):
    command = f'"{sys.executable}" -m tools --help {redirected}'
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert (done.returncode, done.stderr) == (code, stderr)


def test_interrupted_is_130(monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.serve.gather", interrupt)
    assert run(["serve"]) == 130


def test_the_configuration_page_is_up_to_date():
    assert TARGET.read_text(encoding="utf-8") == configuration(), "run: python -m tools.gen_docs"


def test_a_table(capsys):
    print_table(["NAME", "N"], [("a", 1), ("long name", None), ("b", -200)])
    assert capsys.readouterr().out == "NAME          N\na             1\nlong name     -\nb          -200\n"
    print_table(["NAME", "N"], [])
    assert capsys.readouterr().out == "NAME  N\n"
