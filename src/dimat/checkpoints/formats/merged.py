"""The result of a merge, and the folder that it is saved in.

model.safetensors          the merged state, as any tool reads it
aligned-000.safetensors    each parent in the first one's unit order
head-000.safetensors       with ``heads="keep"`` the merged network with each parent's head
matchings.safetensors      for every parent its permutation, similarities and margins
merge.json                 how it was merged, notes, and the model's symmetry
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dimat.checkpoints.formats.folders import WHOLE
from dimat.errors import ConfigError, StructureError, check_kind, quoted, shown, writing
from dimat.files import read_regular, whole_folder
from dimat.matching import Matching
from dimat.state import State, extras_of, load_state, save_state
from dimat.symmetry import Permutation, Symmetry
from dimat.text import brief

_FORMAT = "dimat-merge-1"
_FACTS, _MATCHINGS = "merge.json", "matchings.safetensors"


@dataclass(frozen=True)
class Merge:
    """The result of :func:`merge`, which :func:`load` reads back from where :meth:`save` wrote it.

    Args:
        state: The merged state, in the first parent's unit order and dtypes.
        matchings: For every parent its permutation into that order, with similarity and margin per
            group; the first is the identity.
        aligned: The parents in that order.
        symmetry: The symmetry of the model, whose elements the permutations are.
        notes: What the reading of the states had to decide, such as a prefix taken off their names.
        heads: With ``heads="keep"`` for every parent the merged network with that parent's own
            entries where nothing is merged, in the parent's dtypes.
        settings: How it was merged: ``method``, ``combine``, ``weights`` and the like, as JSON has
            them, and the ``version`` of dimat.
    """

    state: State
    matchings: tuple[Matching, ...]
    aligned: tuple[State, ...]
    symmetry: Symmetry
    notes: tuple[str, ...] = ()
    heads: tuple[State, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = brief

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder of safetensors and JSON, whole or not at all.

        Its ``model.safetensors`` is the merged state alone, so the folder is a checkpoint as well.

        Args:
            path: The folder, which must be new or empty.

        Raises:
            ConfigError: If it is there already.
            StructureError: If an entry can stand in no such file.
            WriteError: If it cannot be written; nothing is left of it then.
        """
        check_kind("path", path, (str, os.PathLike), "the path of a folder")
        out = Path(path)
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ConfigError(f"'path' is '{out}', which exists: must be a new or an empty folder")
        states = {
            Path(WHOLE).stem: self.state,
            **{_file("aligned", number): own for number, own in enumerate(self.aligned)},
            **{_file("head", number): own for number, own in enumerate(self.heads)},
        }
        facts = {
            "format": _FORMAT,
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "parents": len(self.matchings),
            "heads": len(self.heads),
            "entries": list(self.state),
            "extras": {name: own for name, state in states.items() if (own := _extras(state))},
            "symmetry": json.loads(self.symmetry.to_json()),
        }
        text = _json(facts, "settings")
        with writing(out), whole_folder(out) as partial:
            for name, state in states.items():
                save_state(_tensors(state), partial / f"{name}.safetensors", {"format": "pt"})
            save_state(_arrays(self.matchings), partial / _MATCHINGS)
            (partial / _FACTS).write_text(text, encoding="utf-8")


def load(path: str | os.PathLike[str]) -> Merge:
    """The merge that :meth:`Merge.save` wrote, on the CPU; nothing is executed, no model needed.

    Args:
        path: The folder.

    Raises:
        ConfigError: If the path is none.
        StructureError: If it is no such folder, or something in it is missing or was changed so
            that the parts do not belong together.
    """
    check_kind("path", path, (str, os.PathLike), "the path of a folder")
    folder = Path(path)
    facts = _facts(folder)
    try:
        symmetry = Symmetry.from_json(json.dumps(facts["symmetry"]))
        entries, extras = facts["entries"], facts["extras"]

        def state(name: str) -> State:
            found = {**load_state(folder / f"{name}.safetensors"), **extras.get(name, {})}
            if lacking := symmetry.shapes.keys() - found.keys():
                raise StructureError(f"{name}.safetensors lacks '{min(lacking)}'")
            return {key: found.pop(key) for key in entries if key in found} | found

        parents, heads = range(facts["parents"]), range(facts["heads"])
        arrays = {k: v.numpy() for k, v in load_state(folder / _MATCHINGS).items()}
        aligned = tuple(state(_file("aligned", number)) for number in parents)  # as many as said
        return Merge(
            state(Path(WHOLE).stem),
            tuple(_matching(arrays, number, symmetry) for number in parents),
            aligned,
            symmetry,
            tuple(map(str, facts["notes"])),
            tuple(state(_file("head", number)) for number in heads),
            dict(facts["settings"]),
        )
    except StructureError as error:
        raise StructureError(f"{folder}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StructureError(
            f"{folder / _FACTS} is not as dimat wrote it: {type(error).__name__}: {error}"
        ) from error


