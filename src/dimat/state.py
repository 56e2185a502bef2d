"""A state: the tensors of one model, parameters and buffers, by name.

A state is a plain ``dict`` as ``module.state_dict()`` gives it. Functions here never change one in
place: a step of the algorithm takes states and returns new ones.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dimat.errors import ConfigError, StructureError, nearest_key, quoted, shown
from dimat.files import check_header

State = dict[str, Tensor]
_BLOCK = 2**10  # numbers whose squares are added up in float32
_SMALL = 2**16  # numbers that are added up sooner than a few calls are made
_MOST_AT_ONCE = 2**24  # numbers that a mean over agents has side by side in float64: 134 MB


def check_module(model: object) -> None:
    """Refuse what is no model.

    Raises:
        ConfigError: If so.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"'model' is {quoted(model)}: must be a torch.nn.Module")


def state_of(module: nn.Module, keys: Collection[str] | None = None) -> State:
    """A copy of the module's parameters and persistent buffers, detached.

    Args:
        module: Not changed.
        keys: The entries to copy; None: all.
    """
    entries = tensors_of(module.state_dict())
    return {k: x.detach().clone() for k, x in entries.items() if keys is None or k in keys}


def tensors_of(entries: Mapping[str, Any]) -> State:
    """What of a ``state_dict`` is a state: all but :func:`extras_of`; not copied."""
    return {key: value for key, value in entries.items() if not _is_extra(key, value)}


def extras_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """What modules add by ``get_extra_state``, of any type: it stays with whom it is from."""
    return {key: value for key, value in entries.items() if _is_extra(key, value)}


def _is_extra(key: str, value: object) -> bool:
    return not isinstance(value, Tensor) or key.rpartition(".")[2] == "_extra_state"


def put_into(module: nn.Module, state: Mapping[str, Tensor], *, part: bool = False) -> None:
    """Load a state; what the module has beside it stays.

    Args:
        module: Changed in place.
        state: All entries of a state of it.
        part: Whether ``state`` may be some entries only; the others then stay, too.

    Raises:
        StructureError: If the state is of another model.
    """
    own = module.state_dict()
    try:
        module.load_state_dict({**(own if part else extras_of(own)), **state})
    except RuntimeError as error:  # a heading, and a line for each thing that does not fit
        lines = [line.strip() for line in str(error).splitlines()]
        why = next(iter(lines[1:]), lines[0]).rstrip(".")
        raise StructureError(f"a state of another model: {why}; give the model it is of") from error


def is_number(value: Tensor) -> bool:
    """Whether entries are real or complex numbers, which can be averaged; others count."""
    return value.is_floating_point() or value.is_complex()


def as_real(value: Tensor) -> Tensor:
    """Complex numbers as pairs along a new last axis; others as they are."""
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def clone(state: Mapping[str, Tensor]) -> State:
    """A copy that shares no memory with ``state``."""
    return {key: value.clone() for key, value in state.items()}


def widened(state: Mapping[str, Tensor]) -> State:
    """A state in at least float32 or complex64; entries that are no such numbers stay."""
    return {key: _wide(value) if is_number(value) else value for key, value in state.items()}


