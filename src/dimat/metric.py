"""Metrics by which runs are judged and compared: without PyTorch, as records are read with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number by which predictions are judged.

    Args:
        name: Word of letters, digits and ``_``: run folders have it as ``test_NAME``.
        higher_is_better: Whether more of it is better.
        percent: Whether it is a fraction that people read in percent.
    """

    name: str
    higher_is_better: bool = True
    percent: bool = False

    def best(self, values: Sequence[float]) -> float:
        """The best of some values, one at least.

        >>> Metric("mse", higher_is_better=False).best([0.5, 0.1])
        0.1
        """
        return max(values) if self.higher_is_better else min(values)

    def worst(self, values: Sequence[float]) -> float:
        """The worst of some values, one at least."""
        return min(values) if self.higher_is_better else max(values)

    @property
    def title(self) -> str:
        """The name in words, with its unit.

        >>> Metric("accuracy", percent=True).title, Metric("exact_match").title
        ('accuracy in %', 'exact match')
        """
        return self.name.replace("_", " ") + (" in %" if self.percent else "")

    def note(self, value: float | None) -> str:
        """The number that people read in a line of news; its name where it is no percentage.

        >>> Metric("accuracy", percent=True).note(0.9123), Metric("mse").note(0.0314159)
        (' 91.2 %', 'mse 0.0314')
        """
        if self.percent:
            return f"{self.show(value):>5} %"
        return f"{self.name} {self.show(value)}"

    def show(self, value: float | None) -> str:
        """The number that people read, without unit; a dash for None.

        >>> Metric("accuracy", percent=True).show(0.9123), Metric("mse").show(0.0314159)
        ('91.2', '0.0314')
        """
        if value is None:
            return "–"
        return f"{100 * value:.1f}" if self.percent else f"{value:.3g}"


ACCURACY = Metric("accuracy", percent=True)
