"""Settings of the data that a source may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["auto", "images", "arrays"]


@dataclass(frozen=True)
class SourceOptions:
    """Settings of a run that sources are given, those that have a parameter ``options``.

    Args:
        kind: Whether inputs are images, or arrays that models get as they are; auto: as the source
            finds them.
    """

    kind: Kind = "auto"


DEFAULTS = SourceOptions()
