"""Merge trained checkpoints of one model, without rounds, agents or a graph of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from dimat.errors import (
    ConfigError,
    DataError,
    DimatError,
    ModelError,
    StructureError,
    did_you_mean,
)
from dimat.matching import MATCHERS, Matching, Problem
from dimat.merging import COMBINERS, recalibrate
from dimat.state import State, check_finite, check_same_structure, state_of
from dimat.symmetry import Analysis, Symmetry, analyze
from dimat.symmetry.trace import flatten_inputs

# (model, *args, **kwargs) -> outputs, where the model's own forward is not what should be matched.
Forward = Callable[..., Any]
Recalibration = Literal["auto", "batchnorm", "none"]
Value = TypeVar("Value")
IMAGES = 2000  # samples looked at; accuracy against their number is in docs/matching.md


@dataclass(frozen=True)
class Merge:
    """What :func:`merge` gives.

    Args:
        state: The merged state, in the first parent's unit order and dtypes.
        matchings: For every parent its permutation into that order, similarity and margin per
            group; the first is the identity.
        aligned: The parents in that order.
        symmetry: The model's, whose elements the permutations are.
    """

    state: State
    matchings: tuple[Matching, ...]
    aligned: tuple[State, ...]
    symmetry: Symmetry


def match(
    model: nn.Module,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    batches: Iterable[Any] = (),
    *,
    method: str = "activations",
    forward: Forward | None = None,
    images: int = IMAGES,
) -> Matching:
    """The permutation that puts the units of ``theirs`` in the order of ``ours``.

    Args:
        model: The architecture; its own weights and mode do not matter and are not changed.
        ours: The state whose unit order is the reference.
        theirs: Another state of the same model.
        batches: As in :func:`merge`.
        method: A matcher's name: ``dimat.matching.MATCHERS``.
        forward: As in :func:`merge`.
        images: At most this many samples of the batches are looked at.

    Raises:
        ConfigError, DataError, ModelError, StructureError: As in :func:`merge`.
    """
    matcher = _known("method", method, MATCHERS)
    states = _fitting(model, [ours, theirs])
    calls = _Calls.of(batches, images)
    bound = _bound(model, forward)
    with calls.blamed(bound):
        analysis = calls.analyze(bound)
        return matcher.match(Problem(analysis, states, (0.5, 0.5), calls.flat(analysis)))[1]


def merge(
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable[Any] = (),
    weights: Sequence[float] | None = None,
    *,
    method: str = "activations",
    combine: str = "average",
    recalibration: Recalibration = "auto",
    forward: Forward | None = None,
    images: int = IMAGES,
) -> Merge:
    r"""Align several trained states of one model to the first, and combine them into one.

    .. math:: \theta = \sum_j w_j P_j \theta_j

    then BatchNorm statistics are recomputed, because those of an average of networks are not the
    average of theirs.

    Args:
        model: The architecture; its own weights and mode do not matter and are not changed.
        states: ``n >= 1`` states of it. The result is in the unit order of the first.
        batches: Unlabeled inputs: any iterable of tensors, of tuples or lists whose first element
            is the input (the rest, such as labels, is left out), or of dicts of keyword arguments.
            The input itself may be a tuple of several arguments.
        weights: One per state, >= 0, summing to 1; equal if None.
        method: A matcher's name: ``dimat.matching.MATCHERS``.
        combine: A combiner's name: ``dimat.merging.COMBINERS``.
        recalibration: batchnorm: recompute running statistics on the batches; none: leave them as
            combined; auto: batchnorm if there are batches and the combiner has not done it.
        forward: Called as ``forward(model, *inputs)`` instead of the model, where its outputs are
            made in another way.
        images: At most this many samples of the batches are looked at.

    Returns:
        The merged state, in the dtypes of the first, and how the parents were matched.

    Raises:
        ConfigError: If a name is unknown, or ``images`` is not positive.
        DataError: If there are no batches though the method needs them.
        ModelError: If a batch does not fit the model, or the model cannot be captured.
        StructureError: If a state lacks a key, has another shape, or holds NaN or infinity, or
            weights do not sum to 1.

    References:
        Saadati et al., "DIMAT", CVPR 2024; Jordan et al., "REPAIR", ICLR 2023.
    """
    matcher = _known("method", method, MATCHERS)
    combiner = _known("combine", combine, COMBINERS)
    weights = _weights(weights, len(states))
    wide = _fitting(model, states)
    calls = _Calls.of(batches, images)
    bound = _bound(model, forward)
    with calls.blamed(bound):
        analysis = calls.analyze(bound)
        flat = calls.flat(analysis)
        matchings = matcher.match(Problem(analysis, wide, weights, flat))
        symmetry = analysis.symmetry
        aligned = [symmetry.apply(m.permutation, s) for m, s in zip(matchings, wide, strict=True)]
        merged = combiner.combine(analysis, aligned, weights, flat)
        if recalibration == "batchnorm" or (recalibration == "auto" and not combiner.needs_batches):
            merged = _recalibrated(model, forward, merged, calls)
    for alias, first in analysis.trace.aliases.items():
        merged[alias] = merged[first].clone()
    return Merge(
        _as(merged, states[0]),
        tuple(matchings),
        tuple(_as(a, s) for a, s in zip(aligned, states, strict=True)),
        symmetry,
    )


@dataclass(frozen=True)
class _Calls:
    """The batches as calls of the model: positional and keyword arguments."""

    batches: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]

    @staticmethod
    def of(batches: Iterable[Any], images: int) -> _Calls:
        if images < 1:
            raise ConfigError(f"'images' is {images}: must be >= 1")
        found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        seen = 0
        for index, batch in enumerate(batches):
            args, kwargs = _call(batch, index)
            found.append(_sliced(args, kwargs, slice(0, images - seen)))
            _check_alike(found, index)
            seen += _samples(args, kwargs)
            if seen >= images:
                break
        if not found:
            raise DataError(
                "no batches: give at least one, on which the model's graph is traced and units are "
                "compared (a method that needs no data still needs an example input)"
            )
        return _Calls(tuple(found))

    def analyze(self, model: nn.Module) -> Analysis:
        """The model's symmetry, traced on two samples of the first batch."""
        args, kwargs = _sliced(*self.batches[0], slice(0, 2))
        if _samples(args, kwargs) == 1:
            args, kwargs = _map(lambda x: torch.cat([x, x]) if x.dim() else x, args, kwargs)
        return analyze(model, args, kwargs)

    def flat(self, analysis: Analysis) -> list[tuple[Any, ...]]:
        """Each batch as the graph takes it; in pieces if the graph is bound to a batch size."""
        size = analysis.trace.batch_size
        pieces = []
        for args, kwargs in self.batches:
            count = _samples(args, kwargs)
            step = size or count
            for start in range(0, count - step + 1, step):
                part = _sliced(args, kwargs, slice(start, start + step))
                pieces.append(tuple(flatten_inputs(*part)))
        return pieces

    @contextmanager
    def blamed(self, model: nn.Module) -> Iterator[None]:
        """If a batch makes the model fail, say which."""
        try:
            yield
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, DimatError):
                raise
            for index, (args, kwargs) in enumerate(self.batches):
                _try(model, args, kwargs, index)
            raise


