"""Coordinate ascent of the inner product of two states: one group after another is matched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dimat.matching.assignment import Floats, assign
from dimat.matching.parameter_slices import ParameterSlice, parameter_keys, terms_of
from dimat.matching.unit_axes import outer_groups
from dimat.state import as_real, is_number
from dimat.symmetry import Analysis, Permutation
from dimat.symmetry.labels.positions import Memo, sources, take

MAX_SWEEPS = 100  # a bound, not a budget: every step gains, so the sweeps end by themselves
GAIN = 1e-9  # of the product of both norms: less is rounding


class AscentProblem:
    """What of a model can be compared, the same for all its states.

    Args:
        analysis: Of the model.

    Attributes:
        terms: Where groups stand in parameters.
        keys: For each group the parameters that it moves.
        outer: For each group those that its cells belong to.
        blocks: Groups that belong to one another, in the order of the state: solved together.
    """

    def __init__(self, analysis: Analysis) -> None:
        symmetry = self.symmetry = analysis.symmetry
        self.terms = terms_of(analysis)
        self.outer = outer_groups(symmetry)
        own = set(parameter_keys(analysis))
        self.keys = {g.name: {key for key, _ in g.members} & own for g in symmetry.groups}

    @cached_property
    def blocks(self) -> tuple[frozenset[str], ...]:
        """The groups, those that belong to one another in one set."""
        found: list[frozenset[str]] = []
        for name in self.symmetry.names:
            new = frozenset({name}) | self.outer[name]
            for block in [b for b in found if b & new]:
                found.remove(block)
                new |= block
            found.append(new)
        first = {name: k for k, name in enumerate(self.symmetry.names)}
        return tuple(sorted(found, key=lambda block: min(first[name] for name in block)))

    def of(self, names: Collection[str]) -> list[ParameterSlice]:
        """The terms of these groups."""
        return [t for t in self.terms if t.group in names]

    def touched(self, names: Iterable[str]) -> set[str]:
        """The parameters that these groups move."""
        return set().union(*(self.keys[name] for name in names))


class CoordinateAscent:
    """Two states, theirs kept in the order found so far.

    A step is a permutation of theirs *as they stand*, so the cells that correspond are those in one
    place, and where nothing is gained nothing moves.

    Args:
        field: Of their model.
        ours: A state; not changed.
        theirs: Another one; not changed.
    """

    def __init__(
        self, field: AscentProblem, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
    ) -> None:
        self.field = field
        keys = sorted(field.touched(field.symmetry.names))
        self.ours = {key: ours[key] for key in keys if is_number(ours[key])}
        self.theirs = {key: theirs[key] for key in self.ours}
        self.permutation = field.symmetry.identity()
        norms = [sum(_dot(x, x) for x in s.values()) for s in (self.ours, self.theirs)]
        self._least = GAIN * (norms[0] * norms[1]) ** 0.5

    @property
    def total(self) -> float:
        """The inner product of all that moves: what the sweeps raise."""
        return sum(_dot(own, self.theirs[key]) for key, own in self.ours.items())

    def settle(self) -> None:
        """The start: a group is matched by what is settled already, from the inputs on.

        The next one is the group most of whose entries meet only settled groups and fixed axes. For
        a permuted copy the inner product of those is largest, by Cauchy and Schwarz, exactly where
        the copy is undone.
        """
        settled: set[str] = set()
        names = self.field.symmetry.names
        while len(settled) < len(names):
            waiting = [name for name in names if name not in settled]
            share = {name: self._share(name, settled) for name in waiting}
            group = max(waiting, key=lambda name: share[name])
            together = self._together(group, [n for n in waiting if share[n] > 0], settled)
            usable = [t for t in self.field.of(together) if t.others <= settled]
            self.move(assign(self.field.symmetry, self.scores(usable), together), together)
            settled |= together

    def _share(self, name: str, settled: set[str]) -> float:
        """How many of a group's entries could be compared now."""
        own = self.field.of({name})
        usable = sum(t.entries for t in own if t.others <= settled)
        return usable / max(sum(t.entries for t in own), 1)

    def _together(self, name: str, ready: Sequence[str], settled: set[str]) -> frozenset[str]:
        """A group, what it is inside of, and what else inside that can be compared now."""
        outer = self.field.outer
        base = ({name} | outer[name]) - settled
        for other in ready:
            if outer[other] & base:
                base |= ({other} | outer[other]) - settled
        return frozenset(base)

    def sweeps(self) -> Iterator[float]:
        """Sweeps over all blocks until nothing is gained; the total after each."""
        changed = dict.fromkeys(self.field.blocks, True)
        for _ in range(MAX_SWEEPS):
            for block in self.field.blocks:
                if not changed[block]:
                    continue
                changed[block] = False
                if self._improve(block):
                    keys = self.field.touched(block)
                    near = [b for b in changed if self.field.touched(b) & keys]
                    changed.update(dict.fromkeys(near, True))
            yield self.total
            if not any(changed.values()):
                return

    def _improve(self, block: frozenset[str]) -> bool:
        """All of a block at once, then each of its groups alone; whether anything was gained.

        What stands between two groups of the block can only be compared cell by cell, so it counts
        in the second part alone.
        """
        own = self.field.of(block)
        gained = False
        if len(block) > 1:
            gained = self._step([t for t in own if not t.others & block], block)
        for name in sorted({t.group for t in own}):
            gained |= self._step([t for t in own if t.group == name], frozenset({name}))
        return gained

    def _step(self, terms: Sequence[ParameterSlice], only: frozenset[str]) -> bool:
        return self.gain(assign(self.field.symmetry, self.scores(terms), only), only)

    def move(self, step: Permutation, only: Collection[str]) -> None:
        """Take a step in which only these groups move."""
        self._take(step, self._moved(step, only))

    def gain(self, step: Permutation, only: Collection[str]) -> bool:
        """Take the step if the total gains by it; whether it did."""
        if step.moved == 0:
            return False
        moved = self._moved(step, only)
        gain = sum(_dot(self.ours[k], x) - _dot(self.ours[k], self.theirs[k]) for k, x in moved)
        if gain <= self._least:
            return False
        self._take(step, moved)
        return True

    def _moved(self, step: Permutation, only: Collection[str]) -> list[tuple[str, Tensor]]:
        symmetry, memo = self.field.symmetry, Memo()
        moves = symmetry.moves(step)
        keys = sorted(self.field.touched(only) & set(self.theirs))
        return [(k, take(self.theirs[k], sources(symmetry.axes[k], moves, memo))) for k in keys]

    def _take(self, step: Permutation, moved: Sequence[tuple[str, Tensor]]) -> None:
        self.theirs.update(moved)
        self.permutation = self.field.symmetry.compose(step, self.permutation)

    def scores(self, terms: Sequence[ParameterSlice]) -> dict[str, Floats]:
        """For each group of the terms (our units, their units as they stand)."""
        found: dict[str, Tensor] = {}
        for t in terms:
            if t.key in self.ours:
                score = (t.rows(self.ours[t.key]) @ t.rows(self.theirs[t.key]).T).double()
                found[t.group] = found[t.group] + score if t.group in found else score
        return {name: score.cpu().numpy() for name, score in found.items()}

    def distances(self, terms: Sequence[ParameterSlice]) -> dict[str, Floats]:
        """For each group of the terms the squares of (our units, their units as they stand)."""
        found: dict[str, Tensor] = {}
        for t in terms:
            if t.key in self.ours:
                x, y = t.rows(self.ours[t.key]), t.rows(self.theirs[t.key])
                mean = x.mean(0)  # what all have in common would drown the rest
                x, y = x - mean, y - mean
                square = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
                own = square.clamp_min(0).double()
                found[t.group] = found[t.group] + own if t.group in found else own
        return {name: square.cpu().numpy() for name, square in found.items()}

    def cosines(self) -> dict[str, Floats]:
        """For each group the cosines of (our units, their units as they stand), over all terms."""
        found = {}
        for name, score in self.scores(self.field.terms).items():
            scale = np.outer(self._norms(name, self.ours), self._norms(name, self.theirs))
            found[name] = (score / scale.clip(min=1e-300)).clip(-1.0, 1.0)
        return found

    def _norms(self, name: str, state: Mapping[str, Tensor]) -> Floats:
        """(units,) norms of a group's units over all its terms."""
        own = [t.rows(state[t.key]) for t in self.field.of({name}) if t.key in state]
        return np.sqrt(sum(x.double().square().sum(1).cpu().numpy() for x in own))


def _dot(x: Tensor, y: Tensor) -> float:
    flat = [as_real(v.detach()).double().flatten() for v in (x, y)]
    return float(torch.dot(*flat))
