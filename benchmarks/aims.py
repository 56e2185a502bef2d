"""A figure beside its aim, in the same words in every benchmark."""

from __future__ import annotations


def beside_aim(value: float, aim: float, *, at_least: bool = False) -> str:
    """The aim of a figure, and whether the figure meets it.

    Args:
        value: The figure.
        aim: The most that it may be.
        at_least: Whether the aim is the least that it may be.

    >>> beside_aim(1.05, 1.1), beside_aim(1.4, 3, at_least=True)
    ('aim: at most 1.1, met', 'aim: at least 3, missed')
    """
    met = value >= aim if at_least else value <= aim
    bound = "at least" if at_least else "at most"
    return f"aim: {bound} {aim:,g}, {'met' if met else 'missed'}"
