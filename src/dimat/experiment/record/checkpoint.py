"""Checkpoints: folders that appear whole; the last few are kept, and broken ones are refused.

    NAME-000007/meta.json            JSON, and the digests of both files' contents
    NAME-000007/tensors.safetensors

A folder is written under another name, flushed to disk and then renamed, so a run that is killed at
any moment leaves whole checkpoints only.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dimat.errors import StructureError, writing
from dimat.exchange.tree import Json
from dimat.files import file_digest, flush, read_regular
from dimat.state import load_state, write_tensors

_META, _TENSORS = "meta.json", "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: JSON and tensors.

    Args:
        number: The last round done, or the epochs done in pre-training.
        meta: Everything but tensors, as JSON.
        tensors: The tensors by name.
    """

    number: int
    meta: Json
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run in one folder.

    Args:
        path: The folder; made when needed.
        name: First part of the checkpoints' names, before the number.
        keep: Number of latest checkpoints that are kept, >= 1.
    """

    path: Path
    name: str = "round"
    keep: int = 2

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove the oldest ones beyond ``keep``.

        Args:
            checkpoint: The checkpoint; an existing one of its number is replaced.

        Raises:
            WriteError: If it cannot be written; the existing ones stay.
        """
        final = self.path / f"{self.name}-{checkpoint.number:06d}"
        partial = final.with_name(final.name + ".partial")
        with writing(final):
            try:
                self._fill(partial, checkpoint)
            except OSError:
                shutil.rmtree(
                    partial, ignore_errors=True
                )  # leave no half checkpoint on a full disk
                raise
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            flush(self.path)
            for old in self.numbers()[: -self.keep]:
                shutil.rmtree(self.path / f"{self.name}-{old:06d}")

    def _fill(self, partial: Path, checkpoint: Checkpoint) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_tensors(_apart(checkpoint.tensors), partial / _TENSORS)
        content = json.dumps(checkpoint.meta)
        digests = {_TENSORS: file_digest(partial / _TENSORS)}
        digests[_META] = _digest(content.encode())
        (partial / _META).write_text(json.dumps({"digests": digests, "content": content}))
        for file in (partial / _TENSORS, partial / _META, partial):
            flush(file)

    def numbers(self) -> list[int]:
        """The numbers of the existing checkpoints, in ascending order."""
        found = [re.fullmatch(rf"{self.name}-(\d+)", p.name) for p in self.path.glob("*")]
        return sorted(int(match[1]) for match in found if match)

    def latest(
        self,
        refused: Callable[[str], None],
        check: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ) -> Checkpoint | None:
        """The last checkpoint that is whole and passes a check; None if there is none.

        Args:
            refused: Called with a message for each later checkpoint that is refused.
            check: Raises a ``StructureError`` for a checkpoint that cannot be used.
        """
        numbers = self.numbers()
        for place, number in reversed([*enumerate(numbers)]):
            try:
                found = self.read(number)
                check(found)
            except StructureError as error:
                instead = "the one before it is used" if place else "there is no other: from anew"
                refused(f"{error}; {instead}")
            else:
                return found
        return None

    def read(self, number: int) -> Checkpoint:
        """The checkpoint of a number.

        Args:
            number: Its number, one of :meth:`numbers`.

        Raises:
            StructureError: If it is truncated, changed, or no checkpoint.
        """
        path = self.path / f"{self.name}-{number:06d}"
        try:
            outer = json.loads(read_regular(path / _META))
            digests, content = outer["digests"], outer["content"]
            found = {
                _META: _digest(content.encode()),
                _TENSORS: file_digest(path / _TENSORS),
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StructureError(f"checkpoint {path} is not whole ({error!r})") from error
        if digests != found:
            raise StructureError(f"checkpoint {path} was changed: its digests do not fit")
        return Checkpoint(number, json.loads(content), load_state(path / _TENSORS))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, contiguous, no two in one memory; copied only where they are not so.

    Copies of the snapshots of a thousand agents would add a third to the memory of the run.
    """
    found: dict[str, Tensor] = {}
    places = set()
    for name, value in tensors.items():
        own = value.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in places else own
        places.add(place)
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
