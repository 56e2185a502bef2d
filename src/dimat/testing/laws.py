"""Laws, and what they say when they are broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


def those_there(
    make: Callable[[int], object], sizes: Sequence[int], refusal: type[Exception], what: str
) -> list[int]:
    """The numbers of agents that something can be made for; more than one must be among them.

    Args:
        make: Makes it for a number of agents.
        sizes: The numbers that are tried.
        refusal: The error of those that it cannot be made for.
        what: The beginning of the law: "it is a graph of".
    """
    found, why = [], ""
    for agents in sizes:
        with law(f"where it cannot be of {agents} agents it raises {refusal.__name__}"):
            try:
                make(agents)
                found.append(agents)
            except refusal as error:
                why = f" ({error})"
    several = tuple(size for size in sizes if size > 1)
    with law(f"{what} some of {several} agents; of others it raises {refusal.__name__}{why}"):
        assert max(found, default=0) > 1
    return found
