"""The registry of tasks, which finds one of your own by ``package.module:factory``, too."""

from __future__ import annotations

import importlib

from dimat.errors import ConfigError, first_line
from dimat.imports import in_current_folder
from dimat.registry import Registry
from dimat.tasks.protocol import Task


class Tasks(Registry[Task]):
    """Tasks by name; ``package.module:factory`` is imported when it is first asked for.

    The factory is a class or a function without arguments, or the task itself. Modules are looked
    for in the current folder too, as those of models are.
    """

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and ":" in name)

    def __getitem__(self, name: str) -> Task:
        if ":" in name and name not in self._things:
            self._things[name] = self.prepared(name, _made(name))
        return super().__getitem__(name)


def _made(name: str) -> object:
    """The task that a name of this form stands for.

    Raises:
        ConfigError: If it cannot be imported, or its factory fails.
    """
    module, _, attribute = name.partition(":")
    try:
        with in_current_folder():
            own: object = getattr(importlib.import_module(module), attribute)
            return own() if callable(own) and not hasattr(own, "totals") else own
    except Exception as error:  # a user's module raises what it likes
        raise ConfigError(
            f"task '{name}' cannot be imported: {type(error).__name__}: {first_line(error)} (write "
            "package.module:factory, with the package installed, on PYTHONPATH, or in the current "
            "folder)"
        ) from error
