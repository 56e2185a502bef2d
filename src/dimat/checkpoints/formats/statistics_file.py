"""The statistics of a checkpoint on its owner's data, which travel in place of the data."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from dimat.errors import StructureError, shown, writing
from dimat.graph.trace import Trace
from dimat.merging import Combiner
from dimat.state import State, load_metadata, load_state, save_state
from dimat.symmetry.constants import digest_of
from dimat.text import brief

_ENTRY = "dimat.statistics"  # of the file's metadata
_MOST_AXES = 8


@dataclass(frozen=True)
class Statistics:
    """The statistics of one checkpoint, as :func:`dimat.statistics` measured them.

    Their file is safetensors: ``values``, and all else as JSON in its header. Of the data it holds
    nothing but ``values``, ``samples`` and the shape of an input.

    Args:
        values: The statistics, by name.
        combiner: Class of the combiner that they are for, such as ``Gram``.
        budget: Numbers of statistics for each number of the weights, at most, about.
        samples: Number of samples that they were measured on.
        inputs: Shapes of the model's example inputs; empty if they are no floating-point tensors by
            position, and cannot be made up.
        model: SHA-256 of the model's entries and of the order in which they are read.
        state: SHA-256 of the checkpoint's state.
        version: The version of dimat that measured them.
    """

    values: State
    combiner: str
    budget: float
    samples: int
    inputs: tuple[tuple[int, ...], ...]
    model: str
    state: str
    version: str = version("dimat")

    __repr__ = brief

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; no half-written one is ever seen, nor left.

        Args:
            path: The file; one that exists is replaced.

        Raises:
            WriteError: If it cannot be written.
        """
        file = Path(path)
        own = {name: getattr(self, name) for name in _RULES}
        with writing(file):
            try:
                save_state(self.values, file, {_ENTRY: json.dumps(own)})
            except OSError:
                with suppress(OSError):  # the disk may have become read-only
                    file.with_name(f"{file.name}.partial").unlink(missing_ok=True)
                raise

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Statistics:
        """Read a file; what it says is not compared with any model yet.

        Args:
            path: The file.

        Raises:
            StructureError: If it is no safetensors file, or no statistics are in it.
        """
        file = Path(path)
        own = _described(load_metadata(file), file)
        inputs = tuple(tuple(shape) for shape in own.pop("inputs"))
        return Statistics(load_state(file), inputs=inputs, **own)


def kind_of(combiner: Combiner) -> str:
    """The name by which statistics say whom they are for: a combiner's ``kind``, or its class.

    Args:
        combiner: The combiner.
    """
    return str(getattr(combiner, "kind", type(combiner).__name__))


def model_digest(trace: Trace, state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's entries, and of the order in which its operators read them.

    Operators have other names in other versions of PyTorch, so they are no part of it.

    Args:
        trace: The graph of the model.
        state: A state of the model, for names and shapes.
    """
    text = hashlib.sha256()
    for key, value in sorted(state.items()):
        text.update(f"{key}{tuple(value.shape)}".encode())
    for node in trace.graph.nodes:
        read = [trace.states[own.name] for own in node.all_input_nodes if own.name in trace.states]
        text.update(f"{read}".encode() if read else b"")
    return text.hexdigest()


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state: of names, shapes, types and values.

    Args:
        state: The state, on any device.
    """
    return digest_of({key: value.detach().cpu() for key, value in state.items()})


def _described(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What the header of a file says of its statistics, each part as its rule has it."""
    if _ENTRY not in metadata:
        raise StructureError(f"{path} holds no statistics: 'dimat statistics' writes such files")
    try:
        said = json.loads(metadata[_ENTRY])
    except (ValueError, RecursionError) as error:
        raise StructureError(f"{path}: the description of its statistics is no JSON") from error
    for name, (fits, rule) in _RULES.items():
        value = said.get(name) if isinstance(said, Mapping) else None
        if not fits(value):
            raise StructureError(
                f"{path}: '{name}' of its statistics is {shown(value, 100)}: must be {rule}"
            )
    return {name: said[name] for name in _RULES}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def _is_budget(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _are_shapes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(shape, list) and len(shape) <= _MOST_AXES and all(map(_is_count, shape))
        for shape in value
    )


_Rule = tuple[Callable[[Any], bool], str]
_RULES: Mapping[str, _Rule] = {
    "combiner": (_is_text, "text"),
    "budget": (_is_budget, "a finite number > 0"),
    "samples": (_is_count, "a whole number > 0"),
    "inputs": (_are_shapes, "shapes"),
    "model": (_is_digest, "a SHA-256"),
    "state": (_is_digest, "a SHA-256"),
    "version": (_is_text, "text"),
}
