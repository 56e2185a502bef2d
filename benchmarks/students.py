"""Students of a teacher: small tanh networks with a known symmetry, many at once, for the rate.

A student is a row of SIZE numbers, the entries of its module's state one after another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dimat.exchange import Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import Dimat, RoundContext
from dimat.symmetry import Analysis, analyze
from dimat.topology import build_topology

INPUTS, UNITS, POINTS, NOISE = 4, 6, 1024, 0.1
SIZE = UNITS * (INPUTS + 2)  # weights and bias of each unit, and what it is worth


def parts(students: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., UNITS, INPUTS) weights, (..., UNITS) biases and output weights of (..., SIZE)."""
    weights, bias, out = students.split([UNITS * INPUTS, UNITS, UNITS], -1)
    return weights.unflatten(-1, (UNITS, INPUTS)), bias, out


def outputs(students: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., B, UNITS) hidden units and (..., B) outputs."""
    weights, bias, out = parts(students)
    hidden = torch.tanh(x @ weights.mT + bias.unsqueeze(-2))
    return hidden, (hidden @ out.unsqueeze(-1)).squeeze(-1)


def gradients(students: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(..., SIZE) gradient of the mean of ½ (output - y)²; mean squared norm of one sample's."""
    hidden, found = outputs(students, x)
    error = found - y
    back = error.unsqueeze(-1) * parts(students)[2].unsqueeze(-2) * (1 - hidden.square())
    total = [(back.mT @ x).flatten(-2), back.sum(-2), (error.unsqueeze(-2) @ hidden).squeeze(-2)]
    square = back.square().sum(-1) * (x.square().sum(-1) + 1)
    square = square + error.square() * hidden.square().sum(-1)
    return torch.cat(total, -1) / x.shape[-2], square.mean(-1)


@dataclass(frozen=True)
class Problem:
    """Points with a teacher's labels and noise, which all agents draw from.

    Args:
        x: (POINTS, INPUTS).
        y: (POINTS,).
        init: (seeds, SIZE) students.
        floor: Loss of the teacher.
    """

    x: Tensor
    y: Tensor
    init: Tensor
    floor: Tensor

    def loss(self, student: Tensor) -> Tensor:
        """F, of (..., SIZE)."""
        return 0.5 * (outputs(student, self.x)[1] - self.y).square().mean(-1)


def make_problem(seeds: int, pretrain: int) -> Problem:
    """A problem whose students were trained for some steps from independent random inits."""
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(SIZE, generator=random)
    x = torch.randn(POINTS, INPUTS, generator=random)
    y = outputs(teacher, x)[1] + NOISE * torch.randn(POINTS, generator=random)
    init = 0.5 * torch.randn(seeds, SIZE, generator=random)
    for _ in range(pretrain):
        drawn = torch.randint(POINTS, (seeds, 16), generator=random)
        init = init - 0.1 * gradients(init, x[drawn], y[drawn])[0]
    return Problem(x, y, init, 0.5 * (outputs(teacher, x)[1] - y).square().mean())


def shuffled(copies: Tensor) -> Tensor:
    """(..., SIZE) students, the units of each in a random order."""
    random = torch.Generator().manual_seed(2)
    order = torch.rand(*copies.shape[:-1], UNITS, generator=random).argsort(-1)
    weights, bias, out = parts(copies)
    moved = weights.gather(-2, order.unsqueeze(-1).expand_as(weights))
    return torch.cat([moved.flatten(-2), bias.gather(-1, order), out.gather(-1, order)], -1)


def aligned(students: Tensor, x: Tensor) -> Tensor:
    """(seeds, agents, SIZE) students after one merge by dimat, which brings them into one order."""
    module = nn.Sequential(nn.Linear(INPUTS, UNITS), nn.Tanh(), nn.Linear(UNITS, 1, bias=False))
    analysis = analyze(module, (x[:2],))
    return torch.stack([_merged(own, module, analysis, x) for own in students])


def _merged(students: Tensor, module: nn.Module, analysis: Analysis, x: Tensor) -> Tensor:
    entries, agents = module.state_dict(), len(students)
    ring = build_topology("ring", agents)

    def member(i: int) -> RoundContext:
        rows = students[i].split([v.numel() for v in entries.values()])
        state = {k: r.reshape(v.shape) for (k, v), r in zip(entries.items(), rows, strict=True)}
        own = x[i::agents]  # nobody looks at another's
        return RoundContext(i, 1, state, ring, [*entries], lambda: analysis, lambda: [own])

    talks = [Dimat("tree").merge(member(i)) for i in range(agents)]
    merged = run_all(talks, [Traffic() for _ in talks])
    return torch.stack([torch.cat([v.flatten() for v in m.state.values()]) for m in merged])
