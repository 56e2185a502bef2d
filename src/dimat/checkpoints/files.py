"""Checkpoint files that other programs wrote: safetensors, and PyTorch's with tensors only."""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from dimat.compat import tree_leaves
from dimat.errors import ConfigError, StructureError, quoted
from dimat.files import check_archive, check_bytes, open_regular
from dimat.state import State, load_state

# A state in any form: entries by name, a model that holds it, or the path of a checkpoint file.
StateLike = Mapping[str, Any] | nn.Module | str | os.PathLike[str]
PICKLED = (".th", ".pt", ".pth", ".ckpt", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # what training scripts call the state
_PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every key


def read_checkpoint(path: Path) -> State:
    """The state in a checkpoint file, on the CPU.

    PyTorch's format is a pickle; only tensors and plain containers are read from it. A state may
    lie under ``state_dict``, ``model_state_dict`` or ``model``, and a ``module.`` before every key
    is taken off.

    Args:
        path: The file.

    Raises:
        StructureError: If the file is missing, is in no known format, or holds no state.
    """
    if not path.is_file():
        states = path / "states"
        way_out = f": its networks are in {states}" if states.is_dir() else ""
        what = "no regular file" if path.exists() else "no such file"
        raise StructureError(f"{path}: {f'a folder{way_out}' if path.is_dir() else what}")
    if path.suffix == ".safetensors":
        found: Any = load_state(path)
    elif path.suffix in PICKLED:
        found = _load_pickled(path)
    else:
        raise StructureError(
            f"{path}: a checkpoint is .safetensors, or {', '.join(PICKLED)} as torch.save wrote "
            "it: rename it if it is one of these"
        )
    return without_prefix(_unwrapped(found, path))


def entries_of(given: StateLike, who: str) -> Mapping[str, Any]:
    """The entries of a state that is given by name, as a model or as a checkpoint file.

    Args:
        given: The state; entries may lie under ``state_dict``, ``model_state_dict`` or ``model``.
        who: Name of the state, for messages: ``"state 1"``.

    Raises:
        ConfigError: If it is anything else.
        StructureError: If the file cannot be read.
    """
    if isinstance(given, nn.Module):
        own: Mapping[str, Any] = given.state_dict()
        return own
    if isinstance(given, (str, os.PathLike)):
        return read_checkpoint(Path(given))
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{who} is {quoted(given)}: must be a state by name, as model.state_dict() gives it, a "
            "model, or the path of a checkpoint file"
        )
    inner: Mapping[str, Any] = _inner(given)
    bad = next((key for key in inner if not isinstance(key, str)), None)
    if bad is not None:
        raise ConfigError(f"{who} has an entry whose name is {quoted(bad)}: names must be text")
    return inner


def _load_pickled(path: Path) -> Any:
    check_archive(path, StructureError)
    try:
        _check_calls(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        tensors = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
    except Exception as error:  # a damaged file makes the reader raise anything
        refused = "weights_only" in str(error) or "Unsupported" in str(error)
        why = (
            "holds more than tensors and plain containers, and nothing else is unpickled"
            if refused
            else "is damaged, or not what torch.save wrote"
        )
        raise StructureError(
            f"{path} {why}: where it comes from, save the state alone, by "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        ) from error
    # one number may be seen as many: a copy of such a tensor would be large
    needed = sum(x.numel() * x.element_size() for x in tensors)
    check_bytes(f"{path}", needed, path.stat().st_size, StructureError)
    return found


def _check_calls(path: Path) -> None:
    """Refuse a ``bytearray`` in a pickle: the one call by which a number could take any memory.

    PyTorch lets a pickle make it, even if only weights are read.

    Raises:
        ValueError: If there is one.
    """
    for pickled in _pickles(path):
        for _, argument, _ in pickletools.genops(pickled):
            if isinstance(argument, str) and argument.endswith(" bytearray"):
                raise ValueError("Unsupported: bytearray")  # as PyTorch says of other calls


def _pickles(path: Path) -> Iterator[BinaryIO]:
    """The pickles of a checkpoint in PyTorch's format: one in an archive, or four in a row."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as member:
                        yield io.BytesIO(member.read())
        return
    with open_regular(path) as file:
        for _ in range(4):
            yield file  # which genops leaves where the next one begins


def _unwrapped(found: Any, path: Path) -> Mapping[str, Tensor]:
    found = _inner(found)
    bad = "" if isinstance(found, Mapping) else f"it holds {_kind(found)}"
    if isinstance(found, Mapping):
        others = [key for key, value in found.items() if not isinstance(value, Tensor)]
        bad = f"its '{others[0]}' is {_kind(found[others[0]])}" if others else ""
    if bad or not found:
        raise StructureError(
            f"{path} holds no state: {bad or 'it is empty'}; a checkpoint is tensors by name, as "
            f"model.state_dict() gives them, alone or under {' or '.join(_WRAPPERS)}"
        )
    state: Mapping[str, Tensor] = found
    return state


def _inner(found: Any) -> Any:
    """The state inside of a checkpoint that holds more, as training scripts save it."""
    for name in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    return found


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"


def without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state without the prefix that ``DataParallel`` or ``torch.compile`` puts before every key.

    Args:
        state: Not changed.
    """
    own = dict(state)
    for prefix in (*_PREFIXES, *_PREFIXES):
        if all(key.startswith(prefix) for key in own):
            own = {key.removeprefix(prefix): value for key, value in own.items()}
    return own
