"""Folders in the layout of Hugging Face: one safetensors file, or shards and their index."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dimat.errors import StructureError, shown
from dimat.files import open_regular, read_json, whole_folder
from dimat.state import State, load_state, num_bytes, save_state

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_INDEX = 1 << 24  # bytes; the index of 100,000 entries has 10 MB
_MOST_SHARDS = 1000  # Llama 3.1 405B has 191
_COPIED = (".json", ".txt", ".model", ".jinja")  # configuration and tokenizers; never code
_MOST_COPIED = 1 << 28  # bytes of such a file; the largest tokenizers have 35 MB


def is_hub_folder(path: Path) -> bool:
    """Whether a folder holds a model in this layout."""
    return any((path / name).exists() for name in (WHOLE, INDEX))


def folder_files(path: Path) -> list[Path]:
    """The files of a folder that its state is read from, the index first.

    Raises:
        StructureError: If the index cannot be used.
    """
    if (path / WHOLE).exists():
        return [path / WHOLE]
    shards = sorted(set(_shards(path).values()))
    return [path / INDEX, *(path / shard for shard in shards)]


def read_folder(path: Path) -> State:
    """The state in a folder, on the CPU.

    Args:
        path: A folder with ``model.safetensors``, or with shards and their index. Where both are
            there, the one file counts, as in transformers.

    Raises:
        StructureError: If a file is missing or damaged, the index names one outside of the folder,
            or a shard holds other entries than the index says.
    """
    if (path / WHOLE).exists():
        return load_state(path / WHOLE)
    shards, found = _shards(path), State()
    for shard in sorted(set(shards.values())):
        own = load_state(path / shard)
        said = {name for name, file in shards.items() if file == shard}
        if own.keys() != said:
            name = min(own.keys() ^ said)
            which = "lacks" if name in said else "has, beyond what the index says,"
            raise StructureError(f"{path / shard} {which} '{shown(name, 100)}': get it anew")
        found.update(own)
    return found


def write_folder(state: Mapping[str, Tensor], like: Path, out: Path) -> None:
    """Write a state in the layout of another folder, with that one's configuration; all or nothing.

    The shards are those of the other folder. Small text files beside them (configuration,
    tokenizer) are copied; code is not.

    Args:
        state: Entries under the names that the other folder has.
        like: The other folder.
        out: The folder to make; it must not be there, or be empty.

    Raises:
        OSError: If it cannot be written; nothing of it is left then.
        StructureError: If the index of the other folder cannot be used.
    """
    whole = (like / WHOLE).exists()
    shards = dict.fromkeys(state, WHOLE) if whole else _shards(like)
    with whole_folder(out) as partial:
        for file in sorted(like.iterdir()):
            if file.suffix in _COPIED and file.name != INDEX and file.is_file():
                _copy(file, partial / file.name)
        for shard in sorted(set(shards.values())):
            own = {name: state[name] for name in shards if shards[name] == shard}
            save_state(own, partial / shard, {"format": "pt"})  # which transformers asks for
        if not whole:
            index = {"metadata": {"total_size": num_bytes(state)}, "weight_map": shards}
            (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copy(file: Path, to: Path) -> None:
    with open_regular(file) as source:
        if os.fstat(source.fileno()).st_size > _MOST_COPIED:
            return
        to.write_bytes(source.read())


def _shards(path: Path) -> dict[str, str]:
    """The file of every entry, as the index says: names of files in the folder, and no paths."""
    index = path / INDEX
    content = read_json(index, _MOST_INDEX, StructureError)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise StructureError(f"{index} has no 'weight_map' of entries and their files")
    for name in set(map(_text, shards.values())):
        if Path(name).name != name or not name.endswith(".safetensors") or "\0" in name:
            raise StructureError(
                f"{index} names '{shown(name, 100)}': must be a .safetensors file in the folder "
                "itself"
            )
    if len(set(shards.values())) > _MOST_SHARDS:
        raise StructureError(f"{index} names more than {_MOST_SHARDS:,} files")
    return shards


def _text(value: object) -> str:
    return value if isinstance(value, str) else f"of type {type(value).__name__}"
