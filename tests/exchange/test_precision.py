"""Float32 travels as bfloat16, everything else as it is, and the talk need not know."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimat.errors import StructureError
from dimat.exchange import Inbox, Message, Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.exchange.precision import exact, from_exact, in_bfloat16, narrowed, widened

MESSAGE = {
    "weight": torch.tensor([1.0, -2.5, 1.0 + 2**-9]),
    "own": torch.tensor([3.140625], dtype=torch.bfloat16),
    "double": torch.tensor([1.0 + 2**-40], dtype=torch.float64),
    "count": torch.tensor([2**31 - 1], dtype=torch.int32),
}


def swapped(message: Message, other: int) -> Talk[Inbox]:
    return (yield Step({other: message}, [other]))


def run(first: Talk[Inbox], second: Talk[Inbox]) -> tuple[list[Inbox], list[Traffic]]:
    traffic = [Traffic(), Traffic()]
    return run_all([first, second], traffic), traffic


def test_what_arrives_is_rounded_where_it_is_float32_and_nothing_else_is_touched() -> None:
    (inbox, _), _ = run(in_bfloat16(swapped({}, 1)), in_bfloat16(swapped(MESSAGE, 0)))
    assert list(inbox[1]) == list(MESSAGE)
    rounded = torch.tensor([1.0, -2.5, 1.0])
    torch.testing.assert_close(inbox[1]["weight"], rounded, rtol=0, atol=0)
    for key in ("own", "double", "count"):
        torch.testing.assert_close(inbox[1][key], MESSAGE[key], rtol=0, atol=0)


def test_float32_costs_half_and_the_rest_what_it_did() -> None:
    _, traffic = run(in_bfloat16(swapped(MESSAGE, 1)), in_bfloat16(swapped({}, 0)))
    assert traffic == [Traffic(3 * 2 + 2 + 8 + 4, 0), Traffic(0, 3 * 2 + 2 + 8 + 4)]


def test_one_message_to_several_is_narrowed_once_and_two_messages_are_two() -> None:
    def told() -> Talk[None]:
        yield Step({1: MESSAGE, 2: MESSAGE, 3: dict(MESSAGE)})

    step = next(in_bfloat16(told()))
    assert step.send[1] is step.send[2]
    assert step.send[1] is not step.send[3]


@settings(max_examples=50)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_changes_a_number_by_one_part_in_256_at_most(values: list[float]) -> None:
    value = torch.tensor(values)
    normal = value[(value.abs() > 1e-37) & (value.abs() < 3e38)]
    found = widened(narrowed({"x": normal}))["x"]
    torch.testing.assert_close(found, normal, rtol=2**-8, atol=0)


def test_what_must_be_exact_arrives_so_at_full_price() -> None:
    message = {"x": torch.tensor([1.0 + 2**-20, float("nan")]), "n": torch.tensor([7])}
    (inbox, _), traffic = run(in_bfloat16(swapped({}, 1)), in_bfloat16(swapped(exact(message), 0)))
    torch.testing.assert_close(from_exact(inbox[1]), message, rtol=0, atol=0, equal_nan=True)
    assert traffic[1].sent_bytes == 16


def test_a_talk_judges_what_it_will_see() -> None:
    judged: list[tuple[int, torch.dtype]] = []

    def picky() -> Talk[Inbox]:
        def admit(sender: int, message: Message) -> None:
            judged.append((sender, message["weight"].dtype))
            if message["weight"][0] == 1:
                raise StructureError("no ones")

        return (yield Step(hear=[1], admit=admit))

    with pytest.raises(StructureError, match="no ones"):
        run(in_bfloat16(picky()), in_bfloat16(swapped(MESSAGE, 0)))
    assert judged == [(1, torch.float32)]


def test_a_marked_entry_that_is_no_bfloat16_is_not_taken_for_one() -> None:
    ((name, _), *_) = narrowed({"x": torch.zeros(1)}).items()
    found = widened({name: torch.zeros(1, dtype=torch.float16)})
    assert list(found) == [name]


def test_the_result_and_the_errors_of_a_talk_are_its_own() -> None:
    def broken() -> Talk[Inbox]:
        inbox = yield Step(hear=[1])
        raise ValueError(f"no use for {len(inbox)} messages")

    with pytest.raises(ValueError, match="no use for 1 messages"):
        run(in_bfloat16(broken()), in_bfloat16(swapped(MESSAGE, 0)))
