"""Every error a user can cause: a small tree under :class:`DimatError`.

Each is also a ``ValueError`` or ``RuntimeError``, so code that knows nothing of dimat can catch it.
A message says where, what was found, what the rule is, and the way out.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import nlargest
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import TypeVar

_Value = TypeVar("_Value")
_MOST_KEYS, _LONGEST_KEY = 10_000, 200  # of those that are looked through for a hint
_MOST_COMPARED = 100  # letter by letter: 100 names of 200 letters take 20 ms
MOST_SHOWN = 500  # characters of what others say
_BRIEF = reprlib.Repr()  # looks at the beginnings of what is long, or nested
_BRIEF.maxlong = _BRIEF.maxstring = _BRIEF.maxother = 100


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


class WriteError(DimatError, RuntimeError):
    """Files that cannot be written: the disk is full or read-only, or the folder is another's."""


class Stopped(DimatError, RuntimeError):
    """A run that stopped where it can go on, as ``max_wall_s`` told it to, with more to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or what is taken for it, with a word on what is kept and how to go on."""


@contextmanager
def if_interrupted(way_on: Callable[[], str]) -> Iterator[None]:
    """Say of an interrupt in the body the way on; of several around each other the outermost does.

    >>> try:
    ...     with if_interrupted(lambda: "the same command goes on"):
    ...         raise KeyboardInterrupt
    ... except Interrupted as error:
    ...     print(error)
    the same command goes on
    """
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if interrupt_of(error) is None:
            raise
        raise Interrupted(way_on()) from error


