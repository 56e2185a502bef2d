"""An agent in one's own loop: it merges as the methods do, and nobody waits for who is gone."""

from __future__ import annotations

import copy
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.analyses import analyze
from tests.exchange.threads import LONG_S, SOON_S, loopback, peers_file, together, until
from torch import Tensor, nn
from torch.testing import assert_close

import dimat
from dimat.checkpoints import batches as calls
from dimat.errors import ConfigError, ExchangeError, ModelError, StructureError, TopologyError
from dimat.exchange import Step, Talk
from dimat.merging import mix
from dimat.methods import Dimat, Method, RoundContext, RoundResult
from dimat.state import State, squared_distance, state_of
from dimat.topology import build_topology

IMAGES = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
ONE_AT_A_TIME = threading.Lock()  # a model is traced: that is for one thread
BATCHES = list(IMAGES.split(20))


def net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of addresses, one for each run."""
    return tmp_path_factory.mktemp("places")


def agent(
    places: Path, name: str, id: int, model: nn.Module, agents: int = 3, **more: Any
) -> dimat.Agent:
    optimizer = more.pop("optimizer", None)
    settings: dict[str, Any] = {"every": 1, "insecure": True, "timeout_s": LONG_S, **more}
    with ONE_AT_A_TIME:
        return dimat.Agent(
            model,
            optimizer,
            calibration=BATCHES,
            id=id,
            agents=agents,
            peers=peers_file(places, agents, name),
            **settings,
        )


def parameters(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_plain_averaging_gives_everyone_the_weighted_mean(places: Path) -> None:
    models = [net(i) for i in range(3)]
    before = [parameters(model) for model in models]
    pi = build_topology("full", 3).at(0).pi

    def part(i: int) -> None:
        with agent(places, "mean", i, models[i], method="wa", topology="full") as own:
            found = own.step()
            assert found is not None
            assert list(found.heard) == [j for j in range(3) if j != i]
            assert found.incidents == ()

    together([lambda i=i: part(i) for i in range(3)])
    for i, model in enumerate(models):
        for name, value in parameters(model).items():
            mean = sum(pi[i, j] * before[j][name].double() for j in range(3))
            assert_close(value.double(), mean, atol=1e-6, rtol=1e-5)


def test_statistics_travel_in_ones_own_loop_too(places: Path) -> None:
    """Of one network in two unit orders: the second moves into the first, and both stay what it is.

    It is fitted by Grams, so BatchNorm is not recalibrated: its statistics stay, too.
    """
    first, second = net(0).eval(), net(0).eval()
    symmetry = dimat.find_symmetry(first, BATCHES[0][:2])
    move = symmetry.random(torch.Generator().manual_seed(1))
    second.load_state_dict(symmetry.apply(move, state_of(first)))
    before = state_of(first)

    def part(i: int) -> None:
        method = Dimat("spread", combine="gram")
        with agent(places, "gram", i, (first, second)[i], 2, topology="full", method=method) as own:
            for _ in range(3):
                found = own.step()
                assert found is not None
                assert found.incidents == ()

    together([lambda i=i: part(i) for i in range(2)])
    orders = [before, symmetry.apply(move, before)]
    for model in (first, second):
        state = state_of(model)
        near = min(orders, key=lambda own: squared_distance(own, state, list(parameters(model))))
        assert_close(state, near, atol=1e-4, rtol=1e-4)
    assert_close(state_of(first), state_of(second), atol=1e-4, rtol=1e-4)


def test_an_optimizer_that_is_hooked_needs_no_other_line_in_the_loop(places: Path) -> None:
    def part(i: int) -> list[Any]:
        model = net(i)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        settings = {"method": "wa", "topology": "full", "every": 2}
        with agent(places, "hook", i, model, optimizer=optimizer, hook=True, **settings) as own:
            for step in range(5):
                model(BATCHES[0]).sum().backward()
                optimizer.step()
                assert own.rounds == (step + 1) // 2
            with pytest.raises(ConfigError, match="'hook' is True, so the optimizer counts"):
                own.step()
        optimizer.step()  # it has said goodbye: an optimizer as any other
        return [list(found.heard) for found in own.history]

    found = together([lambda i=i: part(i) for i in range(3)])
    assert found == [[[j for j in range(3) if j != i]] * 2 for i in range(3)]
    with pytest.raises(ConfigError, match="'hook' is True and 'optimizer' is None"):
        agent(places, "none", 0, net(0), agents=1, hook=True)


def test_the_time_of_recalibration_is_time_of_the_merge(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_time, original = threading.local(), calls.recalibrate

    def slow(*args: Any) -> bool:  # nothing else takes time
        own_time.now = getattr(own_time, "now", 0.0) + 5.0
        return original(*args)

    monkeypatch.setattr(calls, "recalibrate", slow)
    monkeypatch.setattr("time.perf_counter", lambda: getattr(own_time, "now", 0.0))

    def part(i: int) -> None:
        with agent(places, "busy", i, net(i), method="wa", topology="full") as own:
            found = own.exchange()
            assert (found.merge_s, own.traffic.busy_s) == (5.0, 5.0)

    together([lambda i=i: part(i) for i in range(3)])


def test_permuted_copies_of_one_network_come_into_one_order_and_stay_that_function(
    places: Path,
) -> None:
    models = [net(0) for _ in range(3)]
    symmetry = analyze(models[0], (IMAGES[:2],)).symmetry
    for i, model in enumerate(models):
        order = symmetry.random(torch.Generator().manual_seed(i))
        model.load_state_dict(symmetry.apply(order, state_of(model)))
        model.eval()
    # running statistics are recomputed, so that it is they that the function is compared under
    reference = net(0)
    dimat_recalibrate(reference)
    expected = reference.eval()(IMAGES)

    def part(i: int) -> Tensor:
        with agent(places, "copies", i, models[i], topology="ring") as own:
            for _ in range(3):
                own.step()
        out: Tensor = models[i].eval()(IMAGES)
        return out

    for out in together([lambda i=i: part(i) for i in range(3)]):
        assert_close(out, expected, atol=1e-5, rtol=1e-4)
    first, *others = [parameters(model) for model in models]
    for other in others:
        assert_close(other, first, atol=1e-5, rtol=1e-4)


def dimat_recalibrate(model: nn.Module) -> None:
    from dimat.merging import recalibrate

    recalibrate(model, BATCHES)


def test_the_optimizers_moments_move_with_the_units(places: Path) -> None:
    """A permuted copy that trains on is a permuted copy of what it would have been."""
    # without BatchNorm: a bias before it has a gradient of noise only, which Adam makes large
    plain = [module for module in net(0) if not isinstance(module, nn.BatchNorm1d)]
    models = [copy.deepcopy(nn.Sequential(*plain)) for _ in range(2)]
    symmetry = analyze(models[0], (IMAGES[:2],)).symmetry
    order = symmetry.random(torch.Generator().manual_seed(1))
    models[1].load_state_dict(symmetry.apply(order, state_of(models[1])))
    optimizers = [torch.optim.Adam(model.parameters(), 0.1) for model in models]
    targets = torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))

    def train(i: int) -> None:
        models[i].train()
        loss = nn.functional.cross_entropy(models[i](IMAGES), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[i].step()
        optimizers[i].zero_grad()

    def part(i: int) -> None:
        with agent(
            places, "moments", i, models[i], agents=2, topology="full", optimizer=optimizers[i]
        ) as own:
            for _ in range(3):
                train(i)
                own.step()
            train(i)

    together([lambda i=i: part(i) for i in range(2)])
    assert_close(parameters(models[1]), parameters(models[0]), atol=1e-4, rtol=1e-3)


def test_exchanges_are_at_every_so_many_steps(places: Path) -> None:
    models = [net(i) for i in range(2)]

    def part(i: int) -> list[bool]:
        with agent(places, "every", i, models[i], agents=2, every=3, topology="full") as own:
            return [own.step() is not None for _ in range(7)]

    assert (
        together([lambda i=i: part(i) for i in range(2)])
        == [[False, False, True, False, False, True, False]] * 2
    )


def test_who_leaves_is_not_waited_for(places: Path) -> None:
    models = [net(i) for i in range(3)]

    def part(i: int) -> list[list[int]]:
        with agent(places, "leaves", i, models[i], topology="full") as own:
            for _ in range(1 if i == 1 else 4):
                own.step()
            return [list(found.heard) for found in own.history]

    first, second, third = together([lambda i=i: part(i) for i in range(3)])
    assert second == [[0, 2]]
    assert first[0] == [1, 2]
    assert first[2:] == [[2], [2]]
    assert third[2:] == [[0], [0]]


def test_who_joins_late_takes_over_a_neighbors_state_and_who_kept_its_own_does_not(
    places: Path,
) -> None:
    models = [net(i) for i in range(3)]
    gone, back = threading.Event(), threading.Event()

    def stays(i: int) -> None:
        with agent(places, "late", i, models[i], topology="full", timeout_s=3.0) as own:
            own._neighborhood.await_neighbors([1 - i], SOON_S)
            for k in range(9):
                if k == 4:
                    gone.set()
                    assert back.wait(SOON_S)
                    own._neighborhood.await_neighbors([2], SOON_S)
                own.step()

    def comes() -> tuple[State, int, int]:
        assert gone.wait(SOON_S)
        before = parameters(models[2])
        with agent(places, "late", 2, models[2], topology="full", timeout_s=3.0) as own:
            own._neighborhood.await_neighbors([0, 1], SOON_S)
            back.set()
            own.step()
            return before, own.rounds, len(own.history)

    _, _, (before, rounds, exchanges) = together([lambda: stays(0), lambda: stays(1), comes])
    assert exchanges == 1
    assert rounds >= 4  # it goes on where the others are
    own, neighbor = parameters(models[2]), parameters(models[0])
    distance = lambda a, b: sum(float((a[k] - b[k]).square().sum()) for k in a)  # noqa: E731
    assert distance(own, neighbor) < 0.05 * distance(before, neighbor)


def test_an_agent_goes_on_from_its_state_dict(places: Path) -> None:
    models = [net(i) for i in range(2)]

    def part(i: int) -> tuple[int, Any]:
        with agent(places, "kept", i, models[i], agents=2, topology="full") as own:
            own.step()
            own.step()
            kept = own.state_dict()
        with agent(places, "kept again", i, models[i], agents=2, topology="full") as again:
            again.load_state_dict(kept)
            found = again.step()
            assert found is not None
            return found.round, again.state_dict()["gauge"]

    (first, ours), (second, theirs) = together([lambda i=i: part(i) for i in range(2)])
    assert first == second == 3
    assert ours == theirs
    assert ours[:2] == [0, 1]  # agent 0's order, of round 1


def test_a_model_that_diverged_is_not_sent(places: Path) -> None:
    model = net(0)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")  # type: ignore[index]
    with (
        agent(places, "diverged", 0, model, agents=2, topology="full", timeout_s=0.3) as own,
        pytest.raises(StructureError, match=r"agent 0, round 1, before the merge: '0\.weight'"),
    ):
        own.step()


def test_nothing_is_drawn_from_the_users_random_numbers(places: Path) -> None:
    data = torch.utils.data.TensorDataset(IMAGES, torch.zeros(60))
    loader = torch.utils.data.DataLoader(data, batch_size=20, shuffle=True)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    dimat.Agent(
        net(0),
        None,
        calibration=loader,
        id=0,
        agents=1,
        peers=peers_file(places, 1, "alone"),
        insecure=True,
        topology="ring",
    ).close()
    assert_close(torch.rand(3), expected)


def test_two_lives_of_one_agent_are_not_taken_for_each_other(places: Path) -> None:
    """Agent 0 ends after one exchange and comes back as a random network: it is not mixed."""
    models = [net(i) for i in range(4)]
    gone, back = threading.Event(), threading.Event()

    def stays(i: int) -> None:
        with agent(places, "lives", i, models[i], topology="full") as own:
            own.step()
            gone.wait(SOON_S)
            assert back.wait(SOON_S)
            until(lambda: not own._neighborhood.await_neighbors([0], SOON_S))
            found = own.step()
            assert found is not None
            assert 0 not in found.heard
            assert [x.what for x in found.incidents if x.agent == 0][-1:] == ["quiet"]

    def comes() -> None:
        with agent(places, "lives", 0, models[0], topology="full") as own:
            own.step()
        gone.set()
        with agent(places, "lives", 0, models[3], topology="full") as own:
            own._neighborhood.await_neighbors([1, 2], SOON_S)
            back.set()
            own.step()

    together([comes, lambda: stays(1), lambda: stays(2)])


def test_an_agent_that_said_goodbye_does_not_exchange(places: Path) -> None:
    own = agent(places, "goodbye", 0, net(0), agents=1)
    own.close()
    own.close()
    with pytest.raises(ExchangeError, match="agent 0 has said goodbye"):
        own.exchange()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.ReLU(), "the model's parameters are none"),
        (nn.Linear(6, 2).bfloat16(), "the model's parameters are torch.bfloat16: they must be"),
    ],
)
def test_a_model_that_cannot_be_mixed_soundly_is_refused(
    places: Path, model: nn.Module, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        agent(places, "models", 0, model)


def test_what_keeps_an_agent_from_its_neighbors_is_logged_as_a_warning(
    places: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process has its number, and lives."""
    with (
        agent(places, "here", 0, net(0), agents=2) as first,
        agent(places, "here", 1, net(1), agents=2) as second,
    ):
        for i, own in enumerate((first, second)):
            assert own._neighborhood.await_neighbors([1 - i], SOON_S) == []
        with agent(places, "here", 1, net(2), agents=2, listen=f"{loopback()}:0"):
            until(lambda: caplog.messages)
    why = "agent 1 is here already: two processes claim its number, stop one"
    assert caplog.messages[0] == f"agent 0 refuses us: twice: {why}"


