"""Checkpoints that other programs wrote: safetensors, Hugging Face folders, PyTorch's format."""

from __future__ import annotations

import io
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from dimat.checkpoints.formats.folders import is_hub_folder, read_folder
from dimat.compat import tree_leaves
from dimat.errors import ConfigError, StructureError, quoted, shown
from dimat.files import check_archive, check_bytes, open_regular
from dimat.state import State, load_state

# A state in any form: entries by name, a model that holds it, or the path of a checkpoint.
StateLike = Mapping[str, Any] | nn.Module | str | os.PathLike[str]
Say = Callable[[str], None]  # receives what reading had to decide, one sentence each
PICKLED = (".th", ".pt", ".pth", ".ckpt", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # what training scripts call the state
_DEEPEST = 3  # a state in a wrapper in a wrapper


def silent(_: str) -> None:
    """Say nothing: a :data:`Say` for callers who need not know."""


def read_checkpoint(path: Path, key: str | None = None, say: Say = silent) -> State:
    """The state in a checkpoint, on the CPU, under the names that it has there.

    PyTorch's format is a pickle; only tensors and plain containers are read from it. What training
    scripts keep beside the state (arguments, paths, scores) is left out unread, and anything else
    is refused.

    Args:
        path: A file, or a folder in the layout of Hugging Face.
        key: The entry of the file that is the state, or a prefix of the names in it; None:
            ``state_dict``, ``model_state_dict`` or ``model``, or the only one that holds tensors.
        say: Receives what was decided on the way.

    Raises:
        StructureError: If the file is missing, is in no known format, holds no state, or several.
    """
    if path.is_dir() and is_hub_folder(path):
        return dict(_state(read_folder(path), f"{path}", key, say))
    if not path.is_file():
        states = path / "states"
        way_out = f": its networks are in {states}" if states.is_dir() else ""
        if not way_out and path.is_dir() and any(path.glob("*.bin")):
            way_out = ": of such folders only safetensors are read; name the .bin file itself"
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
    return dict(_state(found, f"{path}", key, say))


def entries_of(
    given: StateLike, who: str, key: str | None = None, say: Say = silent
) -> Mapping[str, Any]:
    """The entries of a state that is given by name, as a model or as a checkpoint.

    Args:
        given: The state; entries may lie under ``state_dict``, ``model_state_dict`` or ``model``.
        who: Name of the state, for messages: ``"state 1"``.
        key: As :func:`read_checkpoint` takes it; of a model it means nothing.
        say: As :func:`read_checkpoint` takes it.

    Raises:
        ConfigError: If it is anything else.
        StructureError: If the file cannot be read, or there is no such entry.
    """
    if isinstance(given, nn.Module):
        own: Mapping[str, Any] = given.state_dict()
        return own
    if isinstance(given, (str, os.PathLike)):
        return read_checkpoint(Path(given), key, say)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{who} is {quoted(given)}: must be a state by name, as model.state_dict() gives it, a "
            "model, or the path of a checkpoint file"
        )
    inner: Mapping[str, Any] = _chosen(given, who, key, say)
    bad = next((name for name in inner if not isinstance(name, str)), None)
    if bad is not None:
        raise ConfigError(f"{who} has an entry whose name is {quoted(bad)}: names must be text")
    return inner


class _Unread:
    """A stand-in for an object beside the state in a pickle: made of anything, it keeps nothing."""

    def __new__(cls, *_: object) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Objects that training scripts save beside the state. A stand-in is made of each: that of the real
# ones would cost what a file says (a NumPy scalar of a gigabyte), and nobody reads them here.
_BESIDE = (
    "argparse.Namespace",
    *(
        f"{module}.{kind}{name}"
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Pure")
        for name in ("PosixPath", "WindowsPath", "Path")
    ),
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    "numpy.dtype",
    "numpy.ndarray",
    "datetime.datetime",
    "datetime.timedelta",
)


def _load_pickled(path: Path) -> Any:
    check_archive(path, StructureError)
    try:
        _check_calls(path)
        with torch.serialization.safe_globals([(_Unread, name) for name in _BESIDE]):
            found = torch.load(path, map_location="cpu", weights_only=True)
        tensors = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
    except Exception as error:  # a damaged file makes the reader raise anything
        refused = "weights_only" in str(error) or "Unsupported" in str(error)
        why = (
            f"holds more than tensors and plain containers{_asked(error)}, and nothing else is "
            "unpickled"
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


def _asked(error: Exception) -> str:
    """The name of what a pickle would have made, if PyTorch's refusal says it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" ({shown(found[1], 100)})" if found else ""


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


def _state(found: Any, who: str, key: str | None, say: Say) -> Mapping[str, Tensor]:
    found = _chosen(found, who, key, say)
    bad = "" if isinstance(found, Mapping) else f"it holds {_kind(found)}"
    if isinstance(found, Mapping):
        others = [name for name, value in found.items() if not isinstance(value, Tensor)]
        bad = f"its '{shown(others[0], 100)}' is {_kind(found[others[0]])}" if others else ""
        unnamed = [name for name in found if not isinstance(name, str)]
        bad = bad or (f"one of its names is {_kind(unnamed[0])}" if unnamed else "")
    if bad or not found:
        raise StructureError(
            f"{who} holds no state: {bad or 'it is empty'}; a checkpoint is tensors by name, as "
            f"model.state_dict() gives them, alone or under {' or '.join(_WRAPPERS)}, or under "
            "another entry that 'key' names"
        )
    state: Mapping[str, Tensor] = found
    return state


def _chosen(found: Any, who: str, key: str | None, say: Say) -> Any:
    """The state inside of a checkpoint that holds more, as training scripts save it."""
    whole = found
    if key is not None and isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
        found, key = found[key], None
    for _ in range(_DEEPEST):
        name = _entry(found, who, say)
        if name is None:
            break
        found = found[name]
    if key is None or not isinstance(found, Mapping):
        return found
    prefix = key.removesuffix(".") + "."
    under = {
        name.removeprefix(prefix): value
        for name, value in found.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
    if not under:
        entries = [name for name in whole if isinstance(name, str)]
        raise StructureError(
            f"{who} has no entry '{key}', nor names that begin with '{prefix}': its entries are "
            f"{shown(_listed(entries), 300)}"
        )
    return under


def _entry(found: Any, who: str, say: Say) -> str | None:
    """The entry that is the state; None if what is found is one itself, or holds none.

    Raises:
        StructureError: If several are equally likely.
    """
    if not isinstance(found, Mapping):
        return None
    inner = {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, Mapping)
    }
    held = [name for name, value in inner.items() if any(_is_tensor(x) for x in value.values())]
    known = [name for name in _WRAPPERS if name in inner]
    if any(_is_tensor(value) for value in found.values()) and not known:
        return None  # a state whose modules add mappings of their own
    likely = [name for name in known if name in held] or known or held
    if len(likely) > 1:
        raise StructureError(
            f"{who} holds several states, {_listed(likely)}: choose one by 'key' (--key)"
        )
    others = [name for name in held if name not in likely]
    if likely and (others or not known):
        beside = f"; it also holds {_listed(others)} (--key)" if others else ""
        say(f"the state is its entry '{shown(likely[0], 100)}'{beside}")
    return likely[0] if likely else None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"'{shown(name, 60)}'" for name in names[:5]) + more


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _kind(value: object) -> str:
    return (
        "an object that was left unread"
        if isinstance(value, _Unread)
        else (f"of type {type(value).__name__}")
    )
