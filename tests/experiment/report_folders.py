"""Run folders and comparisons made by hand, in the format that runs leave behind."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

AGENTS, CLASSES, STATE_BYTES = 5, 10, 40_000
GROUPS = ("0", "2", "4")
HEIGHTS = {"dimat": 0.78, "wa": 0.55, "local": 0.3, "cdsgd": 0.66}
Lines = list[dict[str, object]]


def ring(agents: int) -> dict[str, object]:
    pi = [[0.0] * agents for _ in range(agents)]
    for i, step in itertools.product(range(agents), (-1, 0, 1)):
        pi[i][(i + step) % agents] = 1 / 3
    edges = sorted({(min(i, (i + 1) % agents), max(i, (i + 1) % agents)) for i in range(agents)})
    return {
        "name": "ring",
        "agents": agents,
        "directed": False,
        "edges": [list(edge) for edge in edges],
        "pi": pi,
        "spectral_gap": 0.27,
    }


def one_peer(agents: int) -> dict[str, object]:
    """A directed topology that changes."""
    hops = [2**k for k in range(int(math.log2(agents)))]
    sequence = [
        [[0.5 * (j in (i, (i - hop) % agents)) for j in range(agents)] for i in range(agents)]
        for hop in hops
    ]
    return {
        "name": "one-peer-exponential",
        "agents": agents,
        "directed": True,
        "edges": [[(i - hop) % agents, i] for hop in hops for i in range(agents)],
        "pi": sequence[0],
        "spectral_gap": 1.0,
        "sequence": sequence,
    }


def shards(agents: int) -> dict[str, object]:
    skewed = [[140 * (c // 2 == a) for c in range(CLASSES)] for a in range(agents)]
    return {"classes": CLASSES, "pretrain": [[14] * CLASSES] * agents, "rounds": skewed}


def metrics(method: str, seed: int, rounds: int, agents: int = AGENTS) -> Lines:
    """Made-up lines of a run: deterministic, with every field."""
    rng = random.Random(f"{method} {seed}")
    merges, height = method in ("dimat", "wa"), HEIGHTS.get(method, 0.5)
    lines: Lines = []
    for number in range(rounds + 1):
        phases = ["merged", "trained"] if merges and number else ["trained"]
        for phase, agent in itertools.product(phases, range(agents)):
            steps = 40 + number - (phase == "merged")
            level = height - (height - 0.3) * math.exp(-number / 5)
            sends = method != "local" and number > 0
            lines.append(
                {
                    "round": number,
                    "agent": agent,
                    "phase": phase,
                    "test_accuracy": level + rng.uniform(-0.03, 0.03) - 0.15 * (phases[0] != phase),
                    "test_loss": 1.0,
                    "validation_accuracy": None,
                    "sent_bytes": 2 * STATE_BYTES * number * sends,
                    "received_bytes": 2 * STATE_BYTES * number * sends,
                    "match_s": 0.3 * (phase == "merged" and method == "dimat"),
                    "merge_s": 0.1 * (phase == "merged"),
                    "train_s": 0.8 * (phase == "trained"),
                    "steps": 18 * steps,
                    "epochs": float(steps),
                    "busy_s": 0.8 * steps + 0.3 * number * merges,
                }
            )
    return lines


def diagnostics(method: str, seed: int, rounds: int) -> Lines:
    rng = random.Random(f"{method} {seed} diagnostics")
    lines: Lines = []
    for number in range(1, rounds + 1):
        before = 4 * math.exp(-number / 6) + rng.uniform(0.9, 1.1)
        moved = {g: math.exp(1 - number) * rng.uniform(0.8, 1) for g in GROUPS}
        lines.append(
            {
                "round": number,
                "consensus_before": before,
                "consensus_after": before / 2,
                "contraction": 0.5,
                "units_moved": moved if method == "dimat" else None,
                "similarity": {g: 0.9 - 0.1 * moved[g] for g in GROUPS}
                if method == "dimat"
                else {},
            }
        )
    return lines


def classes(method: str, seed: int, lines: Lines, count: int = CLASSES) -> Lines:
    """Made-up lines of recall for lines of metrics; the last class has no test images."""
    rng = random.Random(f"{method} {seed} classes")
    return [
        {
            **{key: line[key] for key in ("round", "agent", "phase")},
            "recall": [round(rng.random(), 4) for _ in range(count - 1)] + [None],
        }
        for line in lines
    ]


def confusion(method: str, seed: int, number: int, count: int = CLASSES) -> dict[str, object]:
    rng = random.Random(f"{method} {seed} confusion")
    phases = ["merged", "trained"] if method in ("dimat", "wa") else ["trained"]
    counts = {
        phase: [
            [rng.randrange(1, 9) * 10 ** (i == j) * (i < count - 1) for j in range(count)]
            for i in range(count)
        ]
        for phase in phases
    }
    return {"round": number, **counts}


def write_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(
    folder: Path,
    method: str = "dimat",
    seed: int = 0,
    *,
    rounds: int = 4,
    recorded: int | None = None,
    settings: Mapping[str, object] | None = None,
    topology: Mapping[str, object] | None = None,
) -> Path:
    """A run folder; unfinished if ``recorded``, the last round on disk, is below ``rounds``."""
    folder.mkdir(parents=True)
    last = rounds if recorded is None else recorded
    lines = metrics(method, seed, last)
    config = {"rounds": rounds, "method": method, "seed": seed, "controls": [], **(settings or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {"python": "3.11.7", "torch": "2.13.0", "cpu": "a CPU", "gpu": None}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "topology.json").write_text(json.dumps(topology or ring(AGENTS)))
    (folder / "shards.json").write_text(json.dumps(shards(AGENTS)))
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(folder / "classes.jsonl", classes(method, seed, lines))
    if method in ("dimat", "wa"):
        write_lines(folder / "diagnostics.jsonl", diagnostics(method, seed, last))
    if last == rounds:
        (folder / "confusion.json").write_text(json.dumps(confusion(method, seed, last)))
        (folder / "summary.json").write_text(json.dumps(summary(method, seed, lines)))
    return folder


def summary(method: str, seed: int, lines: Lines) -> dict[str, object]:
    number = max(int(str(line["round"])) for line in lines)
    own = [line for line in lines if line["round"] == number]
    last = [x for x in own if x["phase"] == "merged"] or own
    accuracies = [float(str(x["test_accuracy"])) for x in last]
    return {
        "method": method,
        "test_accuracy_mean": sum(accuracies) / len(accuracies),
        "test_accuracy_min": min(accuracies),
        "rounds": number,
        "sent_bytes": sum(int(str(x["sent_bytes"])) for x in own if x["phase"] == "trained"),
        "seed": seed,
    }


def make_comparison(
    folder: Path,
    *,
    methods: Sequence[str] = ("dimat", "wa", "local"),
    seeds: Sequence[int] = (0, 1, 2),
    grid: Mapping[str, Sequence[object]] | None = None,
    rounds: int = 4,
    begun: int | None = None,
) -> Path:
    """A comparison folder; of its cells only the first ``begun`` are there."""
    grid = grid or {}
    spec = {"digest": "0", "methods": list(methods), "seeds": list(seeds), "grid": dict(grid)}
    (folder / "cells").mkdir(parents=True)
    (folder / "comparison.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    points = itertools.product(*grid.values())
    for point, seed in list(itertools.product(points, seeds))[:begun]:
        chosen = dict(zip(grid, point, strict=True))
        cell = folder / "cells" / ",".join(f"{k}={v}" for k, v in {**chosen, "seed": seed}.items())
        main, *controls = methods
        settings = {**_grouped(chosen), "controls": controls}
        make_run(cell, main, seed, rounds=rounds, settings=settings)
        for method in controls:
            own = {**settings, "controls": []}
            make_run(cell / "controls" / method, method, seed, rounds=rounds, settings=own)
    return folder


def _grouped(settings: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in settings.items():
        group, _, last = name.rpartition(".")
        found |= {group: {last: value}} if group else {name: value}
    return found
