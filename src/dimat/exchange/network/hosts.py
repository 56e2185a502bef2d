"""Addresses of machines: HOST:PORT taken apart, and whether an address is of this machine alone."""

from __future__ import annotations

import ipaddress
import re
import socket

_PORTS = 65_535


def split_address(address: str) -> tuple[str, int] | None:
    """Host and port of HOST:PORT; None if it is something else.

    >>> split_address("site.example.org:7400"), split_address("[::1]:0"), split_address("::1:7400")
    (('site.example.org', 7400), ('::1', 0), None)
    """
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[\w.-]{1,253}):([0-9]{1,5})", address)
    if found is None or int(found[2]) > _PORTS:
        return None
    return found[1].strip("[]"), int(found[2])


def join_address(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets.

    >>> join_address("::1", 7400)
    '[::1]:7400'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether an address, or every address of a name, is of this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(x[4][0]).is_loopback for x in found)
