"""A message arrives as it was; one that lies about itself is refused before it costs anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dimat.errors import StructureError
from dimat.exchange.network.stream import Stream
from dimat.exchange.wire import (
    MOST_ENTRIES,
    MOST_HEADER,
    PIECE,
    PREAMBLE,
    Frame,
    Kind,
    Preamble,
    checksum,
    pack,
    read_head,
    said,
    unpack,
)

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
COMPLEX = [torch.complex128, torch.complex64]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
LIMIT = 1 << 33


def filled(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype in FLOATS + COMPLEX:
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)
    return torch.randint(0, 2 if dtype is torch.bool else 100, shape, generator=generator).to(dtype)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any type, 0 to 4 axes of 0 to 4, in any layout that a model's tensors have."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    dtype = draw(st.sampled_from([*FLOATS, *COMPLEX, *WHOLE, torch.bool]))
    value = filled(shape, dtype, draw(st.integers(0, 2**31)))
    layout = draw(st.sampled_from(["plain", "permuted", "channels_last", "sliced", "expanded"]))
    if layout == "permuted":
        return value.permute(draw(st.permutations(range(len(shape)))))
    if layout == "channels_last" and len(shape) == 4:
        return value.contiguous(memory_format=torch.channels_last)
    if layout == "sliced" and shape:
        return value[:: draw(st.integers(1, 3))]
    if layout == "expanded":
        return value.expand(draw(st.integers(0, 3)), *shape)
    return value


messages = st.dictionaries(st.text(max_size=8), tensors(), max_size=6)


@settings(max_examples=200)
@given(messages)
def test_any_message_arrives_equal_with_the_strides_of_a_copy_and_its_keys_in_order(
    message: dict[str, Tensor],
) -> None:
    header, payload = pack(message, {"step": 1})
    assert payload.numel() % 8 == 0
    found = unpack(header, payload)
    assert [*found] == [*message]
    assert Frame(Kind.DATA, header=header).said == {"step": 1}
    for key, value in message.items():
        copy = value.clone(memory_format=torch.preserve_format)
        assert found[key].dtype == value.dtype
        assert found[key].stride() == copy.stride()
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)


@settings(max_examples=100)
@given(messages, st.data())
def test_one_changed_bit_is_noticed(message: dict[str, Tensor], data: st.DataObject) -> None:
    header, payload = pack(message, None)
    if payload.numel() == 0:
        return
    payload[data.draw(st.integers(0, payload.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StructureError, match="were changed on the way: wrong checksum"):
        unpack(header, payload)


def test_what_a_message_says_does_not_depend_on_what_its_memory_held_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = {"x": torch.arange(5, dtype=torch.uint8)}  # three bytes of the word are nobody's
    clean = pack(message, None)
    monkeypatch.setattr(torch, "empty", lambda *size, **more: torch.full(size, 255, **more))
    dirty = pack(message, None)
    assert dirty[0] == clean[0]
    torch.testing.assert_close(dirty[1], clean[1])


def test_the_sum_of_a_message_of_many_pieces_is_that_of_its_payload() -> None:
    """Entries of several types, the large ones longer than a piece and no whole words."""
    message = {
        f"{dtype} {size}": filled((size,), dtype, size)
        for dtype in (torch.int8, torch.float64, torch.bfloat16, torch.float32)
        for size in (3, PIECE // 2 + 1, PIECE + 5)
    }
    header, payload = pack(message, None)
    assert json.loads(header)["sum"] == checksum(payload)
    torch.testing.assert_close(unpack(header, payload), message, rtol=0, atol=0)
    stream = Stream(beat_s=1.0, limit_bytes=LIMIT)
    frame = Frame(Kind.DATA, 1, 0, header, payload)
    stream.open(frame.pieces(0, stream.session), lambda: None)
    assert stream.receive().sum == checksum(payload)


def test_a_parameter_that_learns_is_sent_without_its_graph() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    header, payload = pack({"w": weight}, None)
    assert not payload.requires_grad
    torch.testing.assert_close(unpack(header, payload)["w"], torch.ones(3))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (torch.zeros(2, dtype=torch.float8_e5m2), "'x' cannot be sent: .* torch.float8_e5m2"),
        (torch.eye(2).to_sparse(), "'x' cannot be sent: it is torch.sparse_coo"),
    ],
)
def test_what_does_not_travel_is_named_by_who_would_send_it(value: Tensor, match: str) -> None:
    with pytest.raises(StructureError, match=match):
        pack({"x": value}, None)


def forged(**changes: Any) -> tuple[bytes, Tensor]:
    """The header and payload of one entry, some of it otherwise."""
    payload = torch.arange(24, dtype=torch.uint8)
    entry = ["x", "float32", [2, 3], [3, 1]]
    own = {"said": None, "entries": [entry], "sum": checksum(payload), **changes}
    return json.dumps(own).encode(), payload


def one(*entry: Any) -> dict[str, Any]:
    return {"entries": [[*entry]]}


def test_the_forged_header_is_right_where_nothing_is_changed() -> None:
    assert unpack(*forged())["x"].shape == (2, 3)


BROKEN = "the header of a message is broken"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (one("x", "float32", [2, 2], [2, 1]), "of 24 bytes is not what its header says"),
        (one("x", "float32", [2, 1 << 50], [1 << 50, 1]), "is not what its header says"),
        (one("x", "float32", [1 << 70], [1]), f"{BROKEN}.*with strides"),
        (one("x", "float32", [2, 3], [4, 1]), f"{BROKEN}: .2, 3. with strides .4, 1."),
        (one("x", "float32", [2, 3], [0, 1]), f"{BROKEN}: .2, 3. with strides .0, 1."),
        (one("x", "float32", [2, 3], [3]), f"{BROKEN}: .2, 3. with strides"),
        (one("x", "float32", [-2, -3], [3, 1]), f"{BROKEN}: .-2, -3. with strides"),
        (one("x", "float32", [2, 3], [-3, 1]), f"{BROKEN}: .2, 3. with strides"),
        (one("x", "float32", [2, 3, 1], [3, 1, 1 << 70]), f"{BROKEN}.*with strides"),
        (one("x", "float32", [2, 3] + [1] * 99, [3, 1] + [1] * 99), f"{BROKEN}.*with strides"),
        (one("x", "float32", [0], [1 << 70]), f"{BROKEN}: .0. with strides"),
        (one("x", "float32", [0, 1 << 40, 1 << 40], [1, 1, 1]), f"{BROKEN}.*with strides"),
        (one("x", "object", [2, 3], [3, 1]), f"{BROKEN}: 'x' is of type object"),
        (one("x", ["float32"], [2, 3], [3, 1]), f"{BROKEN}: 'x' is of type .'float32'."),
        (one("x", "float32", "ab", [3, 1]), f"{BROKEN}: ab with strides"),
        (one("x", "float32", 6, 1), f"{BROKEN}: 6 with strides 1 of 'x'"),
        (one("x", "float32", [2.0, 3], [3, 1]), f"{BROKEN}: .2.0, 3. with strides"),
        (one("x", "float32", [True, 6], [6, 1]), f"{BROKEN}: .True, 6. with strides"),
        (one(7, "float32", [2, 3], [3, 1]), f"{BROKEN}: 7 is no name of an entry"),
        (one("x" * 5000, "float32", [2, 3], [3, 1]), f"{BROKEN}: x{{79}}… is no name"),
        (one("x", "float32", [2, 3]), f"{BROKEN}: .* is no entry"),
        ({"entries": [3]}, f"{BROKEN}: 3 is no entry"),
        ({"entries": [["x", "int8", [0], [1]]] * (MOST_ENTRIES + 1)}, f"{BROKEN}: .* or more than"),
        ({"entries": [["x", "int32", [3], [1]]] * 2}, "names an entry twice"),
        ({"entries": None}, f"{BROKEN}: it has no sum, or no entries"),
        ({"sum": None}, f"{BROKEN}: it has no sum"),
        ({"sum": float("inf")}, f"{BROKEN}: it has no sum"),
        ({"sum": 7}, "wrong checksum"),
    ],
)
def test_a_header_that_lies_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(StructureError, match=match):
        unpack(*forged(**changes))


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b'{"said": ', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1]", "it says nothing"),
        (b"{}", "it says nothing"),
        (b'{"said": 1}', f"{BROKEN}: it has no sum, or no entries"),
    ],
)
def test_a_header_that_is_none_is_refused(header: bytes, match: str) -> None:
    with pytest.raises(StructureError, match=match):
        unpack(header, torch.empty(0, dtype=torch.uint8))


def test_a_frame_announces_itself_and_what_it_holds() -> None:
    frame = said(Kind.REFUSE, 3, 5, "no")
    (head,) = frame.pieces(sequence=7, session=2**61)
    assert read_head(head, 0) == (Preamble(Kind.REFUSE, 3, 5, 0, 7, 2**61), frame.header)
    assert frame.said == "no"


@pytest.mark.parametrize("size", [8, PIECE - 8, PIECE, PIECE + 8, 3 * PIECE])
def test_a_payload_travels_in_pieces_that_are_all_of_it(size: int) -> None:
    payload = torch.randint(0, 256, (size,), dtype=torch.uint8)
    head, *pieces = Frame(Kind.DATA, 1, 2, b"{}", payload).pieces()
    assert read_head(head, LIMIT)[0].size == size
    assert max(map(len, pieces)) <= PIECE
    assert b"".join(pieces) == payload.numpy().tobytes()


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (0, 0x64696D617401, "no message of this version of dimat"),
        (0, 0, "no message of this version"),
        (1, 99, "no message of this version"),
        (1, -1, "no message of this version"),
        (4, -1, "no message of this version"),
        (4, 3, "no message of this version"),  # it has 2
        (4, MOST_HEADER + 1, "no message of this version"),
        (4, 1 << 50, "no message of this version"),
        (5, -8, "no message of this version"),
        (5, 12, "a message of 12 bytes is refused"),
        (5, LIMIT + 8, f"a message of {LIMIT + 8} bytes is refused: at most {LIMIT}"),
        (5, 1 << 50, f"a message of {1 << 50} bytes is refused"),
    ],
)
def test_a_head_that_is_none_or_announces_too_much_is_refused(
    at: int, value: int, match: str
) -> None:
    (head,) = Frame(Kind.DATA, 1, 2, b"{}").pieces()
    words = list(PREAMBLE.unpack_from(head))
    words[at] = value
    with pytest.raises(StructureError, match=match):
        read_head(PREAMBLE.pack(*words) + b"{}", LIMIT)


@pytest.mark.parametrize("length", [0, 1, PREAMBLE.size - 1])
def test_a_head_that_is_cut_short_is_refused(length: int) -> None:
    (head,) = Frame(Kind.DATA, 1, 2).pieces()
    with pytest.raises(StructureError, match="no message of this version"):
        read_head(head[:length], LIMIT)
