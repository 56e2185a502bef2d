"""The algebra of units: what same, belong and pin come to once solved."""

import numpy as np
import pytest

from dimat.symmetry.labels.row_hash import distinct
from dimat.symmetry.labels.solve import solve
from dimat.symmetry.labels.units import ANY, FIXED, Labels, Special, Units
from dimat.symmetry.proof.elements import swaps


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


@pytest.mark.parametrize("largest", [3, 40, 2**62])
@pytest.mark.parametrize("columns", [1, 3])
def test_distinct_rows_are_those_of_numpy(largest: int, columns: int) -> None:
    random = np.random.default_rng(columns)
    rows = random.integers(-largest, largest, (50, columns))
    rows = rows[random.integers(0, 50, 200)]  # with repeats
    np.testing.assert_array_equal(distinct(rows), np.unique(rows, axis=0))
    assert distinct(rows[:0]).shape == (0, columns)


@pytest.mark.parametrize("seed", range(5))
def test_swaps_tell_all_cells_apart_that_meet(seed: int) -> None:
    random = np.random.default_rng(seed)
    units = Units()
    labels: list[Labels] = []
    for cells in (1, 3, 1, 5, 2, 1):  # axes of blocks: a family of blocks, one of what is in them
        axis = units.fresh(cells * 4)
        labels += [(axis,), units.split((axis,), (cells * 4,), 0, (cells, 4))]
    solution = solve(units, [(x, i) for own in labels for i, x in enumerate(own) if x is not FIXED])
    families = solution.structure.families
    moving = [k for k, f in enumerate(families) if f.size > 1]
    meetings = [frozenset(random.choice(moving, 3, replace=False).tolist()) for _ in range(4)]
    elements = swaps(solution, random, meetings)
    seen: dict[int, list[tuple[bool, ...]]] = {}
    for k in moving:
        slots = [solution.structure.slots(moves, k) for moves in elements]
        moved = [(own != np.arange(families[k].size)).any(axis=1) for own in slots]
        seen[k] = [tuple(map(bool, own)) for own in zip(*moved, strict=True)]
    for own in meetings:
        here = {k for n in own for k in solution.structure.above[n] if k in seen}
        moved_by = [which for k in here for which in seen[k]]  # one a cell
        assert len(set(moved_by)) == len(moved_by)
        assert all(map(any, moved_by))
    assert len(elements) < sum(len(families[k].cells) for k in moving).bit_length()
