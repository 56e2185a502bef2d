"""Every error a user can cause: a small tree under :class:`DimatError`.

Each is also a ``ValueError`` or ``RuntimeError``, so code that knows nothing of dimat can catch it.
A message says where, what was found, what the rule is, and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

_Value = TypeVar("_Value")


class DimatError(Exception):
    """Anything dimat refuses or gives up on."""


class ConfigError(DimatError, ValueError):
    """A setting that is unknown, of the wrong type, or out of its range."""


class DataError(DimatError, ValueError):
    """Images, labels or splits that cannot be used."""


class ModelError(DimatError, ValueError):
    """A model that cannot be built, exported, or used on this data."""


class TopologyError(DimatError, ValueError):
    """A graph or mixing matrix that breaks its rules."""


class StructureError(DimatError, ValueError):
    """States, permutations or symmetries that do not belong together."""


class RecordError(DimatError, ValueError):
    """Folders of runs and comparisons that cannot be read."""


class TrainingError(DimatError, RuntimeError):
    """Training that cannot go on, such as a loss that is not finite."""


class ExchangeError(DimatError, RuntimeError):
    """Agents that cannot talk: one is lost, a message does not fit, or their settings differ."""


class Stopped(DimatError, RuntimeError):
    """A run that stopped where it can go on, as ``max_wall_s`` told it to, with more to do."""


@contextmanager
def in_words(what: str, kind: type[DimatError] = ModelError, after: str = "") -> Iterator[None]:
    """Turn whatever is raised inside into an error of ours, which names what failed.

    Errors that are ours already, and those that only stop a program, go through as they are.

    Args:
        what: What is being done, for the message.
        kind: The class of the error.
        after: Said in the end, such as a way out.

    >>> with in_words("the merge"):
    ...     {}["w"]
    Traceback (most recent call last):
        ...
    dimat.errors.ModelError: the merge failed: KeyError: 'w'
    """
    try:
        yield
    except DimatError:
        raise
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        said = f"{type(error).__name__}: {first.strip()}".removesuffix(": ")
        raise kind(f"{what} failed: {said}{after}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown ``name``: the closest of ``known``, and all of them.

    >>> did_you_mean("rnig", ["ring", "full"])
    "did you mean 'ring'? known: full, ring"
    >>> did_you_mean("zzz", ["ring", "full"])
    'known: full, ring'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def check_known(setting: str, name: str, known: Collection[str]) -> None:
    """Refuse an unknown name.

    Args:
        setting: What the name was given for, for the message.
        name: The name.
        known: All names that there are.

    Raises:
        ConfigError: Naming the closest one, and all.

    >>> check_known("model", "b", ["mlp"])
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: setting 'model' is 'b', which is unknown: known: mlp
    """
    if name not in known:
        raise ConfigError(
            f"setting '{setting}' is '{name}', which is unknown: {did_you_mean(name, known)}"
        )


def look_up(setting: str, name: str, registry: Mapping[str, _Value]) -> _Value:
    """What a registry has under a name.

    Args:
        setting: What the name was given for, for the message.
        name: The name.
        registry: Values by name.

    Raises:
        ConfigError: If there is nothing of that name; with the closest one.

    >>> look_up("method", "b", {"a": 1, "b": 2})
    2
    """
    check_known(setting, name, registry)
    return registry[name]
