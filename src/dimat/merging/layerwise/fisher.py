r"""Merging by ``fisher``: every parameter counts as much as its agent's outputs depend on it.

The diagonal of the Fisher information of agent j, on its own images x and under its own network,

.. math:: F_j = \mathbb E_x \mathbb E_{y \sim p(y | x)} \,
    \Bigl(\frac{\partial \log p(y | x)}{\partial \theta_j}\Bigr)^2,
    \qquad \theta = \frac{\sum_j \pi_j (F_j + \varepsilon)\, \theta_j}
                         {\sum_j \pi_j (F_j + \varepsilon)}

needs no targets: those are drawn from the network's own predictions p, of a class by the softmax,
of a number with an error of variance 1; the task says which. It is a number for each
parameter, divided by the mean of all: an agent that is surer than another has no less say, and none
can claim more than its share. Where all are alike that is the average.

Squared gradients of single images would take a backward pass for every image and class. Here a few
images share one, with random signs: products of two predictions' gradients are then zero in the
mean, and the estimate is unbiased (prediction by prediction it is exact). With S a root of the
Fisher information of a prediction (of a class, diag p - p pᵀ = S Sᵀ), a pass is for one column of
S: for all of them where outputs are few, else for random sums.

References:
    Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022 (which draws
    labels from the predictions, and does not divide by the mean).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dimat.errors import ConfigError, ModelError, StructureError
from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import Trace, flatten_inputs
from dimat.merging.layerwise.layerwise_run import entrywise
from dimat.merging.mix import mix
from dimat.state import State, check_finite, widened
from dimat.symmetry import Analysis, Permutation
from dimat.tasks import CLASSIFICATION, LikelihoodTask, Task

_PREFIX = "fisher/"  # of a key, before that of the parameter
_PIECES = 100  # parts of all images, about, of which each has backward passes of its own
_LEAST_SAMPLES = 2  # of a part: a graph that takes batches of any size need not take one of one
_MOST_DIRECTIONS = 16  # backward passes of a part; of more outputs random sums are taken
_SLACK = 1e-3  # of the mean, for rounding


@dataclass(frozen=True)
class Fisher:
    """Fisher-weighted averaging: parameters count where their own agent's outputs need them.

    All real parameters are weighted, whatever layer they are of, tied ones by the sum of what they
    are used for. Buffers are averaged; so running statistics have to be recomputed afterwards.

    *Assumes* aligned networks near each other, where outputs are as good as linear in the
    parameters, and that parameters act one by one. *Breaks when* they are far apart, or when what
    counts is a direction in which many parameters act together: that ``gram`` sees.

    Args:
        task: What the outputs are: of classification class logits, along the last axis; of
            regression numbers of unit variance, so that the information is the squared Jacobian.
        floor: ε, relative to the mean Fisher information, > 0.
    """

    task: LikelihoodTask = CLASSIFICATION
    floor: float = 1e-6
    needs_batches: bool = True
    calibrates: bool = False

    @property
    def kind(self) -> str:
        """The name by which statistics say whom they are for: those of two tasks do not mix."""
        name = type(self).__name__
        return name if self.task == CLASSIFICATION else f"{name} of {type(self.task).__name__}"

    def for_task(self, task: Task) -> Fisher:
        """The same of networks that have learned another task.

        Raises:
            ConfigError: If the task does not say how likely targets are.
        """
        if not isinstance(task, LikelihoodTask):
            raise ConfigError(
                "merging by fisher needs the likelihood of the task, and "
                f"{type(task).__name__} has no 'predictions' and 'information_root' "
                "(dimat.tasks.LikelihoodTask): use another combiner, or give the task these"
            )
        return replace(self, task=task)

    def statistics(
        self,
        analysis: Analysis,
        state: Mapping[str, Tensor],
        batches: Sequence[Any],
        budget: float = 5.0,
    ) -> State:
        """The Fisher information of a state's parameters on some inputs, of mean one.

        A number for each parameter, whatever the budget.

        Returns:
            For every real parameter, under ``fisher/`` and its key, a tensor of its shape.

        Raises:
            ModelError: If the output is not of the kind that is expected.
            StructureError: If the information of a parameter is not finite.
        """
        trace, wide = analysis.trace, widened(state)
        own = {key: wide[key].detach().clone().requires_grad_() for key in _keys(trace, wide)}
        total = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in own.items()}
        random = torch.Generator().manual_seed(0)
        for piece in _pieces(trace, batches):
            run = PartialInterpreter(trace, {**wide, **own}, piece, gradients=True)
            output = self._output(trace, run)
            for direction in self._directions(output.detach(), random):
                found = torch.autograd.grad(
                    output, [*own.values()], direction, retain_graph=True, allow_unused=True
                )
                for key, gradient in zip(own, found, strict=True):
                    if gradient is not None:
                        total[key] += gradient.double().square()
        return _of_mean_one(total, wide)

    def moved(
        self,
        analysis: Analysis,
        state: Mapping[str, Tensor],
        statistics: Mapping[str, Tensor],
        permutation: Permutation,
    ) -> State:
        """The statistics of a state whose units were permuted: they go where the entries go."""
        own = {key.removeprefix(_PREFIX): value for key, value in statistics.items()}
        there = analysis.symmetry.apply(permutation, own)
        return {_PREFIX + key: value for key, value in there.items()}

    def check(self, statistics: Mapping[str, Tensor], who: str) -> None:
        """Refuse statistics that are not finite, negative, or not of mean one."""
        check_finite(statistics, who)
        for key, value in statistics.items():
            if bool((value < 0).any()):
                raise StructureError(f"{who}: '{key}' holds no Fisher information: it is negative")
        mean = _mean(statistics)
        if statistics and abs(mean - 1) > _SLACK:
            raise StructureError(f"{who}: Fisher information has mean {mean:.4g}: must be 1")

    def fit(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        statistics: Sequence[Mapping[str, Tensor]],
    ) -> State:
        """The merged state, entry by entry; what is no real parameter is averaged."""
        wide = [widened(state) for state in states]
        merged = mix(wide, weights)
        for key in _keys(analysis.trace, merged):
            says = [own[_PREFIX + key].double() + self.floor for own in statistics]
            found = entrywise(merged[key], [x[key] for x in wide], says, weights)
            merged[key] = found.to(merged[key].dtype)
        for key, first in analysis.trace.aliases.items():
            if key in merged:
                merged[key] = merged[first].clone()
        return {key: value.to(states[0][key].dtype) for key, value in merged.items()}

    def combine(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        batches: Sequence[Any],
    ) -> State:
        """The merged state, with every state's statistics measured on the same inputs."""
        owns = [self.statistics(analysis, state, batches) for state in states]
        return self.fit(analysis, states, weights, owns)

    def _output(self, trace: Trace, run: PartialInterpreter) -> Tensor:
        """(rows, size): the model's predictions on a part of the inputs."""
        nodes = {node.name: node for node in trace.graph.nodes}
        run.advance(next(reversed(nodes.values())), inclusive=False)
        values = [run.value(nodes[name]) for name in trace.outputs if name in nodes]
        real = [x for x in values if isinstance(x, Tensor) and x.is_floating_point()]
        if len(real) != 1:
            shapes = ", ".join(str(tuple(x.shape)) for x in real) or "none of real numbers"
            raise ModelError(
                "merging by fisher needs one output, and this model's outputs are "
                f"{shapes}: use another combiner"
            )
        try:
            return self.task.predictions(real[0])
        except ModelError as error:
            raise ModelError(
                f"merging by fisher, as {type(self.task).__name__}: {error}; name the task that "
                "the model has learned ('task'; from Python combine=dimat.merging.Fisher(TASK), "
                "of dimat.TASKS), or use another combiner"
            ) from error

    def _directions(self, output: Tensor, random: torch.Generator) -> Iterator[Tensor]:
        """Gradients at the output, whose squared gradients at the parameters are summed up."""
        size, draw = output.shape[-1], min(output.shape[-1], _MOST_DIRECTIONS)
        columns = torch.eye(size, dtype=torch.float64)
        if draw < size:
            columns = _signs((draw, size), random) / draw**0.5
        for column in columns.to(output.device):
            v = self.task.information_root(output.double(), column.expand(output.shape))
            signs = _signs((len(output), 1), random).to(output.device)
            yield (signs * v).to(output.dtype)


