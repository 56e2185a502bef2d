"""Presets: settings that belong together, by name, each a YAML file of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dimat.errors import look_up

PRESETS = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def with_presets(words: Sequence[str]) -> list[str]:
    """A command line whose presets are the files that they name.

    Raises:
        ConfigError: If there is no preset of a name.

    >>> with_presets(["--preset", "paper", "--rounds", "3"])[0]
    '--config'
    """
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != "--preset":
            found.append(word)
            continue
        value = value if equals else next(rest, "")
        found += ["--config", str(look_up("preset", value, PRESETS))]
    return found
