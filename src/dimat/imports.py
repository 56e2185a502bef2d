"""Modules of a user's own, by their names: from where Python looks, and from the current folder."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

from dimat.errors import ConfigError, first_line


@contextmanager
def in_current_folder() -> Iterator[None]:
    """Modules of the current folder can be imported inside, as ``python -m`` has it.

    After everywhere else, so that no file in it takes the place of an installed module.
    """
    here = os.getcwd()
    importlib.invalidate_caches()  # the file may be newer than the last look at its folder
    sys.path.append(here)
    try:
        yield
    finally:
        if here in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]


def import_modules(names: Iterable[str]) -> None:
    """Import modules for what they register.

    Args:
        names: Of the modules, such as ``mypackage.mymethods``.

    Raises:
        ConfigError: For the first that cannot be imported, with the reason.

    >>> import_modules(["nowhere.at_all"])
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: setting 'imports' has 'nowhere.at_all', which cannot be imported: ...
    """
    for name in names:
        if name.endswith(".py") or set("/\\") & set(name):
            dotted = ".".join(PurePath(name).with_suffix("").parts)
            raise ConfigError(
                f"setting 'imports' has '{name}': must be the name of a module, such as {dotted} "
                "for that file, seen from the current folder"
            )
        try:
            with in_current_folder():
                importlib.import_module(name)
        except Exception as error:  # a user's module raises what it likes, a SyntaxError too
            missing = isinstance(error, ModuleNotFoundError)
            way = " (have it installed, on PYTHONPATH, or in the current folder)" if missing else ""
            raise ConfigError(
                f"setting 'imports' has '{name}', which cannot be imported: "
                f"{type(error).__name__}: {first_line(error)}{way}"
            ) from error
