"""Trees of dicts, lists, numbers and tensors, as JSON with named tensors and as messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.exchange.protocol import Message

# Values that JSON knows, and {"tensor": name} where a tensor was.
Json = Any
# Dicts (keys are text or numbers), lists, numbers, text, None, and tensors.
Tree = Any
_TENSOR = "tensor"


def copied(value: Tree) -> Tree:
    """A copy of a tree that shares no memory with it; ``copy.deepcopy`` takes five times as long.

    Args:
        value: The tree.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: copied(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(own) for own in value)
    return value


def plain(value: Tree) -> Tree:
    """A tree as a message would bring it, with lists for tuples; tensors are not copied.

    Args:
        value: The tree.

    >>> plain({"loss": float("inf"), 3: (1, None)})
    {'loss': inf, 3: [1, None]}
    """
    if isinstance(value, Mapping):
        return {key: plain(own) for key, own in value.items()}
    return [plain(own) for own in value] if isinstance(value, list | tuple) else value


def pack(value: Tree, name: str, tensors: dict[str, Tensor]) -> Json:
    """A tree as JSON, its tensors put aside under names.

    Dicts become lists of pairs, so that keys that are numbers stay numbers.

    Args:
        value: The tree.
        name: Beginning of the names of its tensors.
        tensors: The tensors of the tree are added to it.

    >>> found = {}
    >>> pack({0: [1.5, None]}, "x", found), found
    ({'dict': [[0, [1.5, None]]]}, {})

    Raises:
        StructureError: If the tree holds anything else.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {"dict": [[k, pack(v, f"{name}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [pack(part, f"{name}/{k}", tensors) for k, part in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StructureError(f"'{name}' is {type(value).__name__}: no number, text or tensor")


def unpack(packed: Json, tensors: Mapping[str, Tensor]) -> Tree:
    """The tree that :func:`pack` was given, with lists for tuples.

    Args:
        packed: The tree as JSON.
        tensors: Its tensors by name.

    Raises:
        KeyError: If a tensor is missing.
    """
    if isinstance(packed, list):
        return [unpack(part, tensors) for part in packed]
    if isinstance(packed, dict):
        if _TENSOR in packed:
            return tensors[packed[_TENSOR]]
        return {key: unpack(part, tensors) for key, part in packed["dict"]}
    return packed


def as_message(tree: Tree) -> Message:
    """A tree as a message, its tensors not copied.

    Args:
        tree: The tree.
    """
    tensors: dict[str, Tensor] = {}
    packed = pack(tree, "", tensors)
    return with_json(packed, tensors)


def tree_of(message: Message) -> Tree:
    """The tree that :func:`as_message` was given, with lists for tuples.

    Args:
        message: As it arrived.

    >>> tree_of(as_message({"loss": float("inf"), 3: (1, None)}))
    {'loss': inf, 3: [1, None]}
    """
    return unpack(*json_of(message))


_JSON = "/json"  # no state has an entry of this name: modules are not named with a slash


def with_json(value: Any, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A message that holds tensors and one JSON value.

    Args:
        value: The value.
        tensors: The tensors.
    """
    text = json.dumps(value).encode()
    return {**(tensors or {}), _JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def json_of(message: Message) -> tuple[Any, dict[str, Tensor]]:
    """The value and the tensors that :func:`with_json` was given.

    Args:
        message: As it arrived.
    """
    tensors = dict(message)
    return json.loads(bytes(tensors.pop(_JSON).cpu().numpy())), tensors
