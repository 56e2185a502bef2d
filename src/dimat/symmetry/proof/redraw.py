"""Random states and inputs that the proof runs on: near the given ones, and generic ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.errors import DimatError, ModelError, first_line
from dimat.state import is_number

Result = TypeVar("Result")
Uniform = Callable[..., Tensor]  # of a shape and two bounds: random numbers between them

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
_BLOCK = 2**14  # numbers that are drawn at a time, in the processor's cache
_SMALL = 2**14  # numbers of an entry that is kept once it is drawn
_RECENT = 4  # larger ones that are kept: as many as most operators read
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
) -> tuple[DrawnState, list[Any]]:
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
    drawn = DrawnState(own, kind, scale, random)
    redrawn = [_redraw_input(x, random, kind, scale, level) for x in inputs]
    if number > LEAST_DRAWS and number % 2:  # where all masks are ones, or ids zero, little shows
        redrawn = [_redraw_count(x, random) for x in redrawn]
    return drawn, redrawn


class DrawnState(Mapping[str, Tensor]):
    """A redrawn state, of which an entry is drawn when it is read, and is the same every time.

    A large entry is drawn anew when it is not among the last few that were read, into memory that
    no tensor uses any more: to take memory for a whole state is slower than to draw it twice.

    Args:
        state: The given state.
        kind: As :func:`redraw` or as :func:`near` draws.
        scale: Factor of all entries.
        generator: Draws what all random numbers are made from.
    """

    def __init__(
        self, state: Mapping[str, Tensor], kind: Kind, scale: float, generator: torch.Generator
    ) -> None:
        self._state, self._kind, self._scale = state, kind, scale
        seed = _seed(generator)
        self._seeds = {key: (seed, k) for k, key in enumerate(state)}
        self._held: dict[str, Tensor] = {}
        self._recent: dict[str, Tensor] = {}
        self._memory = Memory()

    def __getitem__(self, key: str) -> Tensor:
        """One entry, in float64; not to be written to."""
        if key in self._held:
            return self._held[key]
        if self._state[key].numel() <= _SMALL:
            return self._held.setdefault(key, self._draw(key))
        found = self._recent.pop(key, None)
        if found is None:
            if len(self._recent) == _RECENT:
                del self._recent[next(iter(self._recent))]
            found = self._draw(key)
        self._recent[key] = found  # the last one
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)

    def hold(self, entries: Mapping[str, Tensor]) -> None:
        """Put entries in place of those that are drawn.

        Args:
            entries: Some entries by key, in float64.
        """
        self._held.update(entries)

    def _draw(self, key: str) -> Tensor:
        numbers = _Uniform(self._seeds[key], self._memory)
        one = _generic if self._kind == "generic" else _near
        return one(self._state[key], numbers, self._scale)


class Memory:
    """Memory for large tensors of float64, which is used again when no tensor uses it any more.

    The system takes several times as long to give memory as a proof takes to fill it.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.float64]] = []

    def take(self, count: int) -> Tensor:
        """A tensor of that many numbers, of any values."""
        if count <= _SMALL:
            return torch.empty(count, dtype=torch.float64)
        self._free.sort(key=len)
        fits = next((k for k, own in enumerate(self._free) if len(own) >= count), None)
        whole = np.empty(count) if fits is None else self._free.pop(fits)
        part = whole[:count]  # lives as long as a tensor that reads it
        weakref.finalize(part, self._free.append, whole).atexit = False
        return torch.from_numpy(part)


def redraw(
    state: Mapping[str, Tensor], generator: torch.Generator, scale: float = 1.0
) -> dict[str, Tensor]:
    """A generic state: every floating entry drawn anew in float64, with no zeros or ones.

    Matrices get a scale that keeps activations of order one; entries that are nowhere negative and
    not all zero (variances, scales) stay positive.
    """
    numbers = np.random.Generator(np.random.SFC64(_seed(generator)))

    def uniform(shape: torch.Size, low: float, high: float) -> Tensor:
        # One stream for all entries: states of a seed, and what is said of them, stay the same.
        return torch.from_numpy(numbers.random(tuple(shape))).mul_(high - low).add_(low)

    return {key: _generic(value, uniform, scale) for key, value in state.items()}


