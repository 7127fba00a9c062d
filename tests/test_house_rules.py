"""The rules of the house, run by the same command as every other test: format, lint, types, who imports whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "."],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=lambda command: command[0] + "-" + command[-1] if len(command) > 1 else command[0],
)
def test_the_tree_keeps_the_rule(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_document_names_the_strangers_package() -> None:
    """`logstore` on the package index belongs to somebody else; ours is `logstore-engine`."""
    wrong = "pip install " + "logstore"
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for line in path.read_text().splitlines():
            assert wrong not in line.replace("logstore-engine", ""), f"{path.name}: {line}"
