"""A header is read in time that is linear in its length, and no further than it makes sense."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

from dimat.errors import StructureError
from dimat.exchange import wire
from dimat.exchange.wire import checksum, pack, unpack

NOTHING = torch.empty(0, dtype=torch.uint8)


def work(what: Callable[[], object]) -> int:
    """How many bytecodes of the wire's run."""
    count, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != wire.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        what()
    finally:
        sys.settrace(before)
    return count


def header(entries: list[list[Any]], payload: torch.Tensor = NOTHING) -> bytes:
    return json.dumps({"said": None, "entries": entries, "sum": checksum(payload)}).encode()


def reading(entries: list[list[Any]], payload: torch.Tensor = NOTHING) -> int:
    """The work of a header, with a message that fits it."""
    text = header(entries, payload)
    return work(lambda: unpack(text, payload))


def refusing(entries: list[list[Any]], match: str = "message") -> int:
    text = header(entries)

    def refused() -> None:
        with pytest.raises(StructureError, match=match):
            unpack(text, NOTHING)

    return work(refused)


def twos(axes: int) -> tuple[list[list[Any]], torch.Tensor]:
    """An entry of that many axes, dense, of two each; and its payload."""
    size = max(2**axes, 8)
    entry = ["x", "int8", [2] * axes, [2**k for k in range(axes)]]
    return [entry], torch.zeros(size, dtype=torch.uint8)


def empty(axes: int) -> list[Any]:
    """An entry of that many axes, dense, without elements."""
    return ["int8", [0] + [2] * (axes - 1), [1] + [2**k for k in range(axes - 1)]]


def test_the_work_of_an_entry_is_linear_in_its_axes() -> None:
    """64 of them took 2080 multiplications, and a message of 9.7 MB 21 s."""
    few, more, most = (reading(*twos(axes)) for axes in (4, 12, 20))
    assert most - more < 1.2 * (more - few)


def test_the_work_of_a_header_is_linear_in_its_entries() -> None:
    few, many = ([[f"{k}", *empty(3)] for k in range(n)] for n in (100, 1000))
    assert reading(many) < 11 * reading(few)


def test_a_number_costs_no_more_than_a_few_bytecodes() -> None:
    entries = [[f"{k}", *empty(60)] for k in range(20)]
    assert reading(entries) < 60 * 20 * 2 * 60


@pytest.mark.parametrize(
    "entries",
    [
        [["x", "int8", [3] * 1_000, [1] * 1_000]],
        [["x", "int8", [10**4000] * 60, [1] * 60]],
        [["x", "int8", [1 << 61] * 60, [1] * 60]],
        [["x", "int8", [2] * 60, [10**4000] * 60]],
        [["x" * 100_000, "int8", [1], [1]]],
        [["x", "y" * 100_000, [1], [1]]],
        [[f"{k}", "int8", [8], [1]] for k in range(1_000)],  # the first is beyond the payload
        [[f"{k}", "int8", [2] * 60, [2**k for k in range(60)]] for k in range(1_000)],
        [["x", *empty(3)]] * (wire.MOST_ENTRIES + 1),
    ],
)
def test_what_cannot_be_is_refused_at_the_first_that_says_so(entries: list[list[Any]]) -> None:
    assert refusing(entries) < 8_000


@pytest.mark.parametrize("size", [10**4000, 1 << 62, -1])
def test_no_number_that_fits_no_word_is_ever_multiplied(size: int) -> None:
    refusing([["x", "int8", [size, 0], [1, 1]]], "the header of a message is broken: ")
    refusing([["x", "int8", [0], [size]]], "the header of a message is broken: ")


def test_a_message_of_many_entries_still_arrives() -> None:
    message = {f"layer.{k}.weight": torch.ones(2) for k in range(3000)}
    found = unpack(*pack(message, None))
    assert found.keys() == message.keys()