def interrupt_of(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error is or was caused by; None if there was none.

    A lock that is interrupted as it is taken cannot be released, and a class that is interrupted as
    it is made raises a ``RuntimeError``: no errors of their own.

    Args:
        error: The error.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the body into a :class:`WriteError` that names file and reason.

    >>> with writing(Path("run/metrics.jsonl")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
        ...
    dimat.errors.WriteError: run/metrics.jsonl cannot be written: No space left on device
    """
    try:
        yield
    except OSError as error:
        where, reason = error.filename or path, error.strerror or str(error)
        raise WriteError(f"{where} cannot be written: {reason}") from error


def shown(said: object, most: int = MOST_SHOWN) -> str:
    """What others say (peers, files), as it may stand in a message, a record, or on a terminal.

    Printable on one line: no sequence of control characters moves a cursor, and no half of a pair
    of characters keeps a line from being written.

    Args:
        said: Anything that was read as JSON.
        most: Characters, at most.

    >>> shown("a" * 9, most=4), shown("red: \\x1b[31m") == r"red: \\x1b[31m"
    ('aaa…', True)
    """
    text = said if isinstance(said, str) else _BRIEF.repr(said)
    whole = "".join(
        x if x.isprintable() else x.encode("unicode_escape").decode() for x in text[: most + 1]
    )
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def reason(error: Exception) -> str:
    """Why a file cannot be read: of an ``OSError`` without its number, and the path again.

    >>> reason(FileNotFoundError(2, "No such file or directory", "peers.yaml"))
    'No such file or directory'
    """
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type if it says nothing.

    >>> first_line(ValueError("one\\ntwo")), first_line(ValueError())
    ('one', 'ValueError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown ``name``: the closest of ``known``, and all of them.

    >>> did_you_mean("rnig", ["ring", "full"])
    "did you mean 'ring'? There are full, ring"
    >>> did_you_mean("zzz", ["ring", "full"])
    'there are full, ring'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? There" if close else "there"
    return f"{hint} are {', '.join(names)}"


def nearest_key(key: str, keys: Iterable[str]) -> str:
    """A hint for a state entry that is not there: the most similar one; empty if none is like it.

    One under another prefix comes before one in another spelling.

    Args:
        key: The entry's name.
        keys: Those that are there. Of many or long ones (a peer's, say) not all are compared.

    >>> nearest_key("conv1.weight", ["model.conv1.bias", "model.conv1.weight", "conv2.weight"])
    "; the nearest is 'model.conv1.weight'"
    >>> nearest_key("conv1.weight", ["head.bias"])
    ''
    """
    known = [own for own in islice(keys, _MOST_KEYS) if len(own) <= _LONGEST_KEY]
    same = [own for own in known if own.endswith(f".{key}") or key.endswith(f".{own}")]
    if same:
        return f"; the nearest is '{min(same, key=lambda own: abs(len(own) - len(key)))}'"
    parts = key.split(".")[::-1]
    alike = nlargest(_MOST_COMPARED, known, key=lambda own: _in_common(parts, own.split(".")[::-1]))
    close = difflib.get_close_matches(key[:_LONGEST_KEY], alike, n=1)
    return f"; the nearest is '{close[0]}'" if close else ""


def _in_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the common beginning of two sequences."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))


def check_known(setting: str, name: str, known: Collection[str]) -> None:
    """Refuse a name, given for a setting, that is not among those ``known``.

    Raises:
        ConfigError: Naming the closest one, and all.

    >>> check_known("model", "b", ["mlp"])
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: setting 'model' is 'b', which is unknown: there are mlp
    """
    if not isinstance(name, str):
        raise ConfigError(
            f"setting '{setting}' is {quoted(name)}: must be a name, one of "
            f"{', '.join(sorted(known))}"
        )
    if name not in known:
        way = did_you_mean(name, known)
        if hasattr(known, "register") and way.startswith("there"):  # it is like none of them
            way += "; one of your own is known once its module is imported: setting 'imports'"
        raise ConfigError(f"setting '{setting}' is '{name}', which is unknown: {way}")


def look_up(setting: str, name: str, registry: Mapping[str, _Value]) -> _Value:
    """Value of a registry under a name that was given for a setting.

    Raises:
        ConfigError: If there is nothing of that name; with the closest one.

    >>> look_up("method", "b", {"a": 1, "b": 2})
    2
    """
    check_known(setting, name, registry)
    return registry[name]


def chosen(
    setting: str, given: str | _Value, registry: Mapping[str, _Value], needs: Sequence[str]
) -> _Value:
    """Value of a registry under a name, or the caller's own that has the attributes it ``needs``.

    Raises:
        ConfigError: If there is nothing of that name, or the value lacks an attribute.

    >>> chosen("method", int, {"one": 1}, ["real"])
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: setting 'method' is the class int: give an object of it, int(…)
    """
    if isinstance(given, str):
        return look_up(setting, given, registry)
    if isinstance(given, type):
        name = given.__name__
        raise ConfigError(
            f"setting '{setting}' is {quoted(given)}: give an object of it, {name}(…)"
        )
    lacking = [name for name in needs if not hasattr(given, name)]
    if lacking:
        raise ConfigError(
            f"setting '{setting}' is {quoted(given)}, which has no '{lacking[0]}': must be an "
            f"object with {' and '.join(needs)}, or one of {', '.join(sorted(registry))}"
        )
    return given


def quoted(value: object) -> str:
    """A value as messages name it: text and numbers as they are, others by their type.

    >>> quoted("3"), quoted(None), quoted(int), quoted([1, 2])
    ("'3'", 'None', 'the class int', 'of type list')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, int, float)):
        text = repr(value)
        return text if len(text) <= 100 else f"{text[:99]}…"
    return f"of type {type(value).__name__}"


def check_kind(setting: str, value: object, kind: type | tuple[type, ...], rule: str) -> None:
    """Refuse a value that is of none of some types; the ``rule`` says what it must be.

    Raises:
        ConfigError: If so.

    >>> check_kind("timeout_s", "3", (int, float), "a number")
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: 'timeout_s' is '3': must be a number
    """
    if not isinstance(value, kind):
        raise ConfigError(f"'{setting}' is {quoted(value)}: must be {rule}")


def check_whole(setting: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        ConfigError: If so.

    >>> check_whole("images", 0)
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: 'images' is 0: must be >= 1
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ConfigError(f"'{setting}' is {quoted(value)}: must be a whole number >= {least}")
    if int(value) < least:
        raise ConfigError(f"'{setting}' is {value}: must be >= {least}")
