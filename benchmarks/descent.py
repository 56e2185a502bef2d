"""Decentralized SGD of students on a graph, and what theory says of it, for the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from benchmarks.students import POINTS, SIZE, Problem, aligned, gradients, shuffled
from torch import Tensor

from dimat.topology import Topology, build_topology

BATCH, ALONE = 8, 0.1  # images of a gradient; step size of agents that train alone
EVERY, LOOKS, BENDS = 4, 40, 4  # steps between looks at ‖∇F‖² and Ξ²; looks at σ² and ζ²; at L


@dataclass(frozen=True)
class Case:
    """Runs of one kind, of all seeds at once.

    Args:
        agents: N.
        steps: K.
        start: In which unit orders agents begin: ``shared``, ``aligned`` (by dimat), ``shuffled``.
        graph: Name of the topology.
        tilt: ζ: agent i has F + ⟨b_i, θ⟩, with b_i of mean 0 and mean square ζ².
        alone: Steps that each agent takes alone, before units are shuffled and agents meet.
    """

    agents: int
    steps: int
    start: str = "shared"
    graph: str = "ring"
    tilt: float = 0.0
    alone: int = 0

    @property
    def step(self) -> float:
        """Step size α."""
        return math.sqrt(self.agents / self.steps)

    @property
    def topology(self) -> Topology:
        return build_topology(self.graph, self.agents).at(0)


@dataclass(frozen=True)
class Found:
    """Means over the steps of a run, one entry a seed.

    Args:
        gradient: ‖∇F‖² at the mean of all agents.
        consensus: Mean squared distance of agents from their mean, Ξ².
        noise: Variance of an agent's gradient, σ².
        spread: Mean squared distance of expected gradients from their mean, where agents are, ζ².
        curvature: Largest curvature of F that was seen, L.
        fall: By how much F fell.
        left: F at the end, above the teacher's.
    """

    gradient: Tensor
    consensus: Tensor
    noise: Tensor
    spread: Tensor
    curvature: Tensor
    fall: Tensor
    left: Tensor


def start(problem: Problem, case: Case) -> Tensor:
    """(seeds, agents, SIZE) students, in the orders that the case names."""
    students = problem.init.unsqueeze(1).repeat(1, case.agents, 1)
    random = torch.Generator().manual_seed(4)
    for _ in range(case.alone):
        students = students - ALONE * drawn_gradients(problem, students, random)
    if case.start == "shared":
        return students
    moved = shuffled(students)
    return moved if case.start == "shuffled" else aligned(moved, problem.x)


def drawn_gradients(problem: Problem, students: Tensor, random: torch.Generator) -> Tensor:
    """(seeds, agents, SIZE) gradients, each on a batch of its own."""
    drawn = torch.randint(POINTS, (*students.shape[:2], BATCH), generator=random)
    return gradients(students, problem.x[drawn], problem.y[drawn])[0]


def tilts(case: Case) -> Tensor:
    """(agents, SIZE) the b_i: along one line, and as slow around the ring as they can be."""
    line = torch.randn(SIZE, generator=torch.Generator().manual_seed(3))
    sizes = torch.cos(2 * math.pi * torch.arange(case.agents) / case.agents)
    sizes = sizes - sizes.mean()
    sizes = sizes / sizes.square().mean().sqrt().clamp_min(1e-9)
    return case.tilt * sizes.unsqueeze(-1) * torch.nn.functional.normalize(line, dim=0)


def measured(problem: Problem, case: Case) -> Found:
    """Runs of all seeds: the same draws whatever the start, the graph and the tilt."""
    students, tilt = start(problem, case), tilts(case)
    pi = torch.from_numpy(case.topology.pi).float()
    random = torch.Generator().manual_seed(1)
    first = problem.loss(students.mean(1))
    means, agents, bends = [], [], []
    for k in range(case.steps):
        if k % EVERY == 0:
            means.append(at_mean(problem, students))
        if k % (case.steps // LOOKS) == 0:
            agents.append(at_agents(problem, students, tilt))
        if k % (case.steps // BENDS) == 0:
            bends.append(curvature(problem, students.mean(1)))
        found = drawn_gradients(problem, students, random) + tilt
        students = pi @ (students - case.step * found)
    gradient, consensus = torch.stack(means).mean(0)
    noise, spread = torch.stack(agents).mean(0)
    last = problem.loss(students.mean(1))
    return Found(
        gradient,
        consensus,
        noise,
        spread,
        torch.stack(bends).amax(0),
        first - last,
        last - problem.floor,
    )


def at_mean(problem: Problem, students: Tensor) -> Tensor:
    """(2, seeds) ‖∇F‖² at the mean of the agents, and Ξ²."""
    mean = students.mean(1)
    gradient = gradients(mean, problem.x, problem.y)[0].square().sum(-1)
    return torch.stack([gradient, (students - mean.unsqueeze(1)).square().sum(-1).mean(-1)])


def at_agents(problem: Problem, students: Tensor, tilt: Tensor) -> Tensor:
    """(2, seeds) σ² and ζ² where agents are."""
    own, square = gradients(students, problem.x, problem.y)
    noise = (square - own.square().sum(-1)).mean(-1) / BATCH
    own = own + tilt
    return torch.stack([noise, (own - own.mean(1, keepdim=True)).square().sum(-1).mean(-1)])


def curvature(problem: Problem, student: Tensor) -> Tensor:
    """(seeds,) largest modulus of an eigenvalue of the Hessian of F."""
    hessians = torch.func.vmap(torch.func.hessian(problem.loss))(student)
    return torch.linalg.matrix_norm(hessians, 2)


# --- theory ---------------------------------------------------------------------------------------


def consensus_bound(case: Case, found: Found) -> Tensor:
    """α² ρ² (σ² (1 - 1/N) / (1 - ρ) + ζ² / (1 - ρ)²), which Ξ² is at most."""
    rho = case.topology.contraction
    noise = found.noise * (1 - 1 / case.agents) / (1 - rho)
    return case.step**2 * rho**2 * (noise + found.spread / (1 - rho) ** 2)


def consensus_of_noise(case: Case, found: Found) -> Tensor:
    """α² σ² / N Σ λ² / (1 - λ²) over the eigenvalues but 1: Ξ² if gradients were noise alone."""
    squares = np.linalg.eigvalsh(case.topology.pi)[:-1] ** 2
    return case.step**2 * found.noise * float((squares / (1 - squares)).sum()) / case.agents


def gradient_bound(case: Case, found: Found) -> Tensor:
    """2 (F_0 - F_K) / (α K) + α L σ² / N + L² Ξ²."""
    descent = 2 * found.fall / (case.step * case.steps)
    noise = case.step * found.curvature * found.noise / case.agents
    return descent + noise + found.curvature**2 * consensus_bound(case, found)