def num_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of all entries: what one copy costs on the wire."""
    return sum(value.numel() * value.element_size() for value in state.values())


def check_same_structure(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], who: str
) -> None:
    """Refuse ``theirs`` unless it has the keys, shapes and dtypes of ``ours``.

    Args:
        ours: The state to compare with.
        theirs: The state to check.
        who: Where ``theirs`` is from, for the message: ``"state from agent 3"``.

    Raises:
        StructureError: Naming the first entry that differs; the nearest one, if it is missing.
    """
    for key in [*ours, *theirs]:
        if key not in theirs:
            near = nearest_key(key, (own for own in theirs if own not in ours))
            raise StructureError(f"{who} does not fit: it lacks '{key}'{shown(near)}")
        if key not in ours:
            raise StructureError(
                f"{who} does not fit: it has '{shown(key, 100)}', which is not expected"
            )
        expected, found = ours[key], theirs[key]
        if not isinstance(found, Tensor):
            raise StructureError(f"{who} does not fit: '{shown(key, 100)}' is no tensor")
        if expected.shape != found.shape or expected.dtype != found.dtype:
            raise StructureError(
                f"{who} does not fit: '{key}' has shape {tuple(found.shape)} {found.dtype}, "
                f"expected {tuple(expected.shape)} {expected.dtype}"
            )


def check_finite(state: Mapping[str, Tensor], who: str) -> None:
    """Refuse a state with NaN or infinity in it.

    Raises:
        StructureError: Naming the first such entry.
    """
    floating = {key: value for key, value in state.items() if is_number(value)}
    # A finite sum has finite terms, and is ten times as fast as a look at each: 4 ms and 41 ms for
    # 102 MB in one thread, benchmarks/neighbors.py. One that overflows is looked into.
    wide = {key: torch.promote_types(value.dtype, torch.float32) for key, value in floating.items()}
    sums = [value.sum(dtype=wide[key]).isfinite() for key, value in floating.items()]
    if not sums or bool(torch.stack(sums).all()):
        return
    for key, value in floating.items():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise StructureError(f"{who}: '{key}' has {bad} values that are NaN or infinite")


def squared_norm(values: Iterable[Tensor]) -> float:
    """Sum of the squares of all entries, of complex ones of both parts; to some 1e-6 of itself.

    Blocks are added up in the precision of the entries, float32 at least, and their sums in
    float64: 3 to 9 times as fast as by copies in float64, and without memory for them. Small
    tensors are added up side by side, as calls take longer than their squares
    (benchmarks/neighbors.py). Squares that overflow are added up in float64.

    Args:
        values: Floating or complex tensors of any shapes, on one device.
    """
    found, small = [], []
    for value in values:
        flat = as_real(_wide(value.detach())).flatten()
        if len(flat) < _SMALL:
            small.append(flat)
        else:
            found.append(_squared(flat))
    return math.fsum([*found, _squared(torch.cat(small))] if small else found)


def _squared(flat: Tensor) -> float:
    """Sum of the squares of (n,) real entries, by blocks."""
    whole = len(flat) - len(flat) % _BLOCK
    found = float(torch.linalg.vector_norm(flat[whole:])) ** 2
    if whole:
        blocks = torch.linalg.vector_norm(flat[:whole].view(-1, _BLOCK), dim=1).double()
        found += float(blocks.square().sum())
    return found if math.isfinite(found) else float(flat.double().square().sum())


def squared_distance(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], keys: Sequence[str]
) -> float:
    r"""Squared Euclidean distance :math:`\sum_k \lVert a_k - b_k \rVert^2` over ``keys``."""
    return squared_norm(_wide(a[key]) - _wide(b[key]) for key in keys)


def _wide(value: Tensor) -> Tensor:
    """A floating or complex tensor in float32 or what is wider."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def consensus_distance(states: Sequence[Mapping[str, Tensor]], keys: Sequence[str]) -> float:
    r"""Root mean squared distance of the agents' parameters from their mean.

    .. math:: \Xi = \sqrt{\tfrac{1}{n}\sum_i \lVert\theta_i-\bar\theta\rVert^2}

    Args:
        states: ``n >= 1`` states of one structure, in one unit order; not changed.
        keys: The entries to compare, usually the parameters without buffers.

    Returns:
        Distance in parameter units, >= 0; 0.0 exactly when all agree.

    References:
        Kong et al., "Consensus Control for Decentralized Deep Learning", ICML 2021.
    """
    mean = {key: _mean([state[key] for state in states]) for key in keys}
    return math.sqrt(math.fsum(squared_distance(s, mean, keys) for s in states) / len(states))


def _mean(values: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape, in 64 bits; of many large ones a part at a time.

    Side by side in float64 a thousand states are twice as large as they are themselves.
    """
    first = values[0]
    if first.is_complex():
        return torch.view_as_complex(_mean([as_real(value) for value in values]))
    if len(values) * first.numel() <= _MOST_AT_ONCE:
        return torch.stack([value.double() for value in values]).mean(0)
    size = max(1, _MOST_AT_ONCE // len(values))
    parts = zip(*(torch.split(value.reshape(-1), size) for value in values), strict=True)
    means = [torch.stack([own.double() for own in part]).mean(0) for part in parts]
    return torch.cat(means).reshape(first.shape)


def memory_bytes() -> int:
    """Bytes of memory that this machine has, for refusing what cannot be in it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def save_state(
    state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write as safetensors, under another name first: no half-written file is ever seen.

    Args:
        state: The entries.
        path: The file.
        metadata: Texts by name for the file's header; None: none.

    Raises:
        StructureError: If an entry is of a type that safetensors has not.
    """
    for key, value in state.items():
        if value.dtype in (torch.complex128, torch.complex32):
            raise StructureError(
                f"'{key}' is {value.dtype}, which safetensors files cannot hold: make it complex64"
            )
    temporary = path.with_name(path.name + ".partial")
    own = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    write_tensors(own, temporary, metadata)
    temporary.replace(path)


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write as safetensors, under this very name.

    Raises:
        OSError: If it cannot be written, which safetensors has an error of its own for.
    """
    try:
        path.unlink(missing_ok=True)
        path.touch()
        mode = path.stat().st_mode & 0o777  # that of new files: safetensors has them for us alone
        path.unlink()
        safetensors.torch.save_file(dict(tensors), path, dict(metadata) if metadata else None)
        with suppress(OSError):  # where files have no modes
            path.chmod(mode)
    except safetensors.SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise OSError(f"{error}") from error
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def load_state(path: str | os.PathLike[str]) -> State:
    """Read a safetensors file.

    Args:
        path: The file.

    Raises:
        StructureError: If the file is missing or is not safetensors.
    """
    try:
        check_header(Path(path), StructureError)
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise StructureError(f"{path} cannot be read as safetensors: {error}") from error


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts in the header of a safetensors file, by name.

    Raises:
        StructureError: If the file is missing or is not safetensors.
    """
    try:
        check_header(Path(path), StructureError)
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise StructureError(f"{path} cannot be read as safetensors: {error}") from error