def _file(kind: str, number: int) -> str:
    return f"{kind}-{number:03d}"


def _facts(folder: Path) -> dict[str, Any]:
    """The content of ``merge.json``."""
    try:
        facts = json.loads(read_regular(folder / _FACTS))
    except (OSError, ValueError, RecursionError) as error:
        raise StructureError(
            f"{folder} holds no merge, as Merge.save writes it: {_FACTS} cannot be read: {error}"
        ) from error
    said = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or said != _FORMAT:
        raise StructureError(
            f"{folder / _FACTS}: 'format' is {shown(said, 100)}, and this version of dimat reads "
            f"{_FORMAT}"
        )
    return facts


def _tensors(state: Mapping[str, Any]) -> State:
    """The entries of a state that stand in a safetensors file."""
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _extras(state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a state that are no tensors, and stand in the JSON.

    Raises:
        StructureError: If one is no JSON either.
    """
    found = {k: v for k, v in extras_of(state).items() if not isinstance(v, Tensor)}
    for key, value in found.items():
        _json(value, key)
    return found


def _json(value: Any, name: str) -> str:
    """A value as JSON, from which it is read as it was.

    Raises:
        StructureError: If it is not.
    """
    try:
        text = json.dumps(value)
        if json.loads(text) == value:
            return text
    except (TypeError, ValueError, RecursionError):
        pass
    raise StructureError(
        f"'{name}' is {quoted(value)}, which is neither a tensor nor JSON, and nothing else is "
        "written: leave it out, by dataclasses.replace(merged, …)"
    )


def _arrays(matchings: tuple[Matching, ...]) -> State:
    """The arrays of all matchings as tensors, by parent, kind and group."""
    return {
        f"{number}/{kind}/{group}": torch.from_numpy(np.ascontiguousarray(array))
        for number, own in enumerate(matchings)
        for kind, arrays in (
            ("slots", own.permutation.slots),
            ("similarities", own.similarities),
            ("margins", own.margins),
        )
        for group, array in arrays.items()
    }


def _matching(
    arrays: Mapping[str, np.ndarray[Any, Any]], parent: int, symmetry: Symmetry
) -> Matching:
    """The matching of a parent.

    Raises:
        StructureError: If its permutation is no element of the symmetry, or scores are not those of
            its units.
    """

    def of(kind: str) -> dict[str, np.ndarray[Any, Any]]:
        names = ((name, f"{parent}/{kind}/{name}") for name in symmetry.names)
        return {name: arrays[key] for name, key in names if key in arrays}

    slots, scores = of("slots"), {kind: of(kind) for kind in ("similarities", "margins")}
    for name, still in symmetry.identity().slots.items():
        given = slots.get(name)
        if (
            given is None
            or given.dtype != np.int64
            or given.shape != still.shape
            or not np.array_equal(np.sort(given), still)
        ):
            raise StructureError(
                f"{_MATCHINGS}: parent {parent} has no permutation of group '{name}', "
                f"{still.shape[0]} x {still.shape[1]} units"
            )
        for kind, own in scores.items():
            if name in own and own[name].shape != (still.size,):
                raise StructureError(
                    f"{_MATCHINGS}: {kind} of group '{name}' of parent {parent} have shape "
                    f"{own[name].shape}, expected ({still.size},)"
                )
    return Matching(Permutation(slots, symmetry.digest), **scores)
