"""Numbers and lists as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from dimat.metric import Metric
from dimat.tools.format import NOTHING
from dimat.tools.report.totals import Total


def percent(fraction: float | None) -> str:
    """A fraction in percent, as text; a dash if not known.

    Args:
        fraction: The fraction, or None.

    >>> percent(0.756), percent(None)
    ('75.6', '–')
    """
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"


def score(total: Total, metric: Metric) -> str:
    """Mean and sample standard deviation of the final score, as text.

    Args:
        total: The numbers of a series.
        metric: The main metric.

    >>> accuracy = Metric("accuracy", percent=True)
    >>> [score(Total(3, own, None, None, None), accuracy) for own in ((0.75, 0.77), ())]
    ['76.0 ± 1.4', '–']
    """
    return metric.show(total.mean) + ("" if total.sd is None else f" ± {metric.show(total.sd)}")


def counted(total: Total) -> str:
    """The number of runs in a mean, and of planned runs if there are more.

    Args:
        total: The numbers of a series.

    >>> counted(Total(3, (0.75, 0.77), None, None, None))
    '2 of 3'
    """
    return str(total.n) if total.n == total.of else f"{total.n} of {total.of}"


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    Args:
        words: The words.

    >>> listed(["dimat"]), listed(["dimat", "wa", "local"])
    ('dimat', 'dimat, wa and local')
    """
    return " and ".join(x for x in (", ".join(words[:-1]), *words[-1:]) if x)


def number_of(count: int, word: str) -> str:
    """A count with its noun in singular or plural.

    Args:
        count: The count.
        word: The noun in singular.

    >>> number_of(1, "run"), number_of(2, "run")
    ('1 run', '2 runs')
    """
    return f"{count} {word}{'' if count == 1 else 's'}"
