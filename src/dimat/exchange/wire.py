"""Messages as bytes: a fixed preamble, a JSON header, and one flat buffer of all tensors.

A frame travels as its preamble and header in one piece, then its payload in pieces of a few MB.

Nothing is unpickled, and nothing is allocated before the preamble and the header were checked. A
tensor arrives with the strides it was sent with: arithmetic on it gives the same bits there.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from dimat.errors import StructureError, shown
from dimat.exchange.protocol import Message

PREAMBLE = struct.Struct("<8q")
PIECE = 1 << 20  # bytes of a payload that travel at once; a transfer shows life as often
MOST_HEADER = 1 << 22  # bytes
_MOST_SAID = 1 << 16  # characters that are kept of what a neighbor says beside tensors
_MAGIC = 0x64696D617403  # "dimat", version 3
WORD = 8
_SMALL = 1 << 16  # bytes: entries up to here are sent together
MOST_ENTRIES = 1 << 15
_MOST_AXES = 64
_MOST_NAME = 4096  # characters
_MOST_SIZE = 1 << 62  # of an axis, a stride, or all elements: what fits a word
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.complex128, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


class Kind(IntEnum):
    """What a frame is."""

    BEAT = 0
    HELLO = 1
    DATA = 2
    ACCEPT = 3
    REFUSE = 4
    BYE = 5


@dataclass(frozen=True)
class Frame:
    """What travels on an edge at once.

    Args:
        kind: What it is.
        sender: The agent that it is from.
        to: The agent that it is for.
        header: JSON of what the payload holds, and of what else is said.
        payload: All tensors, flat, uint8.
        sum: The checksum of the payload, where it was taken as that arrived.
    """

    kind: Kind
    sender: int = 0
    to: int = 0
    header: bytes = b""
    payload: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    sum: int | None = None

    @property
    def size(self) -> int:
        """Bytes of its header and its payload."""
        return len(self.header) + self.payload.numel()

    @property
    def said(self) -> Any:
        """What is said beside the tensors."""
        return _parsed(self.header)["said"]

    def pieces(self, sequence: int = 0, session: int = 0) -> Iterator[bytes]:
        """The frame as it travels: preamble and header, then the payload piece by piece.

        Args:
            sequence: Number of the frame among those of its stream.
            session: What the listener called the stream, so that no frame of another is taken.
        """
        size = self.payload.numel()
        own = (_MAGIC, self.kind, self.sender, self.to, len(self.header), size, sequence, session)
        yield PREAMBLE.pack(*own) + self.header
        flat = self.payload.numpy()
        for at in range(0, size, PIECE):
            yield flat[at : at + PIECE].tobytes()


@dataclass(frozen=True)
class Preamble:
    """What is known of a frame before its payload is read.

    Args:
        kind: What it is.
        sender: The agent that it claims to be from.
        to: The agent that it is for.
        size: Bytes of its payload.
        sequence: Number of the frame among those of its stream.
        session: What its listener is to have called the stream.
    """

    kind: Kind
    sender: int
    to: int
    size: int
    sequence: int
    session: int


def said(kind: Kind, sender: int, to: int, value: object) -> Frame:
    """A frame without tensors."""
    return Frame(kind, sender, to, json.dumps({"said": value}).encode())


def check_brief(value: object) -> None:
    """Refuse what is too long to be kept of what is said beside the tensors.

    Raises:
        StructureError: If it is.
    """
    length = len(json.dumps(value))
    if length > _MOST_SAID:
        raise StructureError(f"{length} characters beside a message: at most {_MOST_SAID}")


def read_head(head: bytes, limit: int) -> tuple[Preamble, bytes]:
    """The preamble and the header of a frame.

    Args:
        head: The first piece of the frame.
        limit: The largest payload that is let in, in bytes.

    Raises:
        StructureError: If it is no first piece, or announces more than ``limit`` bytes.
    """
    if len(head) < PREAMBLE.size:
        raise StructureError("what arrives is no message of this version of dimat")
    magic, kind, sender, to, words, size, sequence, session = PREAMBLE.unpack_from(head)
    header = head[PREAMBLE.size :]
    known = magic == _MAGIC and kind in [*Kind]
    if not known or not len(header) == words <= MOST_HEADER or size < 0:
        raise StructureError("what arrives is no message of this version of dimat")
    if size and kind != Kind.DATA:
        raise StructureError("what arrives has a payload and is no message")
    if size > limit or size % WORD:
        raise StructureError(f"a message of {size} bytes is refused: at most {limit}")
    return Preamble(Kind(kind), sender, to, size, sequence, session), header


def pack(message: Message, said: object) -> tuple[bytes, Tensor]:
    """A message as header and payload.

    Args:
        message: Tensors by name, on any device.
        said: Any JSON that goes along.

    Raises:
        StructureError: If an entry is of a type that does not travel.
    """
    entries = _entries(message)
    size = _size([(dtype, shape) for _, dtype, shape, _ in entries])
    flat = torch.empty(size, dtype=torch.uint8)
    flat[-WORD:] = 0  # what is beyond the last entry
    total = summed = copied = 0
    views = _views(flat, entries)
    for k in sorted(range(len(entries)), key=lambda k: views[k].data_ptr()):
        views[k].copy_(message[entries[k][0]].detach())
        copied += views[k].numel() * views[k].itemsize
        if copied - summed >= PIECE:  # while it is in the processor's cache
            whole = copied // WORD * WORD
            total, summed = total + checksum(flat[summed:whole]), whole
    total = wrapped(total + checksum(flat[summed:]))
    header = {"said": said, "entries": _listed(entries), "sum": total}
    return json.dumps(header).encode(), flat


def unpack(
    header: bytes, payload: Tensor, device: torch.device | str = "cpu", total: int | None = None
) -> Message:
    """The message; its tensors share the payload's memory where that is on the device.

    Args:
        header: What :func:`pack` gave.
        payload: What :func:`pack` gave.
        device: Where the tensors are wanted.
        total: The checksum of the payload, where it was taken already.

    Raises:
        StructureError: If header and payload do not fit each other, or bytes were changed.
    """
    found = _parsed(header)
    listed, stated = found.get("entries"), found.get("sum")
    if not isinstance(listed, list) or len(listed) > MOST_ENTRIES or type(stated) is not int:
        raise _broken(f"it has no sum, or no entries, or more than {MOST_ENTRIES}")
    entries: list[_Entry] = []
    left = payload.numel()
    for own in listed:
        entries.append(_entry(own))
        left -= math.prod(entries[-1][2]) * entries[-1][1].itemsize
        if left < 0:  # at once: the rest is not looked at
            break
    if not 0 <= left < WORD:
        raise StructureError(f"a message of {payload.numel()} bytes is not what its header says")
    if len({key for key, *_ in entries}) != len(entries):
        raise StructureError("the header of a message names an entry twice")
    if (checksum(payload) if total is None else total) != stated:
        raise StructureError("the bytes of a message were changed on the way: wrong checksum")
    views = _views(payload, entries)
    return {key: view.to(device) for (key, *_), view in zip(entries, views, strict=True)}


def checksum(flat: Tensor) -> int:
    """Sum of all 64-bit words, modulo 2^64: for accidents, not for attackers."""
    return int(flat.view(torch.int64).sum()) if flat.numel() else 0


def wrapped(total: int) -> int:
    """A sum of words modulo 2^64, as a signed word."""
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


_Entry = tuple[str, torch.dtype, tuple[int, ...], tuple[int, ...]]


def _entries(message: Message) -> list[_Entry]:
    """The entries of a message that is to travel.

    Raises:
        StructureError: If one is of a type that does not.
    """
    for key, value in message.items():
        if value.dtype not in _DTYPES.values() or value.layout is not torch.strided:
            raise StructureError(f"'{key}' cannot be sent: it is {value.layout} {value.dtype}")
    return [
        (key, value.dtype, tuple(value.shape), _dense_strides(value))
        for key, value in message.items()
    ]


def _listed(entries: Sequence[_Entry]) -> list[list[object]]:
    """Entries as JSON; :func:`_entry` reads one."""
    return [
        [key, str(dtype).removeprefix("torch."), shape, strides]
        for key, dtype, shape, strides in entries
    ]


def _parsed(header: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(header)
    except (ValueError, RecursionError) as error:  # the latter: nested too deep
        raise StructureError(f"the header of a message is no JSON: {error}") from error
    if not isinstance(found, dict) or "said" not in found:
        raise StructureError("the header of a message is broken: it says nothing")
    return found


def _dense_strides(value: Tensor) -> tuple[int, ...]:
    """The strides of a copy that keeps the order of the axes in memory."""
    return torch.empty_like(value, device="meta").stride()


def _entry(own: Any) -> _Entry:
    """One entry of a header: counts first, then each number once.

    Raises:
        StructureError: If it is none.
    """
    if not isinstance(own, list) or len(own) != 4:
        raise _broken(f"{shown(own, 80)} is no entry")
    key, dtype, shape, strides = own
    if not isinstance(key, str) or len(key) > _MOST_NAME:
        raise _broken(f"{shown(key, 80)} is no name of an entry")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise _broken(f"'{shown(key, 80)}' is of type {shown(dtype, 80)}, which does not travel")
    if not (_are_axes(shape) and _are_axes(strides) and _is_dense(shape, strides)):
        layout = f"{shown(shape, 80)} with strides {shown(strides, 80)}"
        raise _broken(f"{layout} of '{shown(key, 80)}'")
    return key, _DTYPES[dtype], tuple(shape), tuple(strides)


def _are_axes(numbers: Any) -> bool:
    """Whether these are a few whole numbers that fit a word."""
    few = isinstance(numbers, list) and len(numbers) <= _MOST_AXES
    return few and all(type(n) is int and 0 <= n < _MOST_SIZE for n in numbers)


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides are those of a dense entry; others reach too far, or overlap.

    What has no elements, or one along an axis, may have any stride there that is a number.
    """
    elements = 1
    for n in shape:
        elements *= max(n, 1)
        if elements >= _MOST_SIZE:
            return False
    before, dense = 1, True
    for stride, n in sorted(zip(strides, shape, strict=False)):
        if n != 1:
            dense &= stride == before
            before *= n
    return len(shape) == len(strides) and (dense or 0 in shape)


