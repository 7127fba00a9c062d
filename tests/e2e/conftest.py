"""What the client libraries leave behind is swept up before the next module, and not held against it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _swept() -> Iterator[None]:
    """kafka-python drops sockets of lost connections unclosed; modules that use it ignore ResourceWarning."""
    yield
    gc.collect()
