"""Every error has a wire code and a status, and `retriable` means the same on the wire."""

from __future__ import annotations

import inspect

import pytest

from api.errors import WIRE, wire
from cluster.error_codes import ErrorCode
from logstore import errors
from logstore.errors import LogstoreError

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, LogstoreError)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_class_has_a_row_of_its_own(error: type[LogstoreError]) -> None:
    code, http_status, rest_code = WIRE[error]
    assert code is not ErrorCode.NONE
    assert 400 <= http_status <= 599
    assert 40_000 <= rest_code <= 59_999


def test_a_subclass_without_a_row_takes_its_nearest_base() -> None:
    class Stale(errors.NotOwner):
        """Made here."""

    assert wire(Stale("x")) == WIRE[errors.NotOwner]


def test_the_hint_is_part_of_the_text() -> None:
    assert str(errors.InvalidConfig("no", hint="say yes")) == "no (say yes)"
    assert str(errors.InvalidConfig("no")) == "no"
