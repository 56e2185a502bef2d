"""A symmetry that was given by hand, for a model without a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from dimat.errors import ConfigError, StructureError, nearest_key
from dimat.graph.trace import Trace, tied_keys
from dimat.state import tensors_of
from dimat.symmetry.find import Analysis
from dimat.symmetry.labels.units import Label, Labels, Special
from dimat.symmetry.proof.check import check_symmetry
from dimat.symmetry.symmetry import Symmetry


@dataclass(frozen=True)
class NoGraph(Trace):
    """The missing graph of a model whose symmetry is given by hand: to ask for it is an error."""

    @property
    def graph(self) -> fx.Graph:
        """No graph.

        Raises:
            ConfigError: Always, with what works without a graph.
        """
        raise ConfigError(
            "a symmetry given by hand comes without the model's graph, on which activations are "
            "compared and layers are fitted: match by weights (method='weights'; 'wm' for agents "
            "and runs), with combine='average' and recalibration='batchnorm' or 'none'"
        )

    @property
    def batch_size(self) -> int | None:
        """None: without a graph nothing is bound to a batch size."""
        return None


def given_analysis(
    symmetry: Symmetry,
    model: nn.Module,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Analysis:
    """The analysis of a model whose symmetry is given by hand; runs of the model prove it.

    Args:
        symmetry: The symmetry, as ``Symmetry.from_axes`` gives it.
        model: The model; not changed.
        args: Example inputs to prove the symmetry on; None: it is trusted.
        kwargs: Example keyword inputs.

    Raises:
        StructureError: If the symmetry is of another model, or changes the outputs.
    """
    state, aliases = tensors_of(model.state_dict()), tied_keys(model)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    for key in [*shapes, *symmetry.shapes]:
        if shapes.get(key) != symmetry.shapes.get(key):
            there = symmetry.shapes if key in shapes else shapes
            near = "" if key in there else nearest_key(key, (x for x in there if x != key))
            raise StructureError(
                f"the symmetry is of another model: '{key}' has shape "
                f"{symmetry.shapes.get(key, 'none')} there and {shapes.get(key, 'none')} here{near}"
            )
    for alias, first in aliases.items():
        if not _alike(symmetry.axes[alias], symmetry.axes[first]):
            raise StructureError(
                f"'{alias}' and '{first}' are one tensor in the model: give both the same axes"
            )
    if args is not None:
        check_symmetry(symmetry, model, args, kwargs)
    parameters = frozenset({name for name, _ in model.named_parameters()} & state.keys())
    module = fx.GraphModule(nn.Module(), fx.Graph())
    trace = NoGraph(module, {}, {}, (), (), (), aliases, False, parameters)
    return Analysis(trace, {}, symmetry)


def _alike(ours: Labels, theirs: Labels) -> bool:
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _same(a: Label, b: Label) -> bool:
    if isinstance(a, Special) or isinstance(b, Special):
        return a is b
    return np.array_equal(a, b)