def _try(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], index: int) -> None:
    twin = copy.deepcopy(model)
    try:
        with torch.no_grad():
            twin(*args, **kwargs)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in _tensors(args, kwargs))
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"batch {index} ({shapes}) breaks the model: {first}") from error


def _call(batch: Any, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One batch as positional and keyword arguments; labels are left out."""
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    if isinstance(batch, Mapping):
        args, kwargs = (), dict(batch)
    else:
        args, kwargs = (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}
    tensors = _tensors(args, kwargs)
    if not tensors or tensors[0].dim() == 0 or len(tensors[0]) == 0:
        raise DataError(
            f"batch {index} holds no samples: a batch is a tensor, a tuple whose first element is "
            "the input, or a dict of keyword arguments"
        )
    for value in tensors:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DataError(f"batch {index} holds values that are not finite")
    return args, kwargs


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [x for x in flatten_inputs(args, kwargs) if isinstance(x, Tensor)]


def _samples(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return len(_tensors(args, kwargs)[0])


def _map(
    function: Callable[[Tensor], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    mapped: tuple[tuple[Any, ...], dict[str, Any]] = torch.utils._pytree.tree_map(
        lambda x: function(x) if isinstance(x, Tensor) else x, (args, kwargs)
    )
    return mapped


def _sliced(
    args: tuple[Any, ...], kwargs: dict[str, Any], part: slice
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Some of the samples: every tensor that has as many entries as there are samples is cut."""
    count = _samples(args, kwargs)
    return _map(lambda x: x[part] if x.dim() and len(x) == count else x, args, kwargs)


def _check_alike(batches: Sequence[tuple[tuple[Any, ...], dict[str, Any]]], index: int) -> None:
    """The graph is traced on the first batch: the others may differ in the number of samples."""

    def kinds(call: tuple[tuple[Any, ...], dict[str, Any]]) -> list[str]:
        return [f"{tuple(x.shape[1:])} {x.dtype}" for x in _tensors(*call)]

    first, last = kinds(batches[0]), kinds(batches[-1])
    if first != last:
        raise ModelError(
            f"batch {index} does not fit batch 0: a sample has {', '.join(last)}, "
            f"expected {', '.join(first)}"
        )


def _known(setting: str, name: str, registry: Mapping[str, Value]) -> Value:
    if name not in registry:
        raise ConfigError(
            f"'{setting}' is '{name}', which is unknown: {did_you_mean(name, registry)}"
        )
    return registry[name]


def _weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if count == 0:
        raise StructureError("no states: give at least one")
    own = [1 / count] * count if weights is None else list(weights)
    if len(own) != count or any(not w >= 0 for w in own) or not abs(sum(own) - 1) <= 1e-6:
        raise StructureError(
            f"weights {[round(w, 6) for w in own]} for {count} states: give one each, >= 0, "
            "summing to 1"
        )
    return own


def _fitting(model: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> list[State]:
    """The states in at least float32, checked against the model and for NaN and infinity."""
    expected = model.state_dict()
    found = []
    for number, state in enumerate(states):
        who = f"state {number}"
        own = {
            key: value.to(expected[key].dtype)
            if key in expected and value.is_floating_point()
            else value
            for key, value in state.items()
        }
        check_same_structure(expected, own, who)
        check_finite(state, who)
        found.append(
            {
                key: value.detach().to(torch.promote_types(value.dtype, torch.float32))
                if value.is_floating_point()
                else value
                for key, value in state.items()
            }
        )
    return found


def _as(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    return {key: value.to(like[key].dtype) for key, value in state.items()}


class _Bound(nn.Module):
    """A model under another forward; its entries keep their names."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self._modules, self._parameters = model._modules, model._parameters
        self._buffers = model._buffers
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.training = model.training
        self.__dict__["_bound"] = (model, forward)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The user's forward on the model."""
        model, forward = self.__dict__["_bound"]
        return forward(model, *args, **kwargs)


def _bound(model: nn.Module, forward: Forward | None) -> nn.Module:
    return model if forward is None else _Bound(model, forward)


def _recalibrated(model: nn.Module, forward: Forward | None, state: State, calls: _Calls) -> State:
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    recalibrate(twin, calls.batches, lambda call: _bound(twin, forward)(*call[0], **call[1]))
    return {key: value.to(state[key].dtype) for key, value in state_of(twin).items()}
