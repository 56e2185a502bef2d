"""The files of a run folder as plain values: text, JSON, JSON lines, YAML; None if missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from dimat.errors import RecordError
from dimat.files import read_regular
from dimat.plain_yaml import load_yaml

# A place, a file or a line of one, for messages; and the object that was read there.
Placed = tuple[str, Mapping[str, object]]


def read_text(path: Path) -> str | None:
    """The text of a file; None if there is no file.

    Args:
        path: The file.

    Raises:
        RecordError: If the file cannot be read, or is not UTF-8.
    """
    try:
        return None if (found := _content(path)) is None else found.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not text in UTF-8") from error


def read_json(path: Path) -> Mapping[str, object] | None:
    """The JSON object of a file; None if there is no file.

    Args:
        path: The file.

    Raises:
        RecordError: If the file does not hold one JSON object.
    """
    return _read_mapping(path, json.loads, "a JSON object")


def read_yaml(path: Path) -> Mapping[str, object] | None:
    """The settings of a YAML file; None if there is no file.

    Args:
        path: The file.

    Raises:
        RecordError: If the file does not hold settings.
    """
    return _read_mapping(path, load_yaml, "settings as YAML")


def _read_mapping(
    path: Path, load: Callable[[str], object], what: str
) -> Mapping[str, object] | None:
    text = read_text(path)
    if text is None:
        return None
    try:
        found = load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        place = f", line {line}" if (line := _line_of(error)) else ""
        raise RecordError(f"{path}{place}: not {what}") from error
    if not isinstance(found, dict):
        raise RecordError(f"{path}: not {what}")
    return found


def _line_of(error: Exception) -> int | None:
    if isinstance(error, json.JSONDecodeError):
        return error.lineno
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return mark.line + 1 if mark else None


def read_json_lines(path: Path) -> tuple[list[Placed], str]:
    """The JSON objects of a file that has one a line.

    A run that is killed while it writes leaves its last line half written; it is left out.

    Args:
        path: The file.

    Returns:
        Every object with its place, none if there is no file; and a note if the last line was left
        out, else "".

    Raises:
        RecordError: If any other line is not a JSON object; names file and line.
    """
    lines = (_content(path) or b"").split(b"\n")
    found: list[Placed] = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return found, f"{where}, is half written and was left out."
            raise RecordError(f"{where}: not JSON, though it is not half written") from error
        if not isinstance(value, dict):
            raise RecordError(f"{where}: not a JSON object")
        found.append((where, value))
    return found, ""


def _content(path: Path) -> bytes | None:
    """The content of a file; None if there is no file."""
    try:
        return read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