def near(
    state: Mapping[str, Tensor], generator: torch.Generator, scale: float = 1.0
) -> dict[str, Tensor]:
    """A state near the given one: floating entries times a factor in [1/2, 2], in float64.

    Signs are kept. Zeros become small numbers, positive among entries that are nowhere negative;
    entries that are all zero are drawn like generic ones, and infinite ones (masks) stay.
    """
    return dict(DrawnState(state, "near", scale, generator))


class _Uniform:
    """Source of uniform random numbers in float64.

    Each is made of 32 random bits: half of what NumPy makes one of, in half of the time.

    Args:
        seed: What the bits are drawn by.
        memory: Where the numbers are put.
    """

    def __init__(self, seed: int | tuple[int, int], memory: Memory) -> None:
        self._bits, self._memory = np.random.SFC64(seed), memory

    def __call__(
        self, shape: torch.Size, low: float, high: float, times: Tensor | None = None
    ) -> Tensor:
        """Numbers between two bounds, of a shape; times those of a real tensor of that shape."""
        found = self._memory.take(shape.numel())
        factors = found if times is None else times.reshape(-1)
        wide = torch.empty(min(_BLOCK, len(found)), dtype=torch.float64)
        blocks = zip(torch.split(found, _BLOCK), torch.split(factors, _BLOCK), strict=True)
        for block, factor in blocks:
            bits = self._bits.random_raw((len(block) + 1) // 2).view(np.int32)[: len(block)]
            block.copy_(torch.from_numpy(bits)).mul_((high - low) / 2**32).add_((high + low) / 2)
            if times is not None:
                block.mul_(wide[: len(block)].copy_(factor))
        return found.reshape(shape)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def _positive(value: Tensor) -> bool:
    """Whether entries are nowhere negative and not all zero."""
    if value.is_complex() or not value.numel():
        return False
    low, high = value.aminmax()
    return bool(low >= 0) and bool(high > 0)


def _noise(value: Tensor, numbers: Uniform) -> Tensor:
    """Random numbers of mean 0 and variance 1 (complex: 2), of a tensor's shape, in float64.

    They are uniform, as normal ones take many times as long.
    """
    if value.is_complex():
        return torch.view_as_complex(_noise(torch.view_as_real(value.resolve_conj()), numbers))
    return numbers(value.shape, -(3**0.5), 3**0.5)


def _normal(value: Tensor, generator: torch.Generator) -> Tensor:
    """Normal random numbers of a tensor's shape, complex if it is, in double precision."""
    wide = torch.complex128 if value.is_complex() else torch.float64
    return torch.randn(value.shape, generator=generator, dtype=wide)


def _generic(value: Tensor, numbers: Uniform, scale: float) -> Tensor:
    if not is_number(value):
        return value
    if _positive(value):
        return _noise(value, numbers).abs_().add_(0.5).mul_(scale)
    wide = max(value.shape[1:].numel(), 1) if value.dim() > 1 else 1
    return _noise(value, numbers).mul_(scale / wide**0.5)


def _near(value: Tensor, numbers: Uniform, scale: float) -> Tensor:
    if not is_number(value):
        return value
    factors = partial(numbers, value.shape, 0.5 * scale, 2.0 * scale)
    near = value * factors() if value.is_complex() else factors(value)
    if near.numpy().all():
        return near
    zero, size = value == 0, value.abs()
    if not size.sum().isfinite():
        size = size[size.isfinite()]
    total = size.sum(dtype=torch.float64)
    if not total > 0:
        return torch.where(zero, _generic(value, numbers, scale), near)
    noise = _noise(value[zero], numbers)
    small = 0.1 * scale * total / size.count_nonzero()
    near[zero] = small * (noise.abs() if _positive(value) else noise)
    return near


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
        else _near(value, _Uniform(_seed(generator), Memory()), scale)
    )
    if level == LEVELS[0] or value.is_complex() or not value.numel():
        return drawn
    columns = value.double().reshape(-1, value.shape[-1] if value.dim() > 1 else 1)
    picked = torch.randint(len(columns), columns.shape, generator=generator)
    own = columns.gather(0, picked)
    whole = (columns == columns.round()).all(0) | (level == LEVELS[2])
    return torch.where(whole, own, drawn.reshape(columns.shape)).reshape(value.shape)
