"""Linear and convolutional layers as matrix products, row by row of their outputs.

Every convolution (of any dimension, strided, dilated, padded, grouped, transposed) and every linear
layer is ``output[row, g, :] = W[g] @ z[row, g, :]`` for groups g: rows are samples and places, z is
the patch under the kernel. A transposed convolution is a convolution of the input with zeros
between its entries, its kernel mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from dimat.graph.trace import operator_name
from dimat.merging.layerwise.sites import argument


@dataclass(frozen=True)
class Layer:
    """The geometry of one linear or convolutional layer.

    Args:
        groups: Number of groups.
        kernel: Size of the kernel along every spatial axis; empty for a linear layer.
        stride: Stride along every spatial axis.
        dilation: Dilation along every spatial axis.
        padding: (before, after) along every spatial axis, of the equivalent plain convolution.
        spread: Zeros between entries of the input, plus one, along every spatial axis.
        transposed: Whether the weight is stored as that of a transposed convolution.
    """

    groups: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    spread: tuple[int, ...] = ()
    transposed: bool = False

    @property
    def spatial(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    def matrix(self, weight: Tensor) -> Tensor:
        """(groups, outputs of a group, inputs of a group x kernel) matrices of a weight.

        Args:
            weight: The weight as the model stores it.
        """
        if not self.transposed:
            return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)
        inputs, outputs = weight.shape[0] // self.groups, weight.shape[1]
        split = weight.reshape(self.groups, inputs, outputs, *self.kernel).transpose(1, 2)
        return split.flip(list(range(3, split.dim()))).flatten(2)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The weight of some matrices: the inverse of :meth:`matrix`.

        Args:
            matrix: Matrices as :meth:`matrix` gives them.
            like: A weight of the shape that is wanted.
        """
        if not self.transposed:
            return matrix.reshape(like.shape)
        groups, outputs, _ = matrix.shape
        split = matrix.reshape(groups, outputs, -1, *self.kernel)
        mirrored = split.flip(list(range(3, split.dim())))
        return mirrored.transpose(1, 2).reshape(like.shape)

    def places(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Spatial sizes of the output.

        Args:
            sizes: Spatial sizes of the input.
        """
        own = zip(
            sizes, self.kernel, self.stride, self.dilation, self.padding, self.spread, strict=True
        )
        return tuple(
            ((n - 1) * z + 1 + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, d, p, z in own
        )

    def num_rows(self, output: Tensor) -> int:
        """Number of rows of an output: samples times places.

        Args:
            output: Output of the layer.
        """
        return output.numel() // self._channels(output)

    def _channels(self, output: Tensor) -> int:
        return int(output.shape[1] if self.spatial else output.shape[-1])

    def outputs(self, output: Tensor, rows: Tensor | None) -> Tensor:
        """(rows, groups, outputs of a group) of an output, or of a tensor of its shape.

        Args:
            output: Output of the layer.
            rows: Numbers of the rows; None: all.
        """
        last = output.movedim(1, -1) if self.spatial else output
        flat = last[torch.unravel_index(rows, last.shape[:-1])] if rows is not None else last
        return flat.reshape(-1, self.groups, last.shape[-1] // self.groups)

    def inputs(self, x: Tensor, rows: Tensor) -> Tensor:
        """(rows, groups, inputs of a group x kernel) patches of an input under the kernel.

        Args:
            x: Input of the layer.
            rows: Numbers of the rows.
        """
        if not self.spatial:
            flat = x[torch.unravel_index(rows, x.shape[:-1])]
            return flat.reshape(len(rows), self.groups, -1)
        # Of large images few places are picked: to pad them all took six times as long.
        at, inside = self.positions(rows, x.shape[2:])
        sample = rows // math.prod(self.places(x.shape[2:]))
        shown = x.flatten(2).transpose(1, 2)[sample[:, None], at]  # rows, kernel, channels
        shown.masked_fill_(~inside[:, :, None], 0)
        return shown.transpose(1, 2).reshape(len(rows), self.groups, -1)

    def positions(self, rows: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(rows, kernel) the positions that patches show, and whether they lie in the input.

        Args:
            rows: Numbers of the rows.
            sizes: Spatial sizes of the input.
        """
        places = torch.unravel_index(rows % math.prod(self.places(sizes)), self.places(sizes))
        flat = torch.zeros_like(rows)[:, None]
        inside = torch.ones_like(flat, dtype=torch.bool)
        geometry = (sizes, self.kernel, self.stride, self.dilation, self.padding, self.spread)
        for place, n, k, s, d, (before, _), z in zip(places, *geometry, strict=True):
            steps = d * torch.arange(k, device=rows.device)
            at = place[:, None] * s - before + steps  # between entries are z - 1 zeros
            shown = (at >= 0) & (at <= (n - 1) * z) & (at % z == 0)
            own = (at // z).clamp(0, n - 1)
            flat = (flat[:, :, None] * n + own[:, None]).flatten(1)
            inside = (inside[:, :, None] & shown[:, None]).flatten(1)
        return flat, inside


def layer_of(op: fx.Node, weight: Tensor) -> Layer:
    """The geometry of the layer that an operator computes.

    Args:
        op: A linear layer or a convolution, as :data:`dimat.merging.layerwise.sites.WEIGHTED`
            names them.
        weight: Weight of the layer, for the kernel's size.
    """
    name = operator_name(op.target)
    if name == "aten.linear":
        return Layer(1)
    kernel = tuple(int(n) for n in weight.shape[2:])
    sizes = {key: _each(argument(op, key, -1), kernel) for key in ("stride", "dilation")}
    groups, padding = int(argument(op, "groups", -1)), argument(op, "padding", -1)
    backward = "transpose" in name or (name == "aten.convolution" and argument(op, "transposed", 6))
    if not backward:
        pads = _pads(padding, kernel, sizes["dilation"])
        ones = (1,) * len(kernel)
        return Layer(groups, kernel, sizes["stride"], sizes["dilation"], pads, ones)
    extra = _each(argument(op, "output_padding", -1), kernel)
    reach = [d * (k - 1) for d, k in zip(sizes["dilation"], kernel, strict=True)]
    own = zip(reach, _each(padding, kernel), extra, strict=True)
    pads = tuple((r - p, r - p + e) for r, p, e in own)
    ones = (1,) * len(kernel)
    return Layer(groups, kernel, ones, sizes["dilation"], pads, sizes["stride"], transposed=True)


def _each(value: int | Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """One number for every spatial axis."""
    own = [value] if isinstance(value, int) else list(value)
    return tuple(int(n) for n in (own * len(kernel) if len(own) == 1 else own))


def _pads(
    padding: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((n // 2, n - n // 2) for n in total)
    assert not isinstance(padding, str)
    return tuple((n, n) for n in _each(padding, kernel))