def _broken(why: str) -> StructureError:
    return StructureError(f"the header of a message is broken: {why}")


def _size(entries: Sequence[tuple[torch.dtype, tuple[int, ...]]]) -> int:
    """Bytes of a payload: whole words."""
    total = sum(math.prod(shape) * dtype.itemsize for dtype, shape in entries)
    return -(-total // WORD) * WORD


def _views(flat: Tensor, entries: Sequence[_Entry]) -> list[Tensor]:
    """Every entry's place in the payload: a bucket a dtype, wide ones first: all are aligned."""
    places: dict[int, Tensor] = {}
    at = 0
    for k in sorted(range(len(entries)), key=lambda k: -entries[k][1].itemsize):
        _, dtype, shape, strides = entries[k]
        end = at + math.prod(shape) * dtype.itemsize
        places[k] = torch.as_strided(flat[at:end].view(dtype), shape, strides)
        at = end
    return [places[k] for k in range(len(entries))]


def parts(message: Message, said: object) -> list[Tensor]:
    """A message as tensors to send one by one: a header, all small entries, and each large one.

    Large entries are not copied where they are dense and on the CPU.

    Args:
        message: Tensors by name, on any device.
        said: Any JSON that goes along.

    Raises:
        StructureError: If an entry is of a type that does not travel.
    """
    entries = _entries(message)
    header = bytearray(json.dumps({"said": said, "entries": _listed(entries)}).encode())
    small, joined = _joined(entries)
    for key, place in small.items():
        place.copy_(message[key].detach())
    large = [_memory(value) for key, value in message.items() if key not in small]
    return [torch.frombuffer(header, dtype=torch.uint8), joined, *large]


def room(header: bytes) -> tuple[Any, Message, list[Tensor]]:
    """What a header says, and room for its message: the entries, and the tensors to receive.

    Args:
        header: The first of :func:`parts`.

    Raises:
        StructureError: If it is no header.
    """
    found = _parsed(header)
    listed = found.get("entries")
    if not isinstance(listed, list) or len(listed) > MOST_ENTRIES:
        raise _broken(f"it has no entries, or more than {MOST_ENTRIES}")
    entries = [_entry(own) for own in listed]
    if len({key for key, *_ in entries}) != len(entries):
        raise _broken("it names an entry twice")
    small, joined = _joined(entries)
    message = {
        key: small[key] if key in small else torch.empty_strided(shape, strides, dtype=dtype)
        for key, dtype, shape, strides in entries
    }
    large = [_memory(value) for key, value in message.items() if key not in small]
    return found["said"], message, [joined, *large]


def _joined(entries: Sequence[_Entry]) -> tuple[dict[str, Tensor], Tensor]:
    """The small ones of some entries, and the memory that they share."""
    sizes = [(own, math.prod(own[2]) * own[1].itemsize) for own in entries]
    small = [own for own, size in sizes if size <= _SMALL]
    flat = torch.empty(_size([own[1:3] for own in small]), dtype=torch.uint8)
    flat[-WORD:] = 0  # what is beyond the last entry
    return {own[0]: view for own, view in zip(small, _views(flat, small), strict=True)}, flat


def _memory(value: Tensor) -> Tensor:
    """The bytes of a dense copy of a tensor, flat; its own where it is dense and on the CPU."""
    strides = _dense_strides(value)
    value = value.detach().cpu().resolve_conj().resolve_neg()
    if value.stride() != strides:
        value = torch.empty_strided(value.shape, strides, dtype=value.dtype).copy_(value)
    return value.as_strided((value.numel(),), (1,)).view(torch.uint8)
