"""What an agent does around a merge."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch

from dimat import RunConfig
from dimat.experiment import setup as setups
from dimat.experiment.config.config import OptimizerConfig
from dimat.experiment.evaluation import loss_barrier as barrier
from dimat.experiment.progress import Silent
from dimat.experiment.setup import make_setup
from dimat.merging import recalibrate
from dimat.methods import RoundResult
from dimat.methods.gauge import GaugeId
from dimat.training.trainer import RECALIBRATE

NORM = "blocks.0.norm1.running_var"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_statistics_are_those_of_the_arithmetic_it_is_evaluated_in(
    precision: Literal["float32", "bfloat16"],
) -> None:
    setup = make_setup(
        RunConfig(agents=2, model="resnet20", width=0.25, precision=precision, threads=1)
    )
    agent = setup.new_agent(0, pretraining=False, method="wa")
    expected, other = copy.deepcopy(agent.model), copy.deepcopy(agent.model)
    batches = agent.calibration(RECALIBRATE, 1, setup.config.recalibration.images)
    for model, half in ((expected, precision == "bfloat16"), (other, precision != "bfloat16")):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            recalibrate(model, batches)
    agent.recalibrate(1)
    assert torch.equal(agent.state()[NORM], expected.state_dict()[NORM])
    assert not torch.equal(agent.state()[NORM], other.state_dict()[NORM])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_so_are_those_of_a_network_halfway_between_neighbors(
    precision: Literal["float32", "bfloat16"],
) -> None:
    """And the agent is afterwards what it was, whatever happened."""
    setup = make_setup(
        RunConfig(agents=2, model="resnet20", width=0.25, precision=precision, threads=1)
    )
    agent, other = (setup.new_agent(i, pretraining=False) for i in (0, 1))
    before, state = agent.state(), other.state()
    found = barrier._loss(agent, state, setup.test, 500)
    assert all(torch.equal(value, before[key]) for key, value in agent.state().items())
    agent.load(state)
    with agent.autocast():
        recalibrate(agent.model, agent.calibration(RECALIBRATE, 0, 500))
    assert found == agent.evaluate(*setup.test)["loss"]
    agent.load(before)
    with pytest.raises(RuntimeError):
        barrier._loss(agent, state, (torch.zeros(1), torch.zeros(1)), 500)
    assert all(torch.equal(value, before[key]) for key, value in agent.state().items())


def test_what_a_merge_left_alone_stays() -> None:
    """Where nobody was heard the optimizer is not reset, and the unit order is the one before."""
    config = RunConfig(agents=2, threads=1, optimizer=OptimizerConfig("adam", on_merge="reset"))
    agent = make_setup(config).new_agent(0, pretraining=False, method="wa")
    agent.update(agent.gradient())
    agent.gauge = GaugeId(3, 1)
    me = agent.context(1)
    agent.take_over(me, RoundResult(me.state))
    assert agent.optimizer.state
    assert agent.gauge == GaugeId(3, 1)
    agent.take_over(me, RoundResult(me.state, disagreement=1.0, gauge=GaugeId(4, 1)))
    assert not agent.optimizer.state
    assert agent.gauge == GaugeId(4, 1)


@pytest.mark.parametrize("lacks", [True, False])
def test_bfloat16_on_a_cpu_without_its_instructions_is_told(
    lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(setups, "lacks_bfloat16", lambda: lacks)
    notes = list[str]()
    for precision, told in (("float32", False), ("bfloat16", lacks)):
        make_setup(RunConfig(agents=2, precision=precision), Told())  # type: ignore[arg-type]
        assert (setups.SLOW_BFLOAT16 in notes) == told
