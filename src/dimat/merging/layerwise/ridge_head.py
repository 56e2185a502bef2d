r"""A closed-form head: ridge regression on features, from sums that travel instead of images.

Every agent sums, over its own images, the products of its features z (a one appended) and of z with
the one-hot label y. The head of all images together is

.. math:: W = \Big(\sum_i \sum_x y z^\top\Big)
    \Big(\sum_i \sum_x z z^\top + \lambda\, \tfrac{\mathrm{tr}}{d + 1} I\Big)^{-1}

so it forgets no class that only one agent has: it is the same however images are split. Features
must be those of one network, the same at every agent.

References:
    Fanì et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers"
    (Fed3R), ICML 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.nn import functional

from dimat.errors import ModelError
from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import operator_name
from dimat.merging.layerwise.readouts import readouts
from dimat.state import State, widened
from dimat.symmetry import Analysis


@dataclass(frozen=True)
class FeatureSums:
    """The sums over some images from which a head is computed.

    Args:
        products: (features + 1, features + 1) float64, the sum of z zᵀ, a one last.
        targets: (classes, features + 1) float64, the sum of y zᵀ.
    """

    products: Tensor
    targets: Tensor

    def __add__(self, other: FeatureSums) -> FeatureSums:
        """The sums over the images of both."""
        return FeatureSums(self.products + other.products, self.targets + other.targets)

    @property
    def num_bytes(self) -> int:
        """Bytes that travel in float32, of the symmetric products one half."""
        size = len(self.products)
        return 4 * (size * (size + 1) // 2 + self.targets.numel())


@dataclass(frozen=True)
class Head:
    """The linear layer of a model that gives its logits.

    Args:
        op: The operator.
        weight: State key of its weight, (classes, features).
        bias: State key of its bias, if it has one.
    """

    op: fx.Node
    weight: str
    bias: str | None


def head_of(analysis: Analysis, state: Mapping[str, Tensor]) -> Head:
    """The head of a classifier.

    Raises:
        ModelError: If not one linear layer alone reads the last features.
    """
    found = readouts(analysis, state)
    if len(found) != 1 or operator_name(found[0].op.target) != "aten.linear":
        names = ", ".join(f"'{site.weight}'" for site in found) or "none"
        raise ModelError(
            f"layers from which outputs are read: {names}; a closed-form head needs one linear "
            "layer, with a weight of its own, on units that may be permuted"
        )
    (site,) = found
    return Head(site.op, str(site.weight), site.bias)


def feature_sums(
    analysis: Analysis,
    head: Head,
    state: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> FeatureSums:
    """The feature sums of a network over labeled images.

    Args:
        analysis: Of the model.
        head: Of the model.
        state: The network's state.
        batches: Inputs, and (batch,) int64 labels.

    Raises:
        ModelError: If features are not (batch, features), or not finite.
    """
    wide = widened(state)
    classes, features = wide[head.weight].shape
    sums = FeatureSums(
        torch.zeros(features + 1, features + 1, dtype=torch.float64),
        torch.zeros(classes, features + 1, dtype=torch.float64),
    )
    for inputs, labels in batches:
        run = PartialInterpreter(analysis.trace, wide, inputs)
        run.advance(head.op, inclusive=False)
        z = run.value(_features(head.op)).double().cpu()
        if z.dim() != 2 or not bool(z.isfinite().all()):
            raise ModelError(
                f"the features that '{head.weight}' reads are {tuple(z.shape)}: must be (batch, "
                "features), and finite"
            )
        z = torch.cat([z, torch.ones_like(z[:, :1])], 1)
        y = functional.one_hot(labels.cpu(), classes).double()
        sums = sums + FeatureSums(z.T @ z, y.T @ z)
    return sums


def with_ridge_head(
    head: Head, state: Mapping[str, Tensor], sums: FeatureSums, ridge: float
) -> State:
    """The state with a closed-form head in place of its own.

    Args:
        head: Of the model.
        state: The network's state, whose features the sums are of.
        sums: Over the images of all agents.
        ridge: λ > 0, relative to the mean square of a feature.
    """
    products, targets = sums.products, sums.targets
    if head.bias is None:  # there is no constant to fit
        products, targets = products[:-1, :-1], targets[:, :-1]
    floor = ridge * products.diagonal().mean() + 1e-12
    fitted = torch.linalg.solve(products + floor * torch.eye(len(products)).double(), targets.T).T
    found = dict(state)
    weight = fitted if head.bias is None else fitted[:, :-1]
    found[head.weight] = weight.to(state[head.weight])
    if head.bias is not None:
        found[head.bias] = fitted[:, -1].to(state[head.bias])
    return found


def _features(op: fx.Node) -> fx.Node:
    source = op.args[0]
    assert isinstance(source, fx.Node)
    return source
