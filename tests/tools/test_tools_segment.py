"""`logstore segment`: what it prints and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from logstore.files import OsFiles
from logstore.record.batch import stamp_offset
from logstore.record.control import EndMarker, MarkerType, encode_marker_batch
from logstore.record.records import encode_batch
from logstore.segment import offset_index, time_index
from tools import main
from tools.segment import app

ROOT = Path(__file__).resolve().parents[2]
UNBUFFERED = os.environ | {"PYTHONUNBUFFERED": "1"}


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def json_lines(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A partition `orders-0` with a plain batch, a transactional one and its marker."""
    made = [
        encode_batch(
            [(1_700_000_000_123, b"alpha", b"one", [("h", b"x")]), (1_700_000_000_124, None, b"\xff\x00", ())]
        ),
        encode_batch(
            [(1_700_000_000_125, b"k" * 500, None, ())],
            codec=4,
            producer_id=42,
            producer_epoch=1,
            base_sequence=7,
            transactional=True,
        ),
        encode_marker_batch(
            EndMarker(MarkerType.COMMIT, 3), producer_id=42, producer_epoch=1, timestamp_ms=1_700_000_000_126
        ),
    ]
    for one, offset in zip(made, (5, 7, 8), strict=True):
        stamp_offset(one, 0, offset, 0)
    directory = tmp_path / "data" / "orders-0"
    directory.mkdir(parents=True)
    path = directory / f"{5:020}.log"
    path.write_bytes(b"".join(made))
    path.with_suffix(".index").write_bytes(offset_index.ENTRY.pack(2, len(made[0])) + bytes(16))
    path.with_suffix(".timeindex").write_bytes(time_index.ENTRY.pack(1_700_000_000_126, 3))
    return path


