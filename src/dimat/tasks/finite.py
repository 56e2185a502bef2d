"""Arrays of finite numbers, and the places of those that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimat.errors import DataError


def as_floats(given: NDArray[np.generic], where: str) -> NDArray[np.float32]:
    """Real numbers as float32, all finite.

    Args:
        given: Numbers of any shape.
        where: Name of the array, for messages.

    Raises:
        DataError: If one is NaN, infinite, or too large for float32; with its place.

    >>> as_floats(np.array([0.5, np.nan]), "y")
    Traceback (most recent call last):
        ...
    dimat.errors.DataError: y has nan in row 1 (counted from 0), and values that are not finite as
    float32 in 1 place: fill them in, or leave those samples out
    """
    with np.errstate(over="ignore"):  # what is too large for float32 is told below
        found = np.ascontiguousarray(given, dtype=np.float32)
    check_finite(found, given, where)
    return found


def check_finite(found: NDArray[Any], given: NDArray[np.generic], where: str) -> None:
    """Refuse numbers that are NaN or infinite.

    Args:
        found: The numbers.
        given: The numbers that they were made of, for the message.
        where: Name of the array, for the message.

    Raises:
        DataError: With the first place.
    """
    wrong = ~np.isfinite(found)
    if wrong.any():
        count = int(wrong.sum())
        places = f"{count:,} place{'s' * (count > 1)}"
        raise DataError(
            f"{where} has {given[first(wrong)]} {place_of(wrong)}, and values that are not finite "
            f"as float32 in {places}: fill them in, or leave those samples out"
        )


def first(wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    """The index of the first element of a mask that is true, one at least.

    >>> first(np.array([[False, False], [False, True]]))
    (1, 1)
    """
    return tuple(int(axis) for axis in np.unravel_index(int(wrong.argmax()), wrong.shape))


def place_of(wrong: NDArray[np.bool_]) -> str:
    """The first element of a mask that is true, in words.

    >>> place_of(np.array([[False, False], [False, True]])), place_of(np.array([False, True]))
    ('in row 1, column 1 (counted from 0)', 'in row 1 (counted from 0)')
    >>> place_of(np.ones((1, 1, 1), bool))
    'at [0, 0, 0]'
    """
    index = first(wrong)
    if len(index) > 2:
        return f"at {[*index]}"
    words = zip(("row", "column"), index, strict=False)
    return f"in {', '.join(f'{word} {number}' for word, number in words)} (counted from 0)"
