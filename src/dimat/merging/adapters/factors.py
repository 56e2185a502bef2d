"""The factors of low-rank adapters in a state, found by the names that PEFT gives them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from dimat.errors import StructureError, shown
from dimat.state import State

_SIDES = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}


class Factors(NamedTuple):
    """The two factors of one adapter, whose product b a is what it adds to a weight.

    Args:
        a: (r, inputs) float64.
        b: (outputs, r) float64.
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """The number r of columns of b, and rows of a."""
        return len(self.a)


@dataclass(frozen=True)
class FactorKeys:
    """The state keys of the two factors of one adapter.

    Args:
        module: Name of the module that the adapter is of.
        a: Key of the factor A, (r, inputs …).
        b: Key of the factor B, (outputs, r …).
    """

    module: str
    a: str
    b: str

    def read(self, state: Mapping[str, Tensor]) -> Factors:
        """The factors of a state, in float64; kernels of a convolution become rows of A.

        Args:
            state: Entries by key.

        Raises:
            StructureError: If they have no product: B has a kernel wider than 1, or other ranks.
        """
        a, b = state[self.a], state[self.b]
        if a.dim() < 2 or b.dim() < 2 or a.shape[0] != b.shape[1] or b[0, 0].numel() != 1:
            raise StructureError(
                f"'{shown(self.a, 100)}' and '{shown(self.b, 100)}' have the shapes "
                f"{tuple(a.shape)} and {tuple(b.shape)}, which are no factors of a product: "
                "(r, inputs …) and (outputs, r), with kernels of width 1 after r (convolutions in "
                "groups have none)"
            )
        return Factors(a.detach().double().flatten(1), b.detach().double().flatten(1))

    def written(self, factors: Factors, like: Mapping[str, Tensor]) -> State:
        """Factors as entries of a state.

        Args:
            factors: The factors, of any rank.
            like: A state whose dtypes and further axes the entries have.
        """
        a, b = like[self.a], like[self.b]
        return {
            self.a: factors.a.reshape(factors.rank, *a.shape[1:]).to(a.dtype),
            self.b: factors.b.reshape(len(b), factors.rank, *b.shape[2:]).to(b.dtype),
        }


def find_factors(names: Collection[str]) -> list[FactorKeys]:
    """The pairs of factors among state keys, in their order.

    They are named ``….lora_A.weight`` and ``….lora_B.weight``, with the name of the adapter before
    ``weight`` in a model of PEFT, and without ``weight`` where they are parameters themselves;
    those of embeddings ``….lora_embedding_A`` and ``….lora_embedding_B``. Biases are no factors.

    Args:
        names: State keys.

    Raises:
        StructureError: If one factor of a pair is missing.
    """
    found = []
    for name in names:
        parts = name.split(".")
        side = next((k for k, part in enumerate(parts) if part in _ALL), None)
        if side is None or parts[-1] == "bias" or len(parts) - side > 3:
            continue
        partner = _ALL[parts[side]]
        other = ".".join([*parts[:side], partner, *parts[side + 1 :]])
        if other not in names:
            raise StructureError(
                f"'{shown(name, 100)}' is a factor of an adapter, and '{shown(other, 100)}' is "
                "missing: adapters need both"
            )
        if parts[side] in _SIDES:
            found.append(FactorKeys(".".join(parts[:side]), name, other))
    return found


_ALL = {**_SIDES, **{b: a for a, b in _SIDES.items()}}
