"""Writing a merged adapter: its folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from dimat.checkpoints.formats.adapter_folders import write_adapter
from dimat.errors import ConfigError
from dimat.tools.adapters.run import AdaptersResult


def write_adapters(result: AdaptersResult) -> None:
    """Write the merged adapter.

    Args:
        result: The result of a merge.

    Raises:
        ConfigError: If it cannot be written; nothing is written then.
    """
    try:
        write_adapter(result.written, result.chosen.state, Path(result.config.out))
    except OSError as error:
        raise ConfigError(
            f"setting 'out': {result.config.out} cannot be written: {error}"
        ) from error
