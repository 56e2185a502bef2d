"""Proof of a symmetry given by hand, by runs of the model itself: it has no graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimat.compat import Dropout, tree_flatten, tree_leaves, tree_unflatten
from dimat.errors import ModelError, StructureError, check_kind
from dimat.graph.trace import as_args, tied_keys
from dimat.state import check_module, tensors_of
from dimat.symmetry.labels.structure import cycles
from dimat.symmetry.labels.units import Special
from dimat.symmetry.permutation import Permutation
from dimat.symmetry.proof.evidence import close_to, differing
from dimat.symmetry.proof.redraw import DRAWS, LEAST_DRAWS, draw, on_freest_inputs
from dimat.symmetry.symmetry import Symmetry

# Relative to the largest value of an output. Whole networks are compared, perhaps in float32, whose
# sums differ by some 1e-6 in another order; a wrong axis changes generic outputs by their size.
TOLERANCE = 1e-5


def check_symmetry(
    symmetry: Symmetry,
    model: nn.Module,
    args: tuple[Any, ...] | Tensor,
    kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Prove a symmetry by runs of the model, without its graph: outputs must not change.

    Every floating entry is redrawn in float64 (in float32, if the model runs in no other), near its
    value and at random, random elements are applied, and all output tensors and written buffers
    compared, in eval and in training mode with dropout off. An entry that may move must have an
    influence on the outputs: where nothing can be seen, nothing is proved. For symmetries given by
    hand.

    Args:
        symmetry: The symmetry to prove.
        model: The model that it is said to be of; not changed.
        args: Example inputs, or the only one.
        kwargs: Example keyword inputs.

    Raises:
        ConfigError: If an argument is of a kind that has no meaning here.
        ModelError: If the model cannot be run on redrawn inputs.
        StructureError: If outputs change: the groups whose elements alone change them; or if it
            cannot be seen whether they do: the first entry that has no influence on them.
    """
    check_kind("symmetry", symmetry, Symmetry, "a dimat.Symmetry")
    check_module(model)
    args = as_args(args)
    twin = without_dropout(copy.deepcopy(model))
    try:
        _check(symmetry, twin.double(), args, kwargs)
    except ModelError:  # it casts inside, or has an operator that knows no float64
        _check(symmetry, twin.float(), args, kwargs)


def _check(
    symmetry: Symmetry,
    twin: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
) -> None:
    """Prove the symmetry on a copy of the model whose entries may be overwritten."""
    # As in the proof of a graph: two draws at least, since near and generic values show different
    # mistakes, and further ones while an entry that may move has shown no influence.
    unseen = [key for key in symmetry.axes if _may_move(symmetry, key)]
    aliases = tied_keys(twin)
    unseen = [key for key in unseen if key not in aliases]
    number, seen = 0, set[str]()
    while number < LEAST_DRAWS or (unseen and number < len(DRAWS)):
        for training in (False, True):
            twin.train(training)
            trial = _Trial(symmetry, twin, number, args, dict(kwargs or {}))
            trial.check()
            seen |= {key for key in unseen if trial.reacts(key)}
            unseen = [key for key in unseen if key not in seen]
        number += 1
    # A bias is seen with its weight: that of attention's keys shifts all logits alike.
    unseen = [key for key in unseen if not (key.endswith("bias") and _weight(key) in seen)]
    if unseen:
        raise StructureError(
            f"nothing can be proved of '{unseen[0]}': it has no influence on finite outputs of "
            f"{type(twin).__name__} in any of {len(DRAWS)} draws; give it no axes, or example "
            "inputs on which it matters"
        )


def without_dropout(model: nn.Module) -> nn.Module:
    """A copy of the model with the dropout of PyTorch's own layers set to zero.

    Dropout draws by place, so a run in training mode would tell places apart that are alike.

    Args:
        model: Changed in place.
    """
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
        if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            module.dropout = 0.0
    return model


def _weight(bias: str) -> str:
    """State key of the weight beside a bias."""
    return f"{bias.removesuffix('bias')}weight"