def _keys(trace: Trace, state: Mapping[str, Tensor]) -> list[str]:
    """The real parameters that the graph reads, in its order; tied ones once."""
    read = dict.fromkeys(trace.states.values())
    return [k for k in read if k in trace.parameters and state[k].is_floating_point()]


def _pieces(trace: Trace, batches: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Parts of the inputs, of a few samples each if the graph takes batches of any size."""
    calls = [flatten_inputs(x if isinstance(x, tuple) else (x,)) for x in batches]
    sizes = [{len(x) if x.dim() else 0 for x in own if isinstance(x, Tensor)} for own in calls]
    free = all(size and size[0] is None for size in trace.sizes)
    total = sum(max(size, default=0) for size in sizes)
    for call, size in zip(calls, sizes, strict=True):
        if not free or len(size) != 1:
            yield tuple(call)
            continue
        (samples,) = size
        count = max(1, min(samples // _LEAST_SAMPLES, round(_PIECES * samples / max(total, 1))))
        parts = [x.tensor_split(count) if isinstance(x, Tensor) else [x] * count for x in call]
        yield from zip(*parts, strict=True)


def _signs(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Random numbers of -1 and 1."""
    return torch.randint(0, 2, shape, generator=random).double() * 2 - 1


def _of_mean_one(total: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> State:
    """Fisher information divided by its mean; all ones if nothing depends on any parameter.

    Raises:
        StructureError: If it is not finite.
    """
    for key, value in total.items():
        if not bool(value.isfinite().all()):
            raise StructureError(f"the Fisher information of '{key}' is not finite")
    mean = _mean(total)
    return {
        _PREFIX + key: (value / mean if mean > 0 else torch.ones_like(value)).to(state[key].dtype)
        for key, value in total.items()
    }


def _mean(values: Mapping[str, Tensor]) -> float:
    """The mean of all entries."""
    count = sum(value.numel() for value in values.values())
    return sum(float(value.double().sum()) for value in values.values()) / max(count, 1)
