"""The texts of a column as ids of tokens, by a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dimat.data.options import SourceOptions
from dimat.data.tables.cells import meaning, refuse_missing, texts
from dimat.errors import DataError, first_line

_NO_TARGET = -100  # of language-modeling


@dataclass(frozen=True)
class Texts:
    """Texts as ids, of one length.

    Args:
        ids: (rows, length) int64 by part; behind a text that is shorter stands the padding.
        padding: The id that is no token of a text.
        tokens: Every token, by its id.
    """

    ids: Mapping[str, Tensor]
    padding: int
    tokens: tuple[str, ...]

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The ids as targets of language-modeling: the padding is none."""
        return {
            part: own.masked_fill(own == self.padding, _NO_TARGET) for part, own in self.ids.items()
        }


def as_texts(tables: Mapping[str, Any], options: SourceOptions, where: str) -> Texts:
    """The texts in a column, cut or filled up to ``max_length`` tokens.

    Where the tokenizer has no token to fill up with, one more than its own is.

    Args:
        tables: PyArrow tables by their part.
        options: Of them ``text``, ``tokenizer`` and ``max_length``.
        where: The source, for messages.

    Raises:
        DataError: If the column is no text, a cell is missing, or there is no such tokenizer.
    """
    name = options.text
    tokenizer = _tokenizer(options.tokenizer, where)
    vocabulary = len(tokenizer)
    tokens = [str(own) for own in tokenizer.convert_ids_to_tokens(range(vocabulary))]
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = vocabulary
        tokens.append("(padding)")
    ids = {}
    for part, table in tables.items():
        column = table.column(name)
        if meaning(column) != "texts":
            raise DataError(f"{where}: column '{name}' of data.text is {column.type}, not text")
        cells = texts(column)
        refuse_missing(where, name, cells.is_null().to_numpy(), "remove the row")
        ids[part] = _ids(tokenizer, cells.to_pylist(), options.max_length, padding)
    return Texts(ids, padding, tuple(tokens))


def _ids(tokenizer: Any, said: list[str], length: int, padding: int) -> Tensor:
    found = np.full((len(said), length), padding, np.int64)
    encoded = tokenizer(said, truncation=True, max_length=length)["input_ids"]
    for row, own in zip(found, encoded, strict=True):
        row[: len(own)] = own
    return torch.from_numpy(found)


def _tokenizer(name: str, where: str) -> Any:
    """A tokenizer of transformers, from a folder or the Hub; no code of others is run."""
    if not name:
        raise DataError(
            f"{where}: data.text needs data.tokenizer: a name on the Hugging Face Hub, or a folder "
            "with a tokenizer.json"
        )
    try:
        import transformers
    except ImportError as error:
        way = 'needs pip install "dimat[transformers]"'
        raise DataError(f"{where}: data.text {way} ({error})") from error
    if not Path(name).is_dir() and (Path(name).is_absolute() or name.startswith(".")):
        raise DataError(f"{where}: data.tokenizer '{name}': there is no such folder")
    try:
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # of files, of the network, of the library: nobody lists them
        raise DataError(
            f"{where}: data.tokenizer '{name}' is no folder here with a tokenizer.json, and is not "
            f"loaded from the Hugging Face Hub: {first_line(error)}"
        ) from error
