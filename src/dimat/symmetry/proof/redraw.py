"""Random states and inputs that the proof runs on: near the given ones, and generic ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from dimat.errors import DimatError, ModelError, first_line
from dimat.state import is_number

Result = TypeVar("Result")

# Near the given values an operator is where it is used: a logarithm reads what is positive. Generic
# values have no zeros or ones that could hide a wrong rule. Further draws are smaller or larger, to
# leave regions in which an operator is flat (a saturated sigmoid, a dead ReLU).
Kind = Literal["near", "generic"]
DRAWS: tuple[tuple[Kind, float], ...] = (
    ("near", 1.0), ("generic", 1.0), ("near", 1.0), ("generic", 0.1), ("near", 10.0),
    ("near", 0.1), ("generic", 10.0), ("near", 100.0), ("generic", 100.0), ("near", 1e4),
)  # fmt: skip
# One draw of each kind: each shows mistakes that the other hides. Two are also the fewest that can
# show whether a value varies, and for most models they prove every node.
LEAST_DRAWS = 2
OF_WHOLE_NUMBERS = (3, 5)  # draws in which integers are redrawn: tokens that differ
# The values that may be drawn for a float input: any number; in columns of whole numbers only the
# column's own, as they may be looked up (calendar marks, categories); in every column only its own.
LEVELS: tuple[str, ...] = ("any number", "whole numbers kept", "own values")


def on_freest_inputs(model: str, attempt: Callable[[str], Result]) -> Result:
    """The result of an attempt with the freest redrawing of inputs on which a model still runs.

    Args:
        model: Name of the model's class, for the message.
        attempt: Called with one of :data:`LEVELS` after the other until the model runs.

    Raises:
        ModelError: If it runs on none.
    """
    errors: list[Exception] = []
    for level in LEVELS:
        try:
            return attempt(level)
        except DimatError:
            raise
        except (RuntimeError, IndexError, ValueError) as error:
            errors.append(error)
    raise ModelError(
        f"{model} cannot be run on redrawn inputs, not even on the example's own values in another "
        f"order: {first_line(errors[-1])}"
    ) from errors[-1]


def draw(
    number: int, state: Mapping[str, Tensor], inputs: Sequence[Any], level: str = LEVELS[0]
) -> tuple[dict[str, Tensor], list[Any]]:
    """The redrawn state and inputs of one draw, in float64; the same for the same number.

    Args:
        number: Index into :data:`DRAWS`, and the seed.
        state: The given state.
        inputs: Flattened user inputs. What is no tensor stays as it is; integers and booleans do
            except in every second of the further draws.
        level: One of :data:`LEVELS`.
    """
    kind, scale = DRAWS[number]
    random = torch.Generator().manual_seed(number)
    own = {key: value.detach().cpu() for key, value in state.items()}
    drawn = redraw(own, random, scale) if kind == "generic" else near(own, random, scale)
    redrawn = [_redraw_input(x, random, kind, scale, level) for x in inputs]
    if number > LEAST_DRAWS and number % 2:  # where all masks are ones, or ids zero, little shows
        redrawn = [_redraw_count(x, random) for x in redrawn]
    return drawn, redrawn


def redraw(
    state: Mapping[str, Tensor], generator: torch.Generator, scale: float = 1.0
) -> dict[str, Tensor]:
    """A generic state: every floating entry drawn anew in float64, with no zeros or ones.

    Matrices get a scale that keeps activations of order one; entries that are nowhere negative and
    not all zero (variances, scales) stay positive.
    """
    numbers = _numbers(generator)
    return {key: _generic(value, numbers, scale) for key, value in state.items()}


def near(
    state: Mapping[str, Tensor], generator: torch.Generator, scale: float = 1.0
) -> dict[str, Tensor]:
    """A state near the given one: floating entries times a factor in [1/2, 2], in float64.

    Signs are kept. Zeros become small numbers, positive among entries that are nowhere negative;
    entries that are all zero are drawn like generic ones, and infinite ones (masks) stay.
    """
    numbers = _numbers(generator)
    return {key: _near(value, numbers, scale) for key, value in state.items()}


def _numbers(generator: torch.Generator) -> np.random.Generator:
    """A generator of NumPy's, seeded by one of PyTorch's, which is up to four times slower."""
    return np.random.Generator(np.random.SFC64(int(torch.randint(2**62, (), generator=generator))))


def _positive(value: Tensor) -> bool:
    """Whether entries are nowhere negative and not all zero."""
    if value.is_complex() or not value.numel():
        return False
    low, high = value.aminmax()
    return bool(low >= 0) and bool(high > 0)


def _noise(value: Tensor, numbers: np.random.Generator) -> Tensor:
    """Random numbers of mean 0 and variance 1 (complex: 2), of a tensor's shape, in float64.

    They are uniform, as normal ones take four times as long.
    """
    if value.is_complex():
        return torch.view_as_complex(_noise(torch.view_as_real(value.resolve_conj()), numbers))
    noise = torch.from_numpy(numbers.random(tuple(value.shape)))
    return noise.sub_(0.5).mul_(12**0.5)


def _normal(value: Tensor, generator: torch.Generator) -> Tensor:
    """Normal random numbers of a tensor's shape, complex if it is, in double precision."""
    wide = torch.complex128 if value.is_complex() else torch.float64
    return torch.randn(value.shape, generator=generator, dtype=wide)


