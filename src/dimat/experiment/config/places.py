"""Rules for text that names a place: a file or folder, a device, a machine, a port of one."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

from dimat.experiment.config.rules import broken_rule

GIVEN = "given"  # in settings of a run that was given an object from Python
_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes: of one name, and of a path with what we add to it
_HOST = r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?"
_PORTS = 65_535
AGENT = "{agent}"  # in a source: the number of the agent whose own it is
_DEVICE = r"cpu|cuda(?::\d{1,4})?"


def check_path(setting: str, given: str, *, spare: int = 0) -> Path:
    """The path that ``given`` is, if a file system can have one with ``spare`` bytes added.

    Raises:
        ConfigError: If it is empty, or has characters or a length that none can have.

    >>> check_path("out", "runs/first").name
    'first'
    >>> check_path("out", "")
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: setting 'out' is '': must be a path
    """
    if not given.strip() or "\0" in given:
        raise broken_rule(setting, given, "a path")
    try:
        names = [os.fsencode(name) for name in Path(given).parts]
    except UnicodeEncodeError:
        raise broken_rule(setting, given, "a path that can be written as UTF-8") from None
    longest = max(map(len, names), default=0) + spare
    if longest > _LONGEST_NAME or sum(map(len, names)) + len(names) > _LONGEST_PATH:
        rule = f"a path of names of at most {_LONGEST_NAME - spare} bytes, {_LONGEST_PATH:,} in all"
        raise broken_rule(setting, given, rule)
    return Path(given)


def check_source(setting: str, given: str) -> None:
    """Refuse a source of data, such as ``npz:PATH``, whose path no file system can have.

    Raises:
        ConfigError: As :func:`check_path` does.
    """
    kind, colon, place = given.partition(":")
    if colon and kind in ("npz", "folder", "csv", "jsonl", "parquet"):
        if not place.strip():
            raise broken_rule(setting, given, f"{kind}:PATH")
        check_path(setting, place)


def check_device(setting: str, given: str) -> None:
    """Refuse the name of a device of another kind than those that PyTorch trains on here.

    Raises:
        ConfigError: If it is none.

    >>> check_device("device", "cuda:1")
    """
    if not re.fullmatch(_DEVICE, given):
        raise broken_rule(setting, given, "cpu, cuda or cuda:N")


def endpoint(setting: str, given: str, *, any_port: bool = False) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address is in brackets, port 0 is any that is free.

    Raises:
        ConfigError: If it is something else.

    >>> endpoint("listen", "10.0.0.1:7400"), endpoint("listen", "[::1]:0", any_port=True)
    (('10.0.0.1', 7400), ('::1', 0))
    """
    before, _, port = given.rpartition(":")
    host = _host(before) if ":" not in before or before.startswith("[") else None
    if host is None or not re.fullmatch(r"[0-9]{1,5}", port):
        raise broken_rule(setting, given, "HOST:PORT, such as 127.0.0.1:7400 or [::1]:7400")
    least = 0 if any_port else 1
    if not least <= int(port) <= _PORTS:
        raise broken_rule(setting, given, f"HOST:PORT with a port in {least} … {_PORTS}")
    return host, int(port)


def _host(text: str) -> str | None:
    """Address without its brackets; None if the text is no address."""
    inside = text.removeprefix("[").removesuffix("]")
    if ":" in inside:
        return inside if _is_ip(inside) else None
    return text if len(text) <= 253 and re.fullmatch(_HOST, text) else None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
