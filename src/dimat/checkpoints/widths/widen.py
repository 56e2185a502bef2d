"""Widening of a network by silent units: ``dimat.widen``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from dimat.checkpoints.batches import Calls, ModelCall
from dimat.checkpoints.formats.files import StateLike, entries_of
from dimat.checkpoints.forward import Forward, bound
from dimat.checkpoints.states import completed, validate_state, working_copy
from dimat.checkpoints.unwrapped import fitted, unwrapped
from dimat.checkpoints.widths.narrow import narrowed
from dimat.checkpoints.widths.padding import Padding, padding_of
from dimat.checkpoints.widths.proof import check_padding
from dimat.errors import StructureError, in_words
from dimat.graph.trace import as_args
from dimat.state import State, extras_of, tensors_of

Widths = Literal["same", "pad"]
WIDTHS: tuple[str, ...] = get_args(Widths)


def widen(
    model: nn.Module,
    narrow: StateLike,
    args: tuple[Any, ...] | Tensor,
    kwargs: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
) -> dict[str, Any]:
    """The state of a narrower network in the shapes of a wider one, padded with silent units.

    A silent unit reads nothing and is read by nothing: all its weights are zero, and its BatchNorm
    has variance 1. Which axes get units follows from the two shapes; where the units of each stand
    on every axis, from the symmetry of the wider model. Both networks are then run in float64 (or
    float32, if they run in no other), on states and inputs that are drawn: outputs must agree.

    Args:
        model: The wider model; its own weights and mode do not matter and are not changed.
        narrow: A state of the same keys and number of axes, of no larger sizes, in any form that
            :func:`dimat.merge` takes. It is run in a copy of the model with its shapes; a model is
            run itself, as it must be where its forward has sizes written into it.
        args: Example inputs, as the model is called, or the only one; a small batch is enough.
        kwargs: Example keyword inputs.
        key: As :func:`dimat.merge` takes it.

    Returns:
        The padded state, in the dtypes of the narrower one.

    Raises:
        ConfigError: If an argument is of a kind that has no meaning here.
        ModelError: If the inputs do not fit, or the model cannot be captured.
        StructureError: If an entry does not fit, an axis cannot have units added, or outputs
            change, as those of norms and means over a padded axis do.

    References:
        Chen et al., "Net2Net", ICLR 2016, whose wider networks copy units instead.

    Example:
        >>> import torch
        >>> def net(n):
        ...     return torch.nn.Sequential(
        ...         torch.nn.Linear(3, n), torch.nn.ReLU(), torch.nn.Linear(n, 2))
        >>> wide = widen(net(8), net(5), torch.zeros(2, 3))
        >>> wide["0.weight"].shape, wide["0.weight"][5:].any().item()
        (torch.Size([8, 3]), False)
    """
    model = unwrapped(model)
    call = ModelCall(as_args(args), dict(kwargs or {}))
    with in_words("widening"):
        entries = fitted(model, entries_of(narrow, "the state", key), "the state")
        given = narrow if isinstance(narrow, nn.Module) else None
        own = completed(model, entries, "the state")
        ((state, _),) = pad_states(model, None, [own], [given], ["the state"], Calls((call,)))
        validate_state(working_copy(model), state, "the state")
    return {**state, **extras_of(entries)}


def is_narrower(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state fits a model but for axes that are shorter.

    Args:
        model: The model.
        state: A completed state.
    """
    expected = tensors_of(model.state_dict())
    if state.keys() != expected.keys():
        return False
    pairs = [(tuple(state[key].shape), tuple(own.shape)) for key, own in expected.items()]
    fits = all(
        len(a) == len(b) and all(m <= n for m, n in zip(a, b, strict=True)) for a, b in pairs
    )
    return fits and any(a != b for a, b in pairs)


def pad_states(
    model: nn.Module,
    forward: Forward | None,
    states: Sequence[State],
    networks: Sequence[nn.Module | None],
    names: Sequence[str],
    calls: Calls,
) -> list[tuple[State, Padding | None]]:
    """States padded to the shapes of a model, each with its padding, None where it needs none.

    Args:
        model: The wider model.
        forward: The forward in place of the model's own; None: its own.
        states: Completed states.
        networks: The network of each, if it was given.
        names: Names of the states, for messages.
        calls: Example inputs.

    Raises:
        ModelError: If the model cannot be captured.
        StructureError: If a narrower state cannot be padded such that its function stays.
    """
    found: list[tuple[State, Padding | None]] = []
    twin = working_copy(model)
    for state, network, who in zip(states, networks, names, strict=True):
        if not is_narrower(twin, state):  # the check of states then says what does not fit
            found.append((state, None))
            continue
        with calls.blamed(bound(twin, forward)):
            analysis = calls.analyze(bound(twin, forward))
            example = calls.example(bound(twin, forward))
        padding = padding_of(analysis, state, who)
        own = narrowed(twin, state) if network is None else working_copy(unwrapped(network))
        if own.state_dict().keys() != twin.state_dict().keys():
            raise StructureError(
                f"{who} is a model whose entries have other names: give its state_dict()"
            )
        pair = bound(twin, forward), bound(own, forward)
        padding = check_padding(analysis, *pair, padding, state, example, who)
        found.append((padding.pad(state), padding))
    return found
