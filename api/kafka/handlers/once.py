"""What a request names twice is looked at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")


def once(items: Iterable[T], key: Callable[[T], Hashable]) -> Collection[T]:
    """`items` without those that ask for the same again; the last of each counts, in the place of the first.

    For requests whose answer is larger than the question: a few bytes a thousand times over would fill the memory.
    """
    return {key(each): each for each in items}.values()
