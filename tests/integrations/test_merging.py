"""What the callbacks of all trainers share."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.exchange.threads import loopback
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import dimat
from dimat.errors import ConfigError, DataError
from dimat.integrations.merging import Merging, refuse_more_processes, samples


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    """Settings of an agent whose neighbor is not there."""
    host = loopback()
    peers = tmp_path / "peers.yaml"
    peers.write_text(f'0: {{address: "{host}:7466"}}\n1: {{address: "{host}:7467"}}\n')
    return {"id": 0, "agents": 2, "peers": peers, "insecure": True, "topology": "full"}


def network() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), nn.Softmax(1))


LOADER = DataLoader(TensorDataset(torch.randn(20, 3)), batch_size=5)


def test_samples_are_mixed_and_leave_the_loaders_own_order_alone() -> None:
    data = [{"x": torch.tensor([float(k)]), "labels": k} for k in range(20)]

    def loader() -> DataLoader[Any]:
        own = torch.Generator().manual_seed(3)
        return DataLoader(data, batch_size=6, shuffle=True, generator=own)  # type: ignore[arg-type]

    used = loader()
    found = list(samples(used, ["labels"]))
    assert [set(batch) for batch in found] == [{"x"}] * 4
    values = torch.cat([batch["x"] for batch in found]).flatten().tolist()
    assert sorted(values) == list(range(20)) != values
    for seen, expected in zip(used, loader(), strict=True):
        assert seen["labels"].equal(expected["labels"])


def test_samples_of_a_stream_come_in_its_order() -> None:
    class Stream(IterableDataset[float]):
        def __iter__(self) -> Any:
            return iter([1.0, 2.0, 3.0])

    found = list(samples(DataLoader(Stream(), batch_size=2)))
    assert [batch.tolist() for batch in found] == [[1, 2], [3]]


def test_a_loader_without_a_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="is a list, which has no 'dataset'; give 'calibration'"):
        list(samples([torch.zeros(2)]))


def test_settings_are_those_of_an_agent() -> None:
    with pytest.raises(ConfigError, match="'evry', which is unknown.*every"):
        Merging(None, None, {"evry": 2})
    with pytest.raises(ConfigError, match="'hook', which is unknown"):
        Merging(None, None, {"hook": True})


def test_several_processes_of_one_model_are_refused() -> None:
    refuse_more_processes(1)
    with pytest.raises(ConfigError, match="runs on 3 processes.*without torchrun"):
        refuse_more_processes(3)


def test_the_agent_is_of_a_part_and_of_the_optimizer_inside_of_wrappers(
    place: dict[str, Any],
) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    own = Merging(None, "0", place)
    own._begin(model, SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer)), LOADER, None)
    try:
        assert own.agent is not None
        assert own.agent.model is model[0]  # type: ignore[index]
        assert own.agent._followers.optimizer is optimizer
    finally:
        own._end()


def test_a_part_that_is_not_there_is_refused_before_anybody_listens(place: dict[str, Any]) -> None:
    own = Merging(None, "body", place)
    with pytest.raises(ConfigError, match="'part' is 'body'.*no such submodule; its parts: 0, 1"):
        own._begin(network(), None, LOADER, None)
    assert own.agent is None


def test_an_agent_goes_on_from_its_state_and_one_that_cannot_says_goodbye(
    place: dict[str, Any],
) -> None:
    model = network()
    first = Merging(None, None, place)
    first._begin(model, None, LOADER, None)
    assert first.agent is not None
    first.agent.rounds, first.agent._steps = 3, 7
    saved = first.agent.state_dict()
    first._end()

    second = Merging(None, None, place)
    with pytest.raises(ConfigError, match="no state of an agent"):
        second._begin(model, None, LOADER, {"rounds": 1})
    second._begin(model, None, LOADER, saved)  # at an address that is free again
    assert second.agent is not None
    assert second.agent.state_dict() == saved
    second._end()


def test_a_transformers_checkpoint_holds_the_agents_state_as_text(place: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    from dimat.integrations.transformers import _read, _written

    kept = {"outer": {"0.weight": torch.randn(3, 4).t(), "0.bias": torch.randn(3)}}
    state = {"steps": 4, "rounds": 2, "gauge": (1, 2), "kept": kept, "presence": {}}
    found = _read(json.loads(json.dumps(_written(state))))
    torch.testing.assert_close(found.pop("kept"), state.pop("kept"), rtol=0, atol=0)
    assert found == {**state, "gauge": [1, 2]}


def test_a_trainer_that_resumes_without_the_callbacks_entry_can_save_it(
    place: dict[str, Any],
) -> None:
    pytest.importorskip("transformers")
    from dimat.integrations.transformers import MergeCallback

    arguments = SimpleNamespace(
        world_size=1, restore_callback_states_from_checkpoint=False, label_names=None
    )
    state = SimpleNamespace(stateful_callbacks={})
    given = {"model": network(), "optimizer": None, "train_dataloader": LOADER}
    own = MergeCallback(**place)
    own.on_train_begin(arguments, state, None, **given)
    own.on_step_end(arguments, state, None, **given)
    saved = own.state()["attributes"]["saved"]
    own.on_train_end(arguments, state, None, **given)
    assert list(state.stateful_callbacks) == ["MergeCallback"]
    assert saved["steps"] == 1


def test_transformers_restoring_of_callbacks_is_refused() -> None:
    pytest.importorskip("transformers")
    from dimat.integrations.transformers import MergeCallback

    given = SimpleNamespace(world_size=1, restore_callback_states_from_checkpoint=True)
    with pytest.raises(ConfigError, match="leave it False"):
        MergeCallback().on_train_begin(given, None, None)


def test_a_lightning_module_with_two_optimizers_is_refused() -> None:
    pytest.importorskip("lightning")
    from dimat.integrations.lightning import MergeCallback

    with pytest.raises(ConfigError, match="2 optimizers, and an agent follows one"):
        MergeCallback().on_train_start(SimpleNamespace(world_size=1, optimizers=[1, 2]), None)


def test_an_agent_in_accelerates_loop_counts_optimizer_steps_and_is_in_its_checkpoints(
    place: dict[str, Any], tmp_path: Path
) -> None:
    """With the lines of docs/integrations.md."""
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    plain = network()
    model, optimizer, loader = accelerator.prepare(
        plain, torch.optim.Adam(plain.parameters()), LOADER
    )
    inner = accelerator.unwrap_model(model)
    with dimat.Agent(
        inner, optimizer.optimizer, calibration=loader, hook=True, every=100, **place
    ) as agent:
        accelerator.register_for_checkpointing(agent)
        for (inputs,) in loader:  # four batches, two steps
            with accelerator.accumulate(model):
                accelerator.backward(model(inputs).square().sum())
                optimizer.step()
                optimizer.zero_grad()
        saved = agent.state_dict()
        assert saved["steps"] == 2
        agent.rounds = saved["rounds"] + 5
        accelerator.save_state(str(tmp_path / "state"))
        agent.rounds, agent._steps = 0, 0
        accelerator.load_state(str(tmp_path / "state"))
        assert agent.state_dict() == {**saved, "rounds": 5}