def test_a_state_dict_of_something_else_is_refused(places: Path) -> None:
    with (
        agent(places, "state", 0, net(0), agents=1) as own,
        pytest.raises(ConfigError, match="no state of an agent: it lacks 'gauge'"),
    ):
        own.load_state_dict({})


def test_a_graph_that_varies_is_refused(places: Path) -> None:
    with pytest.raises(TopologyError, match="'one-peer-exponential' varies from round to round"):
        agent(places, "varies", 0, net(0), agents=4, topology="one-peer-exponential")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "'every' is 0: must be >= 1"),
        ({"precision": "bf16"}, "'precision' is 'bf16': must be 'float32' or 'bfloat16'"),
        ({"timeout_s": 0.0}, "'timeout_s' is 0.0: must be > 0 and finite"),
        ({"peers": 1234}, "'peers' is 1234: must be the path of peers.yaml"),
        ({"peers": "nowhere.yaml"}, "setting 'peers': nowhere.yaml cannot be read: "),
        ({"insecure": False}, "nothing says how to protect what agents say: give 'certificates'"),
        ({"certificates": "nowhere"}, "nowhere/key.pem"),
        ({"listen": "0.0.0.0:7400"}, "'insecure' is for agents on this machine alone, and 0.0.0.0"),
        ({"name": "St. Mary"}, "'name' is 'St. Mary': must be 1 to 40 of a-z"),
        ({"peers": None}, "nothing says where the other agents are: start with torchrun, or give"),
        ({"id": None}, "with 'peers' give 'id' and 'agents'"),
        ({"id": 3}, "'id' is 3: must be in 0 … 2"),
        ({"method": "fedavg"}, "'method' needs every message of every agent"),
        ({"method": "final-merge"}, "'method' does not exchange every so many steps"),
        ({"method": "local"}, "'method' does not exchange every so many steps"),
        ({"agents": 0}, "'agents' is 0: must be >= 1"),
        ({"method": "dimatt"}, "'method' is 'dimatt', which is unknown: did you mean 'dimat'"),
        ({"topology": build_topology("ring", 5)}, "'topology' is of 5 agents, and there are 3"),
    ],
)
def test_a_wrong_setting_is_named(places: Path, settings: dict[str, Any], message: str) -> None:
    peers = peers_file(places, 3, "wrong")
    given: dict[str, Any] = {"id": 0, "agents": 3, "peers": peers, "insecure": True, **settings}
    with pytest.raises(ConfigError, match=message):
        dimat.Agent(net(0), None, calibration=BATCHES, **given)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"id": 3}, "'id' is 3, and torchrun says 0: leave it away, or give 'peers'"),
        ({"agents": 9}, "'agents' is 9, and torchrun says 1: leave it away, or give 'peers'"),
    ],
)
def test_who_this_is_cannot_be_said_against_torchrun(
    own: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        dimat.Agent(net(0), None, calibration=BATCHES, **own)
    with dimat.Agent(net(0), None, calibration=BATCHES, id=0, agents=1) as alone:
        assert alone.neighbors == []


class Own(Method):
    """No dataclass, as a method of one's own need not be."""

    exchanges = "rounds"

    @property
    def tolerant(self) -> bool:
        return True

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        inbox = yield Step(dict.fromkeys(me.neighbors, me.state), me.neighbors)
        states, weights = [me.state, *inbox.values()], me.weights_of(inbox)
        return RoundResult(mix(states, weights), disagreement=0.0 if inbox else None)


def test_agents_with_a_method_of_their_own_know_each_other_by_its_name(places: Path) -> None:
    """Not by where it lies in memory, which differs between them."""
    pair = [
        agent(places, "own-method", i, net(i), agents=2, every=1, method=Own()) for i in range(2)
    ]
    own = [a._handshake()["method"] for a in pair]
    assert own == ["Own()", "Own()"]
    for a in pair:
        a.close()