def _factor(value: Tensor, numbers: np.random.Generator) -> Tensor:
    """Random numbers in [1/2, 2] of a tensor's shape, in double precision."""
    return torch.from_numpy(numbers.random(tuple(value.shape))).mul_(2.0).sub_(1.0).exp2_()


def _generic(value: Tensor, numbers: np.random.Generator, scale: float) -> Tensor:
    if not is_number(value):
        return value
    noise = _noise(value, numbers)  # changed in place: to take memory for a large one is slow
    if _positive(value):
        return noise.abs_().add_(0.5).mul_(scale)
    wide = max(value.shape[1:].numel(), 1) if value.dim() > 1 else 1
    return noise.mul_(scale / wide**0.5)


def _near(value: Tensor, numbers: np.random.Generator, scale: float) -> Tensor:
    if not is_number(value):
        return value
    if _ordinary(value):
        return _factor(value, numbers).mul_(value).mul_(scale)
    noise = _noise(value, numbers)
    finite = value[value.isfinite() & (value != 0)]
    if not finite.numel():
        return torch.where(value == 0, _generic(value, numbers, scale), value.to(noise.dtype))
    small = 0.1 * finite.abs().double().mean() * (noise.abs() if _positive(value) else noise)
    near = value * _factor(value, numbers)
    return scale * torch.where(value == 0, small.to(noise.dtype), near)


def _ordinary(value: Tensor) -> bool:
    """Whether all entries are real and finite, and none is zero."""
    if value.is_complex() or not value.numel():
        return False
    low, high = value.aminmax()
    finite = bool(low.isfinite()) and bool(high.isfinite())
    return finite and int(value.count_nonzero()) == value.numel()


def _redraw_count(value: Any, generator: torch.Generator) -> Any:
    """Random booleans or whole numbers in the range of the given ones, 0 and 1 included."""
    if not isinstance(value, Tensor) or is_number(value) or not value.numel():
        return value
    low, high = min(int(value.min()), 0), max(int(value.max()), 1)
    return torch.randint(low, high + 1, value.shape, generator=generator).to(value.dtype)


def _redraw_input(
    value: Any, generator: torch.Generator, kind: Kind, scale: float, level: str
) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    if not is_number(value):
        return value
    drawn = (
        # Of inputs, which are few, the tails are seen too: what is told apart by a threshold.
        scale * _normal(value, generator)
        if kind == "generic"
        else _near(value, _numbers(generator), scale)
    )
    if level == LEVELS[0] or value.is_complex() or not value.numel():
        return drawn
    columns = value.double().reshape(-1, value.shape[-1] if value.dim() > 1 else 1)
    picked = torch.randint(len(columns), columns.shape, generator=generator)
    own = columns.gather(0, picked)
    whole = (columns == columns.round()).all(0) | (level == LEVELS[2])
    return torch.where(whole, own, drawn.reshape(columns.shape)).reshape(value.shape)
