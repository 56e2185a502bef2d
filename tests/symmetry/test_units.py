"""The algebra of units: what same, belong and pin come to once solved."""

import numpy as np
import pytest

from dimat.symmetry.labels.solve import solve
from dimat.symmetry.labels.units import ANY, FIXED, Labels, Special, Units


def group_sizes(units: Units, *labels: Labels) -> list[tuple[int, int]]:
    """(cells, size) of every group, for labels in use."""
    axes = [
        (label, axis)
        for own in labels
        for axis, label in enumerate(own)
        if not isinstance(label, Special)
    ]
    solution = solve(units, axes)
    return sorted(f.cells.shape for f in solution.structure.families if f.size > 1)


def test_units_without_facts_may_all_be_permuted() -> None:
    units = Units()
    assert group_sizes(units, (units.fresh(5),)) == [(1, 5)]


def test_pinned_units_form_no_group() -> None:
    units = Units()
    label = units.fresh(5)
    units.pin(label, "because")
    assert group_sizes(units, (label,)) == []


def test_tied_axes_share_one_group_and_a_fixed_axis_pins() -> None:
    units = Units()
    a, b, c = units.fresh(5), units.fresh(5), units.fresh(5)
    assert units.same(a, b) is a
    units.same(c, FIXED)
    assert group_sizes(units, (a,), (b,), (c,)) == [(1, 5)]


def test_anything_goes_with_a_constant_axis() -> None:
    units = Units()
    label = units.fresh(3)
    assert units.same(label, ANY) is label
    assert units.same(ANY, ANY) is ANY


def test_a_slice_splits_an_axis_into_two_groups() -> None:
    units = Units()
    whole = units.fresh(7)
    (part,) = units.take((whole,), 0, np.arange(3))
    assert group_sizes(units, (whole,), (part,)) == [(1, 3), (1, 4)]


def test_halves_tied_to_each_other_move_together() -> None:
    units = Units()
    whole = units.fresh(8)
    (first,) = units.take((whole,), 0, np.arange(4))
    (second,) = units.take((whole,), 0, np.arange(4, 8))
    units.same(first, second)
    assert group_sizes(units, (whole,), (first,), (second,)) == [(1, 4)]


def test_splitting_an_axis_gives_blocks_and_independent_insides() -> None:
    units = Units()
    whole = units.fresh(6)
    split = units.split((whole,), [6], 0, [2, 3])
    assert group_sizes(units, (whole,), split) == [(1, 2), (2, 3)]


def test_sharing_the_inside_axis_makes_all_blocks_permute_alike() -> None:
    units = Units()
    whole = units.fresh(6)
    outer, inner = units.split((whole,), [6], 0, [2, 3])
    shared = units.fresh((1, 3))
    units.same(inner, shared)
    assert group_sizes(units, (whole,), (outer, inner), (FIXED, shared)) == [(1, 2), (1, 3)]


def test_flattening_with_a_fixed_axis_moves_whole_rows() -> None:
    units = Units()
    channels = units.fresh((4, 1))
    (flat,) = units.merge((channels, FIXED), [4, 9], 0, 2)
    assert group_sizes(units, (channels, FIXED), (flat,)) == [(1, 4)]


def test_merging_and_splitting_again_recovers_the_factors() -> None:
    units = Units()
    labels = (units.fresh((4, 1)), units.fresh((1, 3)))
    merged = units.merge(labels, [4, 3], 0, 2)
    again = units.split(merged, [12], 0, [4, 3])
    for label, expected in zip(again, labels, strict=True):
        assert not isinstance(label, Special)
        np.testing.assert_array_equal(label, expected)


def test_two_indices_of_one_axis_tied_to_each_other_are_pinned() -> None:
    units = Units()
    label = units.fresh(4)
    units.same(label[:2], label[2:])
    assert group_sizes(units, (label,)) == []


def test_crossing_block_systems_leave_rows_columns_and_cells() -> None:
    units = Units()
    whole = units.fresh((2, 3, 2))
    rows, columns = units.fresh(2), units.fresh(3)
    units.belong(whole, rows[:, None, None])
    units.belong(whole, columns[None, :, None])
    flat = whole.ravel()
    assert group_sizes(units, (flat,)) == [(1, 2), (1, 3), (6, 2)]


def test_a_block_system_finer_than_another_is_nested_in_it() -> None:
    units = Units()
    whole = units.fresh(12)
    coarse = units.split((whole,), [12], 0, [2, 6])
    fine = units.split((whole,), [12], 0, [4, 3])
    assert group_sizes(units, (whole,), coarse, fine) == [(1, 2), (2, 2), (4, 3)]


@pytest.mark.parametrize("index", [0, 3])
def test_a_selected_index_stays_and_the_others_are_free(index: int) -> None:
    units = Units()
    whole = units.fresh(4)
    units.take((whole,), 0, np.asarray([index]))
    assert group_sizes(units, (whole,)) == [(1, 3)]