def _may_move(symmetry: Symmetry, key: str) -> bool:
    """Whether some element moves a state entry."""
    return any(
        not isinstance(label, Special) and bool(symmetry.movable[label].any())
        for label in symmetry.axes[key]
    )


class _Trial:
    """One draw of state and inputs, and the model's outputs on it.

    Raises:
        ModelError: If the model cannot be run on it, whatever may stand for the inputs.
    """

    def __init__(
        self,
        symmetry: Symmetry,
        twin: nn.Module,
        number: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.symmetry, self.twin, self.random = symmetry, twin, np.random.default_rng(number)
        given = {key: value.detach() for key, value in tensors_of(twin.state_dict()).items()}
        flat, spec = tree_flatten((args, kwargs))

        def attempt(level: str) -> None:
            drawn, inputs = draw(number, given, flat, level)
            state = dict(drawn)
            state.update({key: state[first] for key, first in tied_keys(twin).items()})
            self.state = {key: value.to(given[key].dtype) for key, value in state.items()}
            self.call = tree_unflatten([self._fed(x) for x in inputs], spec)
            self.outputs, self.written = self._run(self.state)

        on_freest_inputs(type(twin).__name__, attempt)

    def _fed(self, x: Any) -> Any:
        """An input in the precision of the model."""
        wide = next((p.dtype for p in self.twin.parameters() if p.is_floating_point()), None)
        return x.to(wide) if isinstance(x, Tensor) and x.is_floating_point() and wide else x

    def check(self) -> None:
        """Refuse the symmetry if outputs change."""
        names = self.symmetry.names
        if not any(self._changes(p) for p in (self._moving(names), *self._swaps())):
            return
        alone = [n for n in names if self._changes(self._moving([n]))]
        mode = "training" if self.twin.training else "eval"
        raise StructureError(
            f"outputs change in {mode} mode: not a symmetry of {type(self.twin).__name__}; "
            f"wrong by themselves: {', '.join(alone) or 'none, only together'}"
        )

    def reacts(self, key: str) -> bool:
        """Whether outputs, where they are finite, depend on an entry."""
        aliases = tied_keys(self.twin)
        same = [key, *(alias for alias, first in aliases.items() if first == key)]
        other = self.state[key] * 0.7 + 0.3 * self.state[key].roll(1)
        changed, _ = self._run({**self.state, **dict.fromkeys(same, other)})
        return bool(differing(self.outputs, changed))

    def _run(self, state: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The output tensors of a run, and the state as the run leaves it."""
        copied = {key: value.clone() for key, value in state.items()}
        args, kwargs = self.call
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            result = torch.func.functional_call(self.twin, copied, args, kwargs, tie_weights=False)
        leaves = tree_leaves(result)
        return [x for x in leaves if isinstance(x, Tensor)], copied

    def _moving(self, names: Sequence[str]) -> Permutation:
        """A random element that moves all units of some groups, and no others."""
        still = self.symmetry.identity()
        slots = {
            name: cycles(own.shape, self.random) if name in names else own
            for name, own in still.slots.items()
        }
        return Permutation(slots, still.digest)

    def _swaps(self) -> Iterator[Permutation]:
        """Elements that swap two units in some cells, such that any two cells are told apart.

        See :func:`dimat.symmetry.proof.elements.swaps`.
        """
        still = self.symmetry.identity()
        number = sum(len(own) for own in still.slots.values())
        for bit in range(number.bit_length()):
            cell, slots = 0, {}
            for name, own in still.slots.items():
                slots[name] = own.copy()
                for row in slots[name]:
                    cell += 1
                    if cell >> bit & 1:
                        i, j = self.random.choice(len(row), 2, replace=False)
                        row[[i, j]] = row[[j, i]]
            yield Permutation(slots, still.digest)

    def _changes(self, p: Permutation) -> bool:
        """Whether outputs, or the buffers that the run writes, do not move as ``p`` says."""
        moved, written = self._run(self.symmetry.apply(p, self.state))
        expected = self.symmetry.apply(p, self.written)
        pairs = [*zip(self.outputs, moved, strict=True)]
        pairs += [(expected[key], written[key]) for key in expected]
        return not all(close_to(a, b, TOLERANCE) for a, b in pairs)
