"""Coordinate ascent of the inner product of two states, matching one group after another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dimat.matching.assignment import Floats, assign
from dimat.matching.parameter_slices import ParameterSlice, ParameterSlices
from dimat.state import as_real, is_number
from dimat.symmetry import Permutation
from dimat.symmetry.labels.positions import Memo, sources, take

MAX_SWEEPS = 100  # a bound, not a budget: every step gains, so the sweeps end by themselves
GAIN = 1e-9  # of the product of both norms: less is rounding


class CoordinateAscent:
    """The ascent for two states: steps that permute theirs and raise the inner product with ours.

    A step is a permutation of theirs *as they stand*, so the cells that correspond are those in one
    place, and where nothing is gained nothing moves.

    Args:
        slices: Slices of the parameters of their model.
        ours: The state whose unit order is kept; not changed.
        theirs: The state that is matched to it; not changed.

    Attributes:
        permutation: All steps so far, as one permutation of theirs as it was given.
    """

    def __init__(
        self, slices: ParameterSlices, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
    ) -> None:
        self.slices = slices
        keys = sorted(slices.moved_by(slices.symmetry.names))
        self.ours = {key: ours[key] for key in keys if is_number(ours[key])}
        self.theirs = {key: theirs[key] for key in self.ours}
        self.permutation = slices.symmetry.identity()
        norms = [sum(_dot(x, x) for x in s.values()) for s in (self.ours, self.theirs)]
        self._least = GAIN * (norms[0] * norms[1]) ** 0.5

    @property
    def total(self) -> float:
        """The inner product of all parameters that some group moves, which the sweeps raise."""
        return sum(_dot(own, self.theirs[key]) for key, own in self.ours.items())

    def settle(self) -> None:
        """Find the order to start from: every group is matched by those settled before it.

        The next one is the group most of whose entries meet only settled groups and fixed axes. For
        a permuted copy the inner product of those is largest, by Cauchy and Schwarz, exactly where
        the copy is undone.
        """
        settled: set[str] = set()
        names = self.slices.symmetry.names
        while len(settled) < len(names):
            waiting = [name for name in names if name not in settled]
            share = {name: self._share(name, settled) for name in waiting}
            group = max(waiting, key=lambda name: share[name])
            together = self._together(group, [n for n in waiting if share[n] > 0], settled)
            usable = [t for t in self.slices.of(together) if t.others <= settled]
            self.move(assign(self.slices.symmetry, self.scores(usable), together), together)
            settled |= together

    def _share(self, name: str, settled: set[str]) -> float:
        """Share of a group's entries that only settled groups move, in [0, 1]."""
        own = self.slices.of({name})
        usable = sum(t.entries for t in own if t.others <= settled)
        return usable / max(sum(t.entries for t in own), 1)

    def _together(self, name: str, ready: Sequence[str], settled: set[str]) -> frozenset[str]:
        """A group, those that it is inside of, and others inside those that can be compared too."""
        outer = self.slices.outer
        base = ({name} | outer[name]) - settled
        for other in ready:
            if outer[other] & base:
                base |= ({other} | outer[other]) - settled
        return frozenset(base)

    def sweeps(self) -> Iterator[float]:
        """The total after each sweep over all blocks; sweeps go on until nothing is gained."""
        changed = dict.fromkeys(self.slices.blocks, True)
        for _ in range(MAX_SWEEPS):
            for block in self.slices.blocks:
                if not changed[block]:
                    continue
                changed[block] = False
                if self._improve(block):
                    changed |= dict.fromkeys(self.slices.near(block), True)
            yield self.total
            if not any(changed.values()):
                return

    def _improve(self, block: frozenset[str]) -> bool:
        """Match a block as a whole, then each of its groups alone; return whether that gained.

        Slices that another group of the block moves too can only be compared while that group is
        held, so they count in the second part alone.
        """
        own = self.slices.of(block)
        gained = False
        if len(block) > 1:
            gained = self._step([t for t in own if not t.others & block], block)
        for name in sorted({t.group for t in own}):
            gained |= self._step([t for t in own if t.group == name], frozenset({name}))
        return gained

    def _step(self, slices: Sequence[ParameterSlice], only: frozenset[str]) -> bool:
        return self.gain(assign(self.slices.symmetry, self.scores(slices), only), only)

    def move(self, step: Permutation, only: Collection[str]) -> None:
        """Take a step in which only some groups move.

        Args:
            step: A permutation of theirs as they stand.
            only: Names of the groups that it moves.
        """
        self._take(step, self._moved(step, only))

    def gain(self, step: Permutation, only: Collection[str]) -> bool:
        """Take a step if the total gains by it; return whether it was taken.

        Args:
            step: A permutation of theirs as they stand.
            only: Names of the groups that it moves.
        """
        if step.moved == 0:
            return False
        moved = self._moved(step, only)
        gain = sum(_dot(self.ours[k], x) - _dot(self.ours[k], self.theirs[k]) for k, x in moved)
        if gain <= self._least:
            return False
        self._take(step, moved)
        return True

    def _moved(self, step: Permutation, only: Collection[str]) -> list[tuple[str, Tensor]]:
        symmetry, memo = self.slices.symmetry, Memo()
        moves = symmetry.moves(step)
        keys = sorted(self.slices.moved_by(only) & set(self.theirs))
        return [(k, take(self.theirs[k], sources(symmetry.axes[k], moves, memo))) for k in keys]

    def _take(self, step: Permutation, moved: Sequence[tuple[str, Tensor]]) -> None:
        self.theirs.update(moved)
        self.permutation = self.slices.symmetry.compose(step, self.permutation)

    def scores(self, slices: Sequence[ParameterSlice]) -> dict[str, Floats]:
        """For each group (our units, their units as they stand) inner products over some slices.

        Args:
            slices: Slices that are compared.
        """
        found: dict[str, Tensor] = {}
        for t in slices:
            if t.key in self.ours:
                score = (t.rows(self.ours[t.key]) @ t.rows(self.theirs[t.key]).T).double()
                found[t.group] = found[t.group] + score if t.group in found else score
        return {name: score.cpu().numpy() for name, score in found.items()}

    def distances(self, slices: Sequence[ParameterSlice]) -> dict[str, Floats]:
        """For each group (our units, their units as they stand) squared distances over some slices.

        Args:
            slices: Slices that are compared.
        """
        of: dict[str, list[ParameterSlice]] = {}
        for t in slices:
            if t.key in self.ours:
                of.setdefault(t.group, []).append(t)
        found = {}
        for name, own in of.items():
            x, y = (
                torch.cat([t.rows(state[t.key]) for t in own], 1)
                for state in (self.ours, self.theirs)
            )
            mean = x.mean(0)  # what all have in common would drown the rest
            x -= mean
            y -= mean
            norms = x.square().sum(1)[:, None] + y.square().sum(1)
            square = torch.addmm(norms, x, y.T, alpha=-2).clamp_min_(0)
            found[name] = square.double().cpu().numpy()
        return found

    def cosines(self) -> dict[str, Floats]:
        """For each group (our units, their units as they stand) cosines over all its slices."""
        found = {}
        for name, score in self.scores(self.slices.every).items():
            scale = np.outer(self._norms(name, self.ours), self._norms(name, self.theirs))
            found[name] = (score / scale.clip(min=1e-300)).clip(-1.0, 1.0)
        return found

    def _norms(self, name: str, state: Mapping[str, Tensor]) -> Floats:
        """(units,) norms of a group's units over all its slices."""
        own = [t.rows(state[t.key]) for t in self.slices.of({name}) if t.key in state]
        return np.sqrt(sum(x.double().square().sum(1).cpu().numpy() for x in own))


def _dot(x: Tensor, y: Tensor) -> float:
    flat = [as_real(v.detach()).double().flatten() for v in (x, y)]
    return float(torch.dot(*flat))
