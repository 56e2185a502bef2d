"""On a GPU agents train, match, merge and go on as they do on the CPU, but for rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dimat
from dimat import RunConfig
from dimat.errors import Stopped
from dimat.experiment.config.config import DataConfig, OptimizerConfig
from dimat.experiment.setup import make_setup
from dimat.matching import Activations, Matcher, Problem, Weights
from dimat.merging import COMBINERS, recalibrate
from dimat.models import build_model
from dimat.state import State, state_of
from dimat.symmetry import Analysis, analyze

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DEVICE = "cuda"
CONFIG = RunConfig(
    agents=3,
    rounds=2,
    pretrain_epochs=2,
    controls=(),
    threads=1,
    data=DataConfig(split="iid", train_images=300),
    optimizer=OptimizerConfig("msgd", lr=0.02),
)


def network(seed: int) -> tuple[nn.Module, list[Tensor]]:
    """A small ResNet in float64 with the statistics of random images, and these, on the CPU."""
    torch.manual_seed(seed)
    model = build_model("resnet20", in_channels=3, num_classes=5, image_size=(8, 8), width=0.25)
    random = torch.Generator().manual_seed(0)
    batches = [torch.randn(64, 3, 8, 8, generator=random, dtype=torch.float64) for _ in range(2)]
    recalibrate(model.double(), batches)
    return model.eval(), batches


def on(device: str, state: Mapping[str, Tensor]) -> State:
    return {key: value.to(device) for key, value in state.items()}


def analyzed(device: str) -> tuple[Analysis, list[Tensor]]:
    model, batches = network(0)
    batches = [batch.to(device) for batch in batches]
    return analyze(model.to(device), (batches[0][:2],)), batches


@pytest.mark.parametrize("matcher", [Activations(), Weights()], ids=["activations", "weights"])
def test_a_permuted_copy_is_matched_back_and_merging_with_it_changes_nothing(
    matcher: Matcher,
) -> None:
    analysis, batches = analyzed(DEVICE)
    state = on(DEVICE, state_of(network(0)[0]))
    random = analysis.symmetry.random(torch.Generator().manual_seed(1))
    permuted = analysis.symmetry.apply(random, state)
    own, back = matcher.match(Problem(analysis, [state, permuted], [0.5, 0.5], batches))
    aligned = analysis.symmetry.apply(back.permutation, permuted)
    ours = analysis.symmetry.apply(own.permutation, state)
    for key, value in ours.items():
        assert aligned[key].device.type == DEVICE
        torch.testing.assert_close(aligned[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["average", "regression", "gram", "repair"])
def test_states_are_combined_to_what_they_are_on_the_cpu(name: str) -> None:
    found = []
    for device in ("cpu", DEVICE):
        analysis, batches = analyzed(device)
        states = [on(device, state_of(network(seed)[0])) for seed in (0, 1)]
        combined = COMBINERS[name].combine(analysis, states, [0.5, 0.5], batches)
        found.append({key: value.cpu() for key, value in combined.items()})
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet20"])
def test_steps_of_training_lead_to_where_they_do_on_the_cpu(model: str) -> None:
    """In float64: Adam turns the rounding of a gradient that is zero into a step."""
    found = []
    for device in ("cpu", DEVICE):
        config = replace(CONFIG, model=model, width=0.25, device=device)
        agent = make_setup(config).new_agent(0, pretraining=False)
        agent.model.double()
        agent._stream = ((x.double(), y) for x, y in agent._stream)
        for _ in range(5):
            agent.update(agent.gradient())
        found.append({key: value.cpu() for key, value in agent.state().items()})
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["dimat", "wa", "cdmsgd", "sgp", "cga"])
def test_a_run_stops_and_goes_on_and_ends_near_to_the_one_of_the_cpu(
    method: str, tmp_path: Path
) -> None:
    config = replace(CONFIG, method=method)
    there = replace(config, device=DEVICE, out=str(tmp_path / "gpu"), max_wall_s=1e-9)
    with pytest.raises(Stopped):
        dimat.run(there, False)
    again = dimat.resume(tmp_path / "gpu", False).main
    here = dimat.run(replace(config, out=str(tmp_path / "cpu")), False).main
    for ours, theirs in zip(again.agents, here.agents, strict=True):
        assert ours.trained == pytest.approx(theirs.trained, abs=0.05)
