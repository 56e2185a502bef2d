"""Settings of the data that a source may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dimat.tasks import CLASSIFICATION, Task

Kind = Literal["auto", "images", "arrays"]
TEST_SHARE = 0.2


@dataclass(frozen=True)
class SourceOptions:
    """Settings of a run that sources are given, those that have a parameter ``options``.

    Args:
        kind: Whether inputs are images, or arrays that models get as they are; auto: as the source
            finds them.
        task: The task that targets are of.
        target: Columns of a table that hold the targets.
        leave_out: Columns that are neither inputs nor targets.
        categories: The texts that a column may have, in their order, as ``COLUMN=A|B|C``; of other
            columns of text those that are there.
        fill: The number that stands in place of missing ones; None: they are refused.
        text: The column of texts, which are the only inputs; empty: there is none.
        tokenizer: Name or folder of the tokenizer of the texts.
        max_length: Tokens of a text that are kept.
        test_share: Share of the samples that are the test part of a source that has no parts.
    """

    kind: Kind = "auto"
    task: Task = CLASSIFICATION
    target: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    fill: float | None = None
    text: str = ""
    tokenizer: str = ""
    max_length: int = 128
    test_share: float = TEST_SHARE


DEFAULTS = SourceOptions()
