"""Parameters of methods as text: ``NAME=VALUE``, in files, on the command line, in records."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Final, Literal, get_args, get_origin

from dimat.errors import ConfigError

LATER = ("method_options", "imports")  # left out of digests where empty: older runs go on
NOT_OF_TYPE: Final = object()
_WORDS = {True: "true", False: "false", None: "null"}


def as_options(values: Mapping[str, object]) -> tuple[str, ...]:
    """Values by name as options.

    >>> as_options({"keep": 0.5, "warm": True, "end": None})
    ('keep=0.5', 'warm=true', 'end=null')
    """
    return tuple(f"{name}={_text(value)}" for name, value in values.items())


def _text(value: object) -> str:
    return _WORDS[value] if value is None or isinstance(value, bool) else str(value)


def split_option(option: str) -> tuple[str, str]:
    """The name and the value of an option.

    Raises:
        ConfigError: If it has no name or no value.

    >>> split_option("keep=0.5")
    ('keep', '0.5')
    """
    name, equals, text = option.partition("=")
    if not name.strip() or not equals:
        raise ConfigError(
            f"setting 'method_options' has '{option}': must be NAME=VALUE, such as keep=0.5"
        )
    return name.strip().replace("-", "_"), text.strip()


def of_type(text: str, kind: object) -> object:
    """A text as a value of a type; NOT_OF_TYPE if it is none.

    >>> of_type("3", int), of_type("null", float | None), of_type("b", Literal["a", "b"])
    (3, None, 'b')
    >>> of_type("x", int) is NOT_OF_TYPE
    True
    """
    if get_origin(kind) is Literal:
        return next((own for own in get_args(kind) if str(own) == text), NOT_OF_TYPE)
    if NoneType in get_args(kind) and text == "null":
        return None
    for own in get_args(kind) or (kind,):
        if own is bool and text in ("true", "false"):
            return text == "true"
        if own in (int, float, str):
            try:
                return own(text)
            except ValueError:
                continue
    return NOT_OF_TYPE
