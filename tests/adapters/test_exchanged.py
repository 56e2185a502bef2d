"""Agents that exchange what they train, and nothing else: entries, bytes, bases, unit orders."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.nets import factory, net, own_base
from tests.exchange.threads import LONG_S, peers_file, together, until
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

import dimat
from dimat.errors import ConfigError, ModelError, Stopped
from dimat.exchange import Traffic
from dimat.exchange.in_process import run_all
from dimat.exchange.network.link import Status
from dimat.experiment.config.config import ExchangeConfig, MergingConfig, RunConfig
from dimat.experiment.given import Given
from dimat.experiment.handshake import handshake
from dimat.experiment.setup import Setup, make_setup
from dimat.methods import METHODS
from dimat.methods.rounds.dimat import Dimat
from dimat.state import num_bytes, state_of
from dimat.symmetry import Analysis, analyze
from dimat.testing.agents import SmallNetwork
from dimat.topology import build_topology
from dimat.training.exchanged import frozen_entries, trained_keys

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
TRAINED = {
    *(f"{layer}.lora_{side}.weight" for layer in ("first", "second") for side in "AB"),
    *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
    *("head.weight", "head.bias"),
}
PART = ExchangeConfig(what="trainable")
CONFIG = RunConfig(
    agents=3, rounds=2, pretrain_epochs=0, local_steps=2, threads=1, controls=(), exchange=PART
)


class Buffers(nn.Module):
    """A parameter, a constant, a buffer that is written in place, and one that is replaced."""

    scale: Tensor
    written: Tensor
    replaced: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.scale * self.layer(x)
        if self.training:
            self.written.mul_(0.0)  # the same value is written, too
            self.replaced = self.replaced + 0.0
        return found


def analysis(model: nn.Module) -> Analysis:
    x = X.to(next(model.parameters()).dtype)
    return analyze(model, (x[:2],), frozen=frozen_entries(model, trained_keys(model, (x,))))


def test_trained_are_parameters_with_gradients_and_buffers_that_a_pass_writes() -> None:
    model = net(0)
    before = state_of(model)
    assert trained_keys(model, (X,)) == TRAINED
    assert_close(state_of(model), before, rtol=0, atol=0)
    buffers = Buffers()
    assert trained_keys(buffers, (X,)) == {
        *("layer.weight", "layer.bias", "written", "replaced"),
    }


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_that_stays_in_eval_mode_is_frozen(training: bool) -> None:
    model = net(0).train(training)
    model.norm.eval()
    model.norm.train = lambda mode=True: model.norm  # type: ignore[method-assign,assignment,misc]
    found = trained_keys(model, (X,))
    assert found == {key for key in TRAINED if not key.startswith("norm")}
    assert model.training == training


def test_batch_norm_in_eval_mode_in_a_model_in_training_mode_is_frozen() -> None:
    model = net(0).train()
    model.norm.eval()
    assert not any(key.startswith("norm") for key in trained_keys(model, (X,)))
    assert not model.norm.training


def test_a_model_of_which_nothing_is_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter of the model requires a gradient"):
        trained_keys(net(0).requires_grad_(False), (X,))


# --- the symmetry of a part ---------------------------------------------------------------------


def test_ranks_of_adapters_are_free_and_units_of_the_frozen_base_are_pinned() -> None:
    model = net(0).double().eval()
    found = analysis(model)
    assert {g.members for g in found.symmetry.groups} == {
        ((f"{layer}.lora_A.weight", 0), (f"{layer}.lora_B.weight", 1))
        for layer in ("first", "second")
    }
    whole = analyze(model, (X[:2].double(),)).symmetry
    assert any(("first.base.weight", 0) in g.members for g in whole.groups)
    part = state_of(model, TRAINED)
    moved = found.symmetry.apply(found.symmetry.random(torch.Generator().manual_seed(1)), part)
    assert not torch.equal(moved["first.lora_A.weight"], part["first.lora_A.weight"])
    x = X.double()
    assert_close(functional_call(model, moved, (x,)), model(x))


def test_units_among_which_the_frozen_base_makes_no_difference_stay_free() -> None:
    """A base of zeros pins nothing: its units are all alike."""
    model = net(0)
    for layer in (model.first.base, model.second.base):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    members = {member for group in analysis(model).symmetry.groups for member in group.members}
    assert {("first.lora_B.weight", 0), ("head.weight", 1)} <= members


@pytest.mark.parametrize("method", ["dimat", "wm"])
def test_adapters_in_another_order_of_ranks_come_back(method: str) -> None:
    """Matching runs the frozen base as well, which no state brings along."""
    model = net(0).double().eval()
    found = analysis(model)
    state = state_of(model, TRAINED)
    move = found.symmetry.random(torch.Generator().manual_seed(3))
    states = [state, found.symmetry.apply(move, state)]
    small = SmallNetwork(model, found)
    names = [name for name in small.parameters if name in TRAINED]
    members = small.members(states, build_topology("full", 2).at(0))
    members = [replace(me, parameters=names, batches=lambda: [X.double()]) for me in members]
    own = Dimat("pairwise") if method == "dimat" else METHODS[method]()
    results = run_all([own.merge(me) for me in members], [Traffic(), Traffic()])
    for result, before in zip(results, states, strict=True):
        assert_close(result.state, before)


# --- runs ---------------------------------------------------------------------------------------


def setup_of(config: RunConfig, model: Any = factory) -> Setup:
    given = f"{model.__module__}:{model.__name__}"
    return make_setup(replace(config, model=given), given=Given())


def test_a_run_sends_what_is_trained_and_keeps_the_base(tmp_path: Path) -> None:
    result = dimat.run(
        replace(CONFIG, method="wa", model="tests.adapters.nets:factory", out=str(tmp_path / "a"))
    )
    setup = setup_of(CONFIG)
    part = num_bytes(state_of(setup.new_model(0), setup.exchanged))
    assert setup.exchanged == TRAINED
    assert result.main.summary["sent_bytes"] == 3 * CONFIG.rounds * 2 * part
    base = frozen_entries(setup.new_model(0), setup.exchanged)
    for i in range(3):
        written = dimat.state.load_state(tmp_path / "a" / "states" / f"agent-{i:03d}.safetensors")
        assert {k: written[k] for k in base}.keys() == base.keys()
        assert_close({k: written[k] for k in base}, base, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["wm", "final-merge", "fedavg", "diloco", "noloco"])
def test_every_method_of_rounds_exchanges_parts(tmp_path: Path, method: str) -> None:
    result = dimat.run(
        replace(CONFIG, method=method, model="tests.adapters.nets:factory", out=str(tmp_path / "a"))
    )
    setup = setup_of(CONFIG)
    base = num_bytes(frozen_entries(setup.new_model(0), setup.exchanged))
    assert result.main.summary["sent_bytes"] > 0  # type: ignore[operator]
    for agent in range(3):
        state = dimat.state.load_state(tmp_path / "a" / "states" / f"agent-{agent:03d}.safetensors")
        assert num_bytes({k: v for k, v in state.items() if k not in TRAINED}) == base


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = replace(CONFIG, method="wa", model="tests.adapters.nets:factory", rounds=3)
    dimat.run(replace(config, out=str(tmp_path / "a")))
    with pytest.raises(Stopped):
        dimat.run(replace(config, out=str(tmp_path / "b"), max_wall_s=1e-6))
    while True:
        try:
            dimat.resume(tmp_path / "b")
            break
        except Stopped:
            pass
    for i in range(3):
        whole, parts = (
            dimat.state.load_state(tmp_path / run / "states" / f"agent-{i:03d}.safetensors")
            for run in "ab"
        )
        assert_close(parts, whole, rtol=0, atol=0)


def test_bases_that_differ_are_refused_before_anything_is_trained() -> None:
    setup = setup_of(CONFIG, own_base)
    setup.new_agent(0, pretraining=True)
    with pytest.raises(ModelError, match="agents 0 and 1 have different frozen .* bases differ"):
        setup.new_agent(1, pretraining=True)
    alike = setup_of(replace(CONFIG, init="shared"), own_base)
    alike.new_agent(1, pretraining=True)


def test_the_base_is_compared_by_digest_in_the_handshake() -> None:
    ours, theirs = (
        handshake(setup_of(replace(CONFIG, seed=seed, init="shared"), own_base), matches=False)
        for seed in (0, 1)
    )
    name = "frozen entries (the base)"
    assert ours[name] != theirs[name]
    whole = setup_of(replace(CONFIG, exchange=ExchangeConfig()))
    assert not {name, "exchange.what"} & handshake(whole, matches=False).keys()
    assert ours["exchange.what"] == "trainable"


def test_methods_that_exchange_while_they_train_and_fits_of_layers_are_refused() -> None:
    setup = setup_of(CONFIG)
    with pytest.raises(ConfigError, match="'exchange.what' is 'trainable': must be all with .*sgp"):
        setup.check_exchange("sgp", METHODS["sgp"]())
    with pytest.raises(ConfigError, match="'gram', which fits whole layers"):
        setup.check_exchange("dimat", Dimat(combine="gram"))
    setup.check_exchange("dimat", Dimat(combine="lora-product"))
    plain = replace(CONFIG, exchange=ExchangeConfig())
    with pytest.raises(ConfigError, match=r"'lora-aligned' is for low-rank adapters, and no entry"):
        make_setup(plain).check_exchange("dimat", Dimat(combine="lora-aligned"))


def test_shards_that_differ_are_averaged_where_the_rest_is_frozen() -> None:
    skewed = replace(CONFIG, data=replace(CONFIG.data, split="by-class"))
    assert setup_of(skewed).config.merging.combine == "average"
    whole = replace(skewed, exchange=ExchangeConfig())
    assert setup_of(whole).config.merging.combine == "gram"


@pytest.mark.parametrize("combine", ["average", "lora-aligned", "lora-product"])
def test_a_run_by_any_combiner_of_states_needs_no_graph_but_to_match(
    tmp_path: Path, combine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*given: object, **more: object) -> Analysis:
        raise AssertionError("a graph is asked for")

    monkeypatch.setattr("dimat.experiment.setup.analyze", none)
    config = replace(
        CONFIG,
        method="wa",
        method_options=(f"combine={combine}",),
        model="tests.adapters.nets:factory",
        out=str(tmp_path / "a"),
    )
    dimat.run(config)
    monkeypatch.undo()
    matched = replace(
        config,
        method="dimat",
        method_options=(),
        merging=MergingConfig(combine=combine),
        out=str(tmp_path / "b"),
    )
    dimat.run(matched)


# --- agents in processes of their own -------------------------------------------------------------


ONE_AT_A_TIME = threading.Lock()  # a model is traced: that is for one thread


def agent(folder: Path, name: str, id: int, model: nn.Module, **more: Any) -> dimat.Agent:
    settings: dict[str, Any] = {"every": 1, "insecure": True, "timeout_s": LONG_S, **more}
    with ONE_AT_A_TIME:
        return dimat.Agent(
            model,
            None,
            calibration=[X],
            id=id,
            agents=2,
            topology="full",
            peers=peers_file(folder, 2, name),
            exchange="trainable",
            recalibration="none",
            **settings,
        )


@pytest.mark.parametrize("method", ["wa", "dimat", "wm"])
def test_agents_exchange_what_they_train(tmp_path: Path, method: str) -> None:
    models = [net(seed) for seed in range(2)]
    before = [state_of(model) for model in models]

    def part(i: int) -> None:
        with agent(tmp_path, method, i, models[i], method=method) as own:
            found = own.step()
            assert found is not None
            assert found.incidents == ()
            size = num_bytes({key: before[i][key] for key in TRAINED})
            assert size <= own.traffic.sent_bytes <= size + 24

    together([lambda i=i: part(i) for i in range(2)])
    for model, old in zip(models, before, strict=True):
        base = frozen_entries(model, TRAINED)
        assert_close(base, {key: old[key] for key in base}, rtol=0, atol=0)
    if method != "dimat":  # whose agents come into one order first
        mean = (before[0]["head.weight"] + before[1]["head.weight"]) / 2
        assert_close(models[0].head.weight.detach(), mean)


def test_agents_on_different_bases_refuse_each_other(tmp_path: Path) -> None:
    with (
        agent(tmp_path, "bases", 0, net(0, base=0), method="wa") as first,
        agent(tmp_path, "bases", 1, net(0, base=1), method="wa"),
    ):
        link = first._neighborhood._endpoint.to(1)
        until(lambda: link.status is Status.DIFFERS)
        assert "'frozen entries (the base)' is of digest" in link.why
