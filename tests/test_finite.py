"""The quick look at a state finds what a look at each value does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimat.errors import StructureError
from dimat.state import check_finite

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(TYPES), st.lists(st.floats(width=16), max_size=5)), max_size=4
    )
)
def test_a_state_is_refused_exactly_if_a_value_is_not_finite(
    entries: list[tuple[torch.dtype, list[float]]],
) -> None:
    state = {f"x{k}": torch.tensor(values, dtype=d) for k, (d, values) in enumerate(entries)}
    bad = {key: int((~value.isfinite()).sum()) for key, value in state.items()}
    first = next((key for key, count in bad.items() if count), None)
    if first is None:
        check_finite(state, "state")
    else:
        with pytest.raises(StructureError, match=f"state: '{first}' has {bad[first]} values that"):
            check_finite(state, "state")


@pytest.mark.parametrize("dtype", TYPES)
def test_values_whose_sum_overflows_are_finite_all_the_same(dtype: torch.dtype) -> None:
    check_finite({"x": torch.full((9,), torch.finfo(dtype).max, dtype=dtype)}, "state")


def test_infinities_that_cancel_are_found_and_whole_numbers_are_no_matter() -> None:
    state = {"n": torch.tensor([1 << 62] * 4), "x": torch.tensor([torch.inf, -torch.inf, 0])}
    with pytest.raises(StructureError, match="state: 'x' has 2 values that are NaN or infinite"):
        check_finite(state, "state")
    check_finite({"n": state["n"], "none": torch.zeros(0)}, "state")
