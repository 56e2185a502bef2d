"""A run, end to end: repeatable, complete, and honest about what it compares."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dimat
from dimat import RunConfig
from dimat.data import normalize
from dimat.errors import ConfigError, TrainingError
from dimat.experiment.config.config import (
    DataConfig,
    LossConfig,
    MatchingConfig,
    MergingConfig,
    OptimizerConfig,
    RecalibrationConfig,
    TopologyConfig,
)
from dimat.experiment.config.parse import load_config
from dimat.experiment.record.summary import best_round
from dimat.merging import COMBINERS, AdapterCombiner
from dimat.methods import METHODS, Method, RoundContext, RoundResult
from dimat.methods.messages import swap_states
from dimat.tasks import Metric
from dimat.training.trainer import LocalTrainer

SMALL = RunConfig(
    agents=4, rounds=2, pretrain_epochs=2, width=0.25, threads=1, topology=TopologyConfig("star")
)
TIMES = ("match_s", "merge_s", "train_s", "wall_s", "busy_s", "metrics_sha256")


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines(folder)]


@pytest.mark.slow  # test_all_methods has it of every method but local
@pytest.mark.parametrize("method", ["dimat", "wa", "local"])
def test_the_same_config_gives_the_same_metrics(tmp_path: Path, method: str) -> None:
    config = replace(SMALL, method=method, controls=(), model="cnn")
    for name in ("a", "b"):
        dimat.run(replace(config, out=str(tmp_path / name)))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def test_a_written_config_runs_again_to_the_same_metrics(tmp_path: Path) -> None:
    first = dimat.run(replace(SMALL, controls=(), out=str(tmp_path / "a")))
    again = replace(load_config(first.folder / "config.yaml"), out=str(tmp_path / "b"))
    assert timeless(dimat.run(again).folder) == timeless(first.folder)


def test_a_control_gives_the_metrics_that_its_own_run_gives(tmp_path: Path) -> None:
    beside = dimat.run(replace(SMALL, out=str(tmp_path / "a")))
    alone = dimat.run(replace(SMALL, method="wa", controls=(), out=str(tmp_path / "b")))
    assert timeless(beside.folder / "controls" / "wa") == timeless(alone.folder)


class Returning(Method):
    """A merge that returns no result."""

    exchanges = "rounds"

    def merge(self, me: RoundContext) -> Any:
        yield from swap_states(me, None)
        return me.state


class Unyielding(Method):
    """A merge that is no generator."""

    exchanges = "rounds"

    def merge(self, me: RoundContext) -> Any:
        return RoundResult(me.state)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Returning, "Returning.merge returns what is of type dict: must return a RoundResult"),
        (Unyielding, "Unyielding.merge is no generator, .* RoundResult: it must yield its steps"),
    ],
)
def test_a_merge_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Method], said: str
) -> None:
    monkeypatch.setitem(METHODS, "mine", kind)
    quick = replace(SMALL, agents=2, rounds=1, pretrain_epochs=0, topology=TopologyConfig("ring"))
    with pytest.raises(ConfigError, match=said):
        dimat.run(quick, method="mine", controls=(), out=str(tmp_path / "run"), progress=False)
    with pytest.raises(
        ConfigError, match=rf"must be its name or an object of it, .* {kind.__name__}\(\)"
    ):
        dimat.run(quick, method=kind, out=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("split", "loss", "combine"),
    [("by-class", ("adjusted", 0.1), "gram"), ("iid", ("plain", 0), "average")],
)
def test_what_auto_came_to_is_recorded(
    tmp_path: Path, split: str, loss: tuple[str, float], combine: str
) -> None:
    given = {"merging.combine": "average", "topology.mixing": "uniform", "loss.distill": 0.5}
    quick = replace(SMALL, agents=2, rounds=1, pretrain_epochs=1, topology=TopologyConfig("ring"))
    quick = replace(quick, data=DataConfig(split=split), controls=("local",))
    left = dimat.run(quick, out=str(tmp_path / "left")).folder
    chosen = {
        "topology.mixing": "metropolis",
        "loss.logits": loss[0],
        "loss.distill": loss[1],
        "matching.gauge": "spread",
        "merging.combine": combine,
    }
    assert json.loads((left / "chosen.json").read_text()) == chosen
    del chosen["matching.gauge"]  # of a method that matches
    assert json.loads((left / "controls/local/chosen.json").read_text()) == chosen
    said = {**given, "matching.gauge": "tree", "loss.logits": "plain"}
    folder = dimat.run(quick, out=str(tmp_path / "said"), **said).folder
    assert not (folder / "chosen.json").exists()


def test_a_run_folder_is_complete(tmp_path: Path) -> None:
    result = dimat.run(replace(SMALL, out=str(tmp_path / "run")))
    folder = tmp_path / "run"
    assert result.folder == folder
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    states = {f"states/agent-00{i}.safetensors" for i in range(4)}
    own = {"config.yaml", "environment.json", "metrics.jsonl", "summary.json"} | states
    assert own <= names
    assert {f"controls/{c}/{n}" for c in ("wa", "local") for n in own} <= names
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == pytest.approx(dict(result.main.summary))
    merged = [
        x["test_accuracy"] for x in lines(folder) if x["round"] == 2 and x["phase"] == "merged"
    ]
    assert summary["test_accuracy_mean"] == pytest.approx(sum(merged) / 4)
    assert summary["test_accuracy_min"] == min(merged)
    phases = {"start": (0, "trained"), "merged": (2, "merged"), "trained": (2, "trained")}
    for name, when in phases.items():
        own = [x["test_accuracy"] for x in lines(folder) if (x["round"], x["phase"]) == when]
        assert summary[f"{name}_accuracy_mean"] == pytest.approx(sum(own) / 4)


def test_every_agent_has_a_line_per_round_and_phase(tmp_path: Path) -> None:
    dimat.run(replace(SMALL, controls=(), out=str(tmp_path / "run")))
    found = [(x["round"], x["agent"], x["phase"]) for x in lines(tmp_path / "run")]
    rounds = [(r, a, p) for r in (1, 2) for p in ("merged", "trained") for a in range(4)]
    assert sorted(found) == sorted([*((0, a, "trained") for a in range(4)), *rounds])


def test_bytes_are_one_state_per_edge_and_direction_a_round(tmp_path: Path) -> None:
    config = replace(SMALL, method="wa", controls=(), out=str(tmp_path / "run"))
    result = dimat.run(config)
    state = (tmp_path / "run/states/agent-000.safetensors").stat().st_size
    sent = {x["agent"]: x["sent_bytes"] for x in lines(tmp_path / "run") if x["round"] == 2}
    assert sent[0] == 3 * sent[1]  # the hub of a star of 4
    assert sent[1] == pytest.approx(2 * state, rel=0.1)
    assert result.main.summary["sent_bytes"] == sum(sent.values())


def test_agents_evaluate_every_other_round_and_in_the_last(tmp_path: Path) -> None:
    config = replace(SMALL, rounds=3, eval_every=2, controls=(), out=str(tmp_path / "run"))
    dimat.run(config)
    assert {x["round"] for x in lines(tmp_path / "run")} == {0, 2, 3}


def test_matching_and_recalibration_see_only_the_agents_own_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[torch.Tensor]] = {}
    original = LocalTrainer.calibration

    def watch(self: LocalTrainer, purpose: int, number: int, images: int) -> Any:
        batches = original(self, purpose, number, images)
        seen.setdefault(self.index, []).extend(batches)
        own, _ = self.shard._train
        known = {x.numpy().tobytes() for x in normalize(own)}
        for batch in batches:
            assert {x.numpy().tobytes() for x in batch} <= known
        return batches

    monkeypatch.setattr(LocalTrainer, "calibration", watch)
    matching = MatchingConfig(gauge="pairwise")
    config = replace(SMALL, model="cnn", controls=("wa",), matching=matching)
    dimat.run(replace(config, out=str(tmp_path / "run")))
    assert set(seen) == {0, 1, 2, 3}


def test_with_one_agent_every_method_is_local_training(tmp_path: Path) -> None:
    config = replace(SMALL, agents=1, topology=TopologyConfig("ring"))
    trained = {}
    for method in ("dimat", "wa", "local"):
        run = replace(config, method=method, controls=(), out=str(tmp_path / method))
        trained[method] = dimat.run(run).main.agents[0].trained
    assert trained["dimat"] == trained["wa"] == trained["local"]


def test_from_a_shared_init_averaging_works_and_is_recalibrated_too(tmp_path: Path) -> None:
    config = replace(
        SMALL,
        init="shared",
        method="wa",
        controls=(),
        model="cnn",
        pretrain_epochs=4,
        data=DataConfig(split="iid"),
        recalibration=RecalibrationConfig(images=200),
        optimizer=OptimizerConfig(name="msgd", lr=0.05),
    )
    result = dimat.run(replace(config, out=str(tmp_path / "run")))
    assert float(str(result.main.summary["test_accuracy_mean"])) > 0.5


@pytest.mark.parametrize("name", ["sgd", "msgd", "adam", "adamw"])
@pytest.mark.parametrize("on_merge", ["keep", "mix", "reset"])
def test_every_optimizer_goes_through_a_gauge_change(
    tmp_path: Path, name: str, on_merge: Any
) -> None:
    optimizer = OptimizerConfig(name=name, lr=1e-3, schedule="cosine", on_merge=on_merge)
    config = replace(SMALL, rounds=1, controls=(), optimizer=optimizer)
    assert dimat.run(replace(config, out=str(tmp_path / "run"))).main.agents


def test_mixing_optimizer_memories_triples_the_bytes_of_adam(tmp_path: Path) -> None:
    for method in ("wa", "dimat"):
        sent = {}
        for on_merge in ("keep", "mix"):
            optimizer = OptimizerConfig(on_merge=on_merge)  # type: ignore[arg-type]
            config = replace(SMALL, method=method, controls=(), optimizer=optimizer)
            config = replace(config, merging=MergingConfig("average"))
            result = dimat.run(replace(config, out=str(tmp_path / f"{method}-{on_merge}")))
            sent[on_merge] = int(str(result.main.summary["sent_bytes"]))
        assert sent["mix"] / sent["keep"] == pytest.approx(3, rel=0.04)


def test_pooled_statistics_cost_bytes_in_the_first_round_alone(tmp_path: Path) -> None:
    sent = {}
    for pooled in ("local", "pooled"):
        matching = MatchingConfig(gauge="tree", statistics=pooled)  # type: ignore[arg-type]
        run = replace(SMALL, controls=(), matching=matching, out=str(tmp_path / pooled))
        dimat.run(run)
        sent[pooled] = [x["sent_bytes"] for x in lines(tmp_path / pooled) if x["phase"] == "merged"]
    extra = [b - a for a, b in zip(sent["local"], sent["pooled"], strict=True)]
    assert all(x > 0 for x in extra[:4])
    assert extra[4:] == extra[:4]


# Those for low-rank adapters go through runs of such models: tests/adapters.
ANY_MODEL = [name for name, own in COMBINERS.items() if not isinstance(own, AdapterCombiner)]


@pytest.mark.parametrize("combine", ANY_MODEL)
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_every_combiner_goes_through_a_run(tmp_path: Path, combine: str, model: str) -> None:
    config = replace(SMALL, controls=(), model=model, merging=MergingConfig(combine))
    result = dimat.run(replace(config, out=str(tmp_path / "run")))
    assert float(str(result.main.summary["test_accuracy_mean"])) > 0.1


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_written(
    tmp_path: Path,
) -> None:
    optimizer = OptimizerConfig(name="sgd", lr=1e30)
    config = replace(SMALL, pretrain_epochs=0, optimizer=optimizer, out=str(tmp_path / "run"))
    with pytest.raises(TrainingError, match="dimat, round 1, agent 0: the training loss is not"):
        dimat.run(config)
    assert {x["round"] for x in lines(tmp_path / "run")} >= {0}


def test_nothing_is_written_for_a_config_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        dimat.run(replace(SMALL, method="dimta", out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_the_best_round_is_chosen_on_validation_images() -> None:
    history = [
        {"round": r, "phase": "merged", "validation_accuracy": v, "test_accuracy": t}
        for r, v, t in ((1, 0.5, 0.9), (2, 0.8, 0.1), (3, 0.6, 0.95))
    ]
    assert best_round(history, "merged", Metric("accuracy")) == 2
    assert best_round(history, "merged", Metric("accuracy", higher_is_better=False)) == 1


@pytest.mark.slow
def test_on_the_demo_dimat_beats_averaging_and_training_alone(tmp_path: Path) -> None:
    """With every seed by far where nothing keeps agents from forgetting; else the mean of three."""
    plain = {"loss": LossConfig("plain"), "merging": MergingConfig("average")}
    for seed in range(3):
        own, *controls = accuracies(RunConfig(seed=seed, out=str(tmp_path / f"{seed}"), **plain))  # type: ignore[arg-type]
        assert own > max(controls) + 0.1
    found = [accuracies(RunConfig(seed=s, out=str(tmp_path / f"own-{s}"))) for s in range(3)]
    dimat_s, wa, local = (sum(values) / 3 for values in zip(*found, strict=True))
    assert dimat_s > wa + 0.1
    assert dimat_s > local + 0.005


def accuracies(config: RunConfig) -> list[float]:
    """Mean test accuracies of the method and its controls at the end of a run."""
    result = dimat.run(config)
    methods = (result.main, *result.controls)
    return [float(str(own.summary["test_accuracy_mean"])) for own in methods]


def test_every_name_in_a_line_of_metrics_is_in_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/logging.md").read_text()
    table = page.partition("## What metrics say")[2].partition("## ")[0]
    told = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row[:60])}
    config = {"agents": 2, "rounds": 1, "controls": [], "data.train_images": 200}
    result = dimat.run(config, out=str(tmp_path / "run"), progress=False)
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert {name for line in lines for name in json.loads(line)} <= told
