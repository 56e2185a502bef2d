"""Files of keys and certificates: whole or not there, and keys for their owner alone."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dimat.errors import ConfigError, first_line, writing
from dimat.files import open_regular, read_regular

PRIVATE, PUBLIC = 0o600, 0o644


def write(path: Path, content: bytes, mode: int = PUBLIC, *, overwrite: bool = False) -> None:
    """Write a file whole, with a mode that it has from the beginning.

    Args:
        path: The file.
        content: All of it.
        mode: Who may read it.
        overwrite: Whether one that is there is replaced.

    Raises:
        ConfigError: If there is one already.
        WriteError: If it cannot be written.
    """
    if not overwrite:
        check_free(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path)
            else:
                _place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def check_free(path: Path) -> None:
    """Refuse a place where something is.

    Raises:
        ConfigError: If so.
    """
    if os.path.lexists(path):
        raise _exists(path)


def read(path: Path, way_out: str) -> bytes:
    """The content of a file.

    Raises:
        ConfigError: If there is none, with the way out, or it cannot be read.
    """
    try:
        return read_regular(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: {way_out}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def read_key(path: Path, way_out: str) -> bytes:
    """The content of a file with a private key, which nobody but its owner may read.

    Raises:
        ConfigError: If there is none, others may read it, or it cannot be read.
    """
    try:
        with open_regular(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(
                    f"{path} has mode {mode:o}: a key is for its owner alone; 'chmod 600 {path}', "
                    "and if others had access to it, have a new certificate issued for a new key"
                )
            return file.read()
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: {way_out}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new private key, ECDSA over P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM, not encrypted: agents start without anybody there."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_of(path: Path, content: bytes) -> object:
    """The private key in a file's content.

    Raises:
        ConfigError: If there is none, or it is encrypted.
    """
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise ConfigError(
            f"{path} is encrypted: agents start without anybody there who could say a password; "
            f"write it plain, with mode 600"
        ) from error
    except Exception as error:
        raise ConfigError(f"{path} has no private key in PEM: {first_line(error)}") from error


def _place(temporary: Path, path: Path) -> None:
    """Give a file its name if nothing has it: unlike a rename, a link fails if something has."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):  # of memory sticks, without links
            raise
        temporary.rename(path)


def _exists(path: Path) -> ConfigError:
    return ConfigError(f"{path} exists: '--overwrite' replaces it, or name another place")