def damage(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[65] ^= 1
    log.write_bytes(data)


def test_dump_prints_a_line_a_batch(log: Path):
    result = run("dump", log)
    assert result.exit_code == 0, result.output
    head, first, second, marker = result.stdout.splitlines()
    assert head.split()[:3] == ["position", "offsets", "records"]
    assert first.split() == ["0", "5..6", "2", "none", "2023-11-14T22:13:20.124Z", "-", "-", "ok", first.split()[-1]]
    assert second.split()[1:9] == ["7..7", "1", "zstd", "2023-11-14T22:13:20.125Z", "42/1", "7", "ok", "tx"]
    assert marker.split()[-3:-1] == ["tx", "ctl"]
    assert len({len(line) for line in (head, first, second, marker)}) == 1


def test_dump_prints_records_bounded_and_escaped(log: Path):
    result = run("dump", "--records", log)
    assert "key=alpha value=one h:x" in result.stdout
    assert "key=null value=0xff00" in result.stdout
    assert f"key={'k' * 64}… (500 bytes) value=null" in result.stdout
    assert "commit marker, coordinator epoch 3" in result.stdout


def test_dump_as_json_is_one_object_a_line(log: Path):
    lines = json_lines(run("dump", "--records", "--format", "json", log))
    assert next(line["position"] for line in lines if "position" in line) == 0
    records = [line for line in lines if "offset" in line]
    assert records[0] == {
        "offset": 5,
        "timestamp_ms": 1_700_000_000_123,
        "key": "alpha",
        "value": "one",
        "headers": [{"name": "h", "value": "x"}],
    }
    assert records[1]["value_hex"] == "ff00"
    assert records[2]["key"] == "k" * 500
    assert records[3]["marker"] == "commit"
    (second,) = [line for line in lines if line.get("codec") == "zstd"]
    assert (second["base_offset"], second["last_offset"], second["flags"], second["ok"]) == (7, 7, ["tx"], True)


def test_dump_prints_indexes(log: Path):
    result = run("dump", "--format", "json", log.with_suffix(".index"), log.with_suffix(".timeindex"))
    first, second = json_lines(result)
    assert (first["offset"], first["entry"]) == (7, 0)
    assert (second["timestamp_ms"], second["offset"]) == (1_700_000_000_126, 8)
    assert "offset 7" in run("dump", log.with_suffix(".index")).stdout


def test_dump_goes_on_after_damage_and_exits_1(log: Path):
    damage(log)
    result = run("dump", "--records", log)
    assert result.exit_code == 1
    assert "BAD" in result.stdout
    assert "7..7" in result.stdout
    assert "CRC32C" in result.stderr
    assert "alpha" not in result.stdout


def test_dump_tells_a_torn_tail(log: Path):
    log.write_bytes(log.read_bytes()[:-3])
    result = run("dump", log)
    assert result.exit_code == 1
    assert "torn" in result.stderr


def test_verify_says_ok_for_files_and_directories(log: Path):
    for path in (log, log.parent, log.parent.parent):
        result = run("verify", "--deep", path)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("ok ")
        assert "3 batches, 4 records" in result.stdout


def test_verify_names_file_position_and_what_to_do(log: Path):
    damage(log)
    result = run("verify", log.parent)
    assert result.exit_code == 1
    assert result.stdout.startswith("DAMAGED")
    assert f"{log} byte 0: CRC32C" in result.stdout
    (line,) = json_lines(run("verify", "--format", "json", log))
    assert line["ok"] is False
    assert line["damage_count"] == 1
    assert line["damages"][0]["position"] == 0
    assert line["damages"][0]["hint"]


def test_a_dry_run_says_what_a_repair_then_does(log: Path):
    damage(log)
    before = {path.name: path.read_bytes() for path in log.parent.iterdir()}
    first_bytes = before[log.name].index((7).to_bytes(8, "big"))
    result = run("repair", "--dry-run", log.parent.parent)
    assert result.exit_code == 1
    assert {path.name: path.read_bytes() for path in log.parent.iterdir()} == before
    head, where, why, indexes = result.stdout.splitlines()
    assert head.startswith(f"would repair {log}  2 batches, 2 records stay")
    assert f"bytes taken out: 0 to byte {first_bytes}, {first_bytes} bytes; offsets 5..6 are lost, 2 records" in where
    assert "CRC32C" in why
    assert indexes.split() == ["made", "anew:", f"{log.stem}.index,", f"{log.stem}.timeindex"]

    result = run("repair", log.parent.parent)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == f"repaired     {log}  2 batches, 2 records stay"
    assert result.stdout.splitlines()[1:4] == [where, why, indexes]
    assert result.stdout.splitlines()[4] == f"             kept: {log}.damaged-1"
    assert Path(f"{log}.damaged-1").read_bytes() == before[log.name]
    result = run("verify", "--deep", log)
    assert result.exit_code == 0
    assert "offsets 5..8  2 batches, 2 records" in result.stdout
    result = run("repair", log)
    assert (result.exit_code, result.stdout) == (0, f"ok           {log}  2 batches, 2 records\n")


def test_a_repair_as_json(log: Path):
    log.write_bytes(log.read_bytes() + b"\x07" * 100)
    (line,) = json_lines(run("repair", "--format", "json", log))
    (loss,) = line["losses"]
    assert line["verdict"] == "repaired"
    assert (loss["from_offset"], loss["next_offset"], loss["records_max"]) == (9, None, None)
    assert loss["end"] - loss["position"] == 100
    assert line["kept"][0] == f"{log}.damaged-1"


def test_a_repair_is_refused_while_the_directory_is_in_use(log: Path, capsys: pytest.CaptureFixture[str]):
    damage(log)
    before = log.read_bytes()
    lock = OsFiles().lock(str(log.parent.parent / ".lock"))
    try:
        for path in (log, log.parent, log.parent.parent):
            assert main.run(["segment", "repair", str(path)]) == 1
            out, err = capsys.readouterr()
            assert not out
            assert err.startswith("error: ")
            assert "in use by process" in err
        assert run("repair", "--dry-run", log).exit_code == 1
        assert log.read_bytes() == before
    finally:
        lock.release()
    assert run("repair", log).exit_code == 0


def test_a_repair_goes_on_with_the_next_segment_after_a_failure(log: Path):
    damage(log)
    (log.parent / f"{1:020}.log").mkdir()
    result = run("repair", log.parent)
    assert result.exit_code == 1
    assert "Is a directory" in result.stderr
    assert "repaired" in result.stdout


def test_verify_knows_that_another_segment_follows(log: Path):
    log.write_bytes(log.read_bytes() + bytes(50))
    assert run("verify", log).exit_code == 0
    (log.parent / f"{9:020}.log").write_bytes(b"")
    result = run("verify", log)
    assert result.exit_code == 1
    assert "50 zeros" in result.stdout


def test_list_shows_every_segment(log: Path):
    (log.parent / f"{9:020}.log").write_bytes(b"")
    result = run("list", log.parent.parent)
    assert result.exit_code == 0
    head, first, second = result.stdout.splitlines()
    assert head.split()[0] == "partition"
    assert first.split() == ["orders-0", "5", str(log.stat().st_size), "24", "12", "-"]
    assert second.split() == ["orders-0", "9", "0", "-", "-", "-"]
    line = json_lines(run("list", "--format", "json", log))[0]
    assert (line["partition"], line["base_offset"], line["index_bytes"], line["txnindex_bytes"]) == (
        "orders-0", 5, 24, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "args",
    [
        ("verify", "missing"),
        ("list", "missing"),
        ("verify", "empty"),
        ("verify", "x.log"),
        ("dump", "x.txt"),
        ("dump", "x.index"),
        ("dump", "--format", "xml", "x.log"),
        ("verify",),
        ("repair",),
        ("repair", "missing"),
        ("repair", "x.index"),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("x.log", "x.txt", "x.index"):
        (tmp_path / name).write_bytes(b"")
    result = run(*args)
    assert result.exit_code == 2
    assert not result.stdout


def test_a_missing_file_to_dump_is_wrong_usage(tmp_path: Path):
    result = run("dump", tmp_path / f"{0:020}.log")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    assert not result.stdout


def test_a_reader_that_closes_the_pipe_ends_a_dump_silently(log: Path):
    command = [sys.executable, "-m", "tools", "segment", "dump", str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=UNBUFFERED) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_format_comes_from_the_environment_too(log: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOGSTORE_FORMAT", "json")
    assert json_lines(run("list", log))[0]["base_offset"] == 5


def test_an_empty_segment_has_no_range_of_offsets(log: Path):
    log.write_bytes(b"")
    for index in (".index", ".timeindex"):
        log.with_suffix(index).unlink()
    assert f"{log}  next offset 5  0 batches" in run("verify", log).stdout


def test_importing_the_command_loads_no_codec_nor_log():
    program = (
        "import sys, tools.segment; print([m for m in sys.modules if m.startswith(('logstore.', 'lz4', 'cramjam'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
