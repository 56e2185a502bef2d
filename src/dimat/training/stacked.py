"""Models of several agents run as one, with the bits that each has when it is run alone.

A model whose parameters are those of ``nn.Linear`` treats every sample by itself, so the batches of
all agents go through it as one long batch; in its linear layers each part of that batch meets its
own agent's weights, in one batched product. Whether a product of matrices has the same bits in a
batch of products depends on its shape, its place in memory, the threads and the library that
computes it: it is tried, once for every shape, and where it has not, the products are taken one
after another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Shape = tuple[int, ...]
_CHUNK = 32  # numbers that an elementwise kernel takes at once, at most; what is left rounds apart


def only_linear(model: nn.Module) -> bool:
    """Whether all that a model has of its own are the weights and biases of plain linear layers."""
    layers = [own for own in model.modules() if type(own) is nn.Linear]
    linear = {id(p) for own in layers for p in own.parameters(recurse=False)}
    own = [*model.parameters(), *model.buffers()]
    return bool(own) and all(id(entry) in linear and entry.is_contiguous() for entry in own)


def same_elementwise(numel: int, threads: int) -> bool:
    """Whether elementwise kernels round an agent's tensor in a stack as they do the tensor alone.

    They do where the ends of what is vectorized, and of each thread's share, fall on the same
    places: tails that do not fill a chunk are computed by other instructions.

    Args:
        numel: Numbers of one agent's tensor.
        threads: Threads of PyTorch, of which any smaller number may be used.
    """
    return numel % (_CHUNK * math.lcm(*range(1, threads + 1))) == 0


class StackedModel:
    """A model of :func:`only_linear` that is run with the parameters of several agents.

    Args:
        model: The model, whose own parameters are not read.
        parameters: Parameters by name, (agents, ...).
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self.model = model
        own = dict(model.named_parameters())
        self._mode = _Stacked({id(p): parameters[name] for name, p in own.items()})

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs (agents, batch, ...) of inputs (agents, batch, ...), each of its own agent."""
        with self._mode:
            outputs: Tensor = self.model(inputs.flatten(0, 1))
        return outputs.reshape(*inputs.shape[:2], *outputs.shape[1:])


class _Stacked(TorchFunctionMode):
    """Linear layers take the stacked parameters in place of the model's own."""

    def __init__(self, stacked: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.stacked = stacked

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch, or what stands for it."""
        if func is not nn.functional.linear or kwargs:
            return func(*args, **(kwargs or {}))
        x, weight, bias = args
        ours = self.stacked[id(weight)]
        shift = None if bias is None else self.stacked[id(bias)]
        rows = x.reshape(len(ours), -1, x.shape[-1])
        return _Linear.apply(rows, ours, shift).reshape(*x.shape[:-1], -1)  # type: ignore[no-untyped-call]


class _Linear(torch.autograd.Function):
    """The linear layers of several agents, and their gradients in the order that PyTorch has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Outputs (agents, rows, out) of inputs (agents, rows, in)."""
        ctx.save_for_backward(x, weight)
        if bias is None:
            return _products("mm", x, weight.mT)
        return _products("addmm", x, weight.mT, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of inputs, weights and biases."""
        x, weight = ctx.saved_tensors
        own = gradients[0].contiguous()
        needs = ctx.needs_input_grad
        return (
            _products("mm", own, weight) if needs[0] else None,
            _products("mm", own.mT, x) if needs[1] else None,
            own.sum(1) if needs[2] else None,
        )


def _products(kind: str, *operands: Tensor) -> Tensor:
    """The products of each agent's matrices, with the bits that each has alone."""
    shapes = tuple((tuple(own.shape), own.stride(), own.dtype) for own in operands)
    batched = _agrees(kind, shapes, torch.get_num_threads())
    return (_BATCHED if batched else _ONE_BY_ONE)[kind](*operands)


def _each(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Products one after another, of copies: their bits depend on how memory is aligned, too."""
    return lambda *operands: torch.stack(
        [product(*(own.clone() for own in one)) for one in zip(*operands, strict=True)]
    )


_ONE_BY_ONE = {
    "mm": _each(torch.mm),
    "addmm": _each(lambda x, weight, bias: torch.addmm(bias, x, weight)),
}
_BATCHED: Mapping[str, Callable[..., Tensor]] = {
    "mm": torch.bmm,
    "addmm": lambda x, weight, bias: torch.baddbmm(bias.unsqueeze(1), x, weight),
}


@functools.lru_cache(maxsize=4096)
def _agrees(kind: str, shapes: Sequence[tuple[Shape, Shape, torch.dtype]], threads: int) -> bool:
    """Whether products of a shape have the same bits in one batch as one by one, on random data."""
    random = torch.Generator().manual_seed(0)
    operands = []
    for shape, stride, dtype in shapes:
        own = torch.empty_strided(shape, stride, dtype=dtype)
        operands.append(own.copy_(torch.randn(shape, generator=random, dtype=dtype)))
    return torch.equal(_BATCHED[kind](*operands), _ONE_BY_ONE[kind](*operands))
