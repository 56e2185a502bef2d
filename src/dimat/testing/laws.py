"""Laws, and what they say when they are broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def law(said: str) -> Iterator[None]:
    """What is asserted inside is a law.

    Args:
        said: The law.

    >>> with law("one is two"):
    ...     assert 1 == 2
    Traceback (most recent call last):
        ...
    AssertionError: broken: one is two
    """
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"broken: {said}{f': {error}' if str(error) else ''}") from error


def keeps(laws: Iterable[Callable[..., None]], *given: Any) -> None:
    """Check all laws: functions of what is given, each with the law as its docstring."""
    for one in laws:
        with law((one.__doc__ or one.__name__).rstrip(".").split("\n")[0]):
            one(*given)
