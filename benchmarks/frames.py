"""Frames of agents: whether matrices agree around a cycle, and what Adam keeps when units turn.

    python -m benchmarks.frames            # --small: one seed, one round

*cycles*: three agents of ``benchmarks.continuous``'s vision transformer, from different inits, with
``matching.continuous`` on a full graph. After each number of rounds the matrices M that turn each
to the next, and their product around the triangle; the error is |M - I| / sqrt(2 n), in [0, sqrt
2]: 0 where both have one frame, 1 for a random rotation.

*moments*: one such network (norms without gains, so that gradients turn as units do) trains 300
steps with Adam; its units are turned by a random element, which leaves its function unchanged; it
trains on with what is made of the moments, on the same batches. Mean loss of the next steps,
relative to the run that was not turned.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.continuous import DigitViT, Task, vit
from torch import nn
from torch.nn import functional

import dimat
from dimat.matching.procrustes import procrustes
from dimat.state import State, load_state, state_of
from dimat.symmetry.continuous import ContinuousSymmetry, Transformation
from dimat.symmetry.continuous.group import multiplied

ROUNDS = (0, 1, 2, 4, 6)
AFTER = (1, 10, 100)  # steps


def digit_vit(num_classes: int) -> nn.Module:
    return DigitViT()


def frame_errors(states: list[State], symmetry: ContinuousSymmetry) -> Mapping[str, float]:
    """How far the matrices between agents are from none, along an edge and around the triangle."""
    around, found = symmetry.identity(), {}
    for i in range(3):
        turn = procrustes(symmetry, states[i], states[(i + 1) % 3]).transformation
        around = symmetry.compose(around, turn)
        for kind, error in from_identity(symmetry, turn).items():
            found[f"{kind}, edges"] = found.get(f"{kind}, edges", 0.0) + error / 3
    cycle = from_identity(symmetry, around)
    return found | {f"{kind}, cycles": error for kind, error in cycle.items()}


def from_identity(symmetry: ContinuousSymmetry, element: Transformation) -> Mapping[str, float]:
    """The error of an element, in the mean over the groups of each kind."""
    found: dict[str, list[float]] = {}
    for group in symmetry.groups:
        apart = element.matrices[group.name] - torch.eye(group.size, dtype=torch.float64)
        errors = torch.linalg.matrix_norm(apart) / (2 * group.size) ** 0.5
        found.setdefault(group.kind, []).append(float(errors.mean()))
    return {kind: statistics.fmean(own) for kind, own in found.items()}


def in_order_of(first: State, other: State) -> State:
    """A state in the unit order of another, matched by activations."""
    x = vit().halves[0][0]
    permutations = dimat.find_symmetry(DigitViT(), x[:4])
    matching = dimat.match(DigitViT(), first, other, [x[:500]])
    return permutations.apply(matching.permutation, other)


def cycles(seeds: int, all_rounds: Sequence[int]) -> None:
    x = vit().halves[0][0][:4]
    symmetry = dimat.find_continuous_symmetry(DigitViT(), x)
    for rounds in all_rounds:
        found: dict[str, list[float]] = {}
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as out:
                dimat.run(
                    model=digit_vit, init="per-agent", agents=3, topology="full", rounds=rounds,
                    pretrain_epochs=30, seed=seed, controls=(), threads=1, progress=False,
                    matching={"continuous": True}, optimizer={"name": "adamw", "lr": 2e-3},
                    out=out, overwrite=True,
                )  # fmt: skip
                kept = sorted((Path(out) / "states").glob("agent-*.safetensors"))
                states = [load_state(own) for own in kept]
            if not rounds:  # nobody has put units in order
                states = [states[0], *(in_order_of(states[0], own) for own in states[1:])]
            for kind, error in frame_errors(states, symmetry).items():
                found.setdefault(kind, []).append(error)
        shown = ", ".join(f"{kind} {_spread(own)}" for kind, own in found.items())
        print(f"after {rounds} rounds: {shown}", flush=True)


def plain() -> nn.Module:
    """The vision transformer with norms that have neither gains nor biases."""
    model = DigitViT()
    for owner in (model, *model.layers):
        for name, own in list(owner.named_children()):
            if isinstance(own, nn.LayerNorm):
                setattr(owner, name, nn.LayerNorm(own.normalized_shape, elementwise_affine=False))
    return model


def moved_squares(symmetry: ContinuousSymmetry, p: Transformation, values: State) -> State:
    """Second moments after a rotation, as if gradients of units were uncorrelated."""
    moved = dict(values)
    for group in symmetry.groups:
        squares = p.matrices[group.name].square()
        for own in group.members:
            moved[own.key] = multiplied(moved[own.key].double(), own.axes, own.index, squares)
    return moved


def averaged(values: State) -> State:
    """Second moments with the mean of every entry, which no rotation changes."""
    return {key: x.mean().expand_as(x).clone() for key, x in values.items()}


Moments = tuple[State, State]
Carry = Callable[[ContinuousSymmetry, Transformation, Moments], Moments]
WAYS: Mapping[str, Carry] = {
    "both as they were": lambda _, __, own: own,
    "both reset": lambda _, __, own: ({}, {}),
    "first turned, second as it was": lambda s, p, own: (s.act(p, own[0]), own[1]),
    "first turned, second by squares": lambda s, p, own: (
        s.act(p, own[0]), moved_squares(s, p, own[1]),
    ),
    "first turned, second averaged": lambda s, p, own: (s.act(p, own[0]), averaged(own[1])),
}  # fmt: skip


def losses(
    model: nn.Module, optimizer: torch.optim.Adam, task: Task, steps: int, seed: int
) -> list[float]:
    x, y = task.halves[0]
    random, found = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        picked = torch.randint(len(x), (64,), generator=random)
        loss = functional.cross_entropy(model(x[picked]), y[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def rotation(symmetry: ContinuousSymmetry, seed: int) -> Transformation:
    """A random element whose matrices are all orthogonal."""
    drawn = symmetry.random(torch.Generator().manual_seed(seed))
    linear = {group.name for group in symmetry.only("linear").groups}
    turned = {n: torch.linalg.qr(x)[0] if n in linear else x for n, x in drawn.matrices.items()}
    return replace(drawn, matrices=turned)


def moments(seeds: int) -> None:
    task, found = vit(), {name: [[] for _ in AFTER] for name in WAYS}  # type: ignore[var-annotated]
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = plain()
        symmetry = dimat.find_continuous_symmetry(model, task.test[0][:4])
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        losses(model, optimizer, task, 300, seed)
        state, names = state_of(model), [name for name, _ in model.named_parameters()]
        first, second = (
            {n: optimizer.state[p][part] for n, p in zip(names, model.parameters(), strict=True)}
            for part in ("exp_avg", "exp_avg_sq")
        )
        turn, on = rotation(symmetry, seed), going_on(state, (first, second), task, seed)
        for name, carry in WAYS.items():
            moved = symmetry.apply(turn, state)
            other = going_on(moved, carry(symmetry, turn, (first, second)), task, seed)
            for k, steps in enumerate(AFTER):
                mean, bare = (statistics.fmean(x[:steps]) for x in (other, on))
                found[name][k].append(mean / bare)
    for name, own_ratios in found.items():
        shown = " | ".join(_spread(ratios) for ratios in own_ratios)
        print(f"| {name} | {shown} |", flush=True)


def going_on(state: State, own: Moments, task: Task, seed: int) -> list[float]:
    """Losses of a network that trains on from a state with some moments, from the next step on."""
    model = plain()
    model.load_state_dict(state)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for name, p in model.named_parameters():
        if own[0]:
            optimizer.state[p] = {
                "step": torch.tensor(300.0),
                "exp_avg": own[0][name].to(p.dtype).clone(),
                "exp_avg_sq": own[1][name].to(p.dtype).clone(),
            }
    return losses(model, optimizer, task, max(AFTER) + 1, seed + 1000)[1:]  # the first is equal


def _spread(values: list[float]) -> str:
    apart = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{apart}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one seed, one round")
    options = parser.parse_args()
    seeds, rounds = (1, ROUNDS[:2]) if options.small else (options.seeds, ROUNDS)
    print(f"moments: loss after {AFTER} steps relative to a network that was not turned")
    moments(seeds)
    print("frames")
    cycles(seeds, rounds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
