"""Laws, and what they say when they are broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from dimat.errors import first_line


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
    except Exception as error:  # what is checked is a user's own, and raises what it likes
        found = f"{type(error).__name__}: {first_line(error)}"
        raise AssertionError(f"broken: {said}: {found}") from error


def keeps(laws: Iterable[Callable[..., None]], *given: Any) -> None:
    """Check all laws: functions of what is given, each with the law as its docstring."""
    for one in laws:
        with law((one.__doc__ or one.__name__).rstrip(".").split("\n")[0]):
            one(*given)
