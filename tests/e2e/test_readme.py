"""The first five minutes of the README, as pasted: every block runs against a real server and prints what it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def walk() -> str:
    """The indented blocks of the section, in order, as one script."""
    section = (ROOT / "README.md").read_text().split("## The first five minutes")[1].split("\n## ")[0]
    return "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))


@pytest.mark.e2e
def test_the_walk_works_as_pasted(server_factory: Any, tmp_path: Path) -> None:
    server = server_factory("logstore-data")
    script = (
        walk().replace("localhost:8080", server.http.removeprefix("http://")).replace("127.0.0.1:9092", server.kafka)
    )
    command = tmp_path / "bin" / "logstore"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tools "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "LOGSTORE_BOOTSTRAP": server.kafka, "PYTHONPATH": str(ROOT)}
    script = script.replace("export PATH=$PWD/.venv/bin:$PATH", "set -euo pipefail")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "0/0 alice=book" in said
    assert '"offsets":[{"partition":1,"offset":0' in said
    assert '"value":"chair"' in said or '"value":"Y2hhaXI="' in said, "the tail shows what was produced meanwhile"
    assert said.count("b'carol'") + said.count("""b'"carol"'""") == 1
    assert "lag 0" in said
    assert "key=alice value=book" in said
    assert "0 b'user-1' b'hello'" in said
