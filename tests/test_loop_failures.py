"""An exchange is all or nothing, and what is the user's own follows it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.analyses import analyze
from tests.exchange.threads import peers_file
from tests.test_loop import BATCHES, IMAGES, agent, net, together
from torch import Tensor, nn
from torch.testing import assert_close

import dimat
from dimat.errors import ConfigError, DataError, ModelError, StructureError
from dimat.exchange import Step, Talk
from dimat.exchange.handshake import check_terms
from dimat.merging import mix
from dimat.methods import Method, RoundContext, RoundResult
from dimat.state import State, state_of


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of addresses, one for each run."""
    return tmp_path_factory.mktemp("places")


def permuted(count: int = 2) -> list[nn.Module]:
    """Copies of one network in other unit orders; agent 0's is the one that stays."""
    models: list[nn.Module] = [net(0) for _ in range(count)]
    symmetry = analyze(models[0], (IMAGES[:2],)).symmetry
    for i, model in enumerate(models):
        order = symmetry.random(torch.Generator().manual_seed(i))
        model.load_state_dict(symmetry.apply(order, state_of(model)))
    return models


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    model(IMAGES).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def everything(own: dimat.Agent, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that an exchange may change, but for whom the neighbors have heard of."""
    kept = own.state_dict()
    kept["presence"] = {k: v for k, v in kept["presence"].items() if k != "joined"}
    return copy.deepcopy(
        {
            "state": dict(own.model.state_dict()),
            "modes": [module.training for module in own.model.modules()],
            "optimizer": optimizer.state_dict(),
            "kept": {k: v for k, v in kept.items() if k != "steps"},
            "history": len(own.history),
        }
    )


def assert_same(found: Any, expected: Any) -> None:
    (ours, shape), (theirs, other) = (
        torch.utils._pytree.tree_flatten(own) for own in (found, expected)
    )
    assert shape == other
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


class Odd(torch.optim.SGD):
    """Keeps a list, and no second one of its kind can be made."""

    def __init__(self, params: Any, lr: float, needed: int) -> None:
        super().__init__(params, lr, momentum=0.9)
        self.needed = needed

    def remember(self) -> None:
        for own in self.state.values():
            own["history"] = [torch.zeros(3)] * self.needed


class Breaks(nn.Module):
    """A layer that fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.when: Callable[[nn.Module], bool] = lambda own: False

    def forward(self, x: Tensor) -> Tensor:
        if self.when(self):
            raise KeyError("a layer of mine")
        return x


def single_image(own: dimat.Agent, optimizer: Any) -> Callable[[], None]:
    before = own._followers.calls.calls
    vars(own._followers.calls)["calls"] = (before[0].pick(torch.arange(1)),)

    def mend() -> None:
        vars(own._followers.calls)["calls"] = before

    return mend


def odd_optimizer(own: dimat.Agent, optimizer: Any) -> Callable[[], None]:
    optimizer.remember()

    def mend() -> None:
        for memory in optimizer.state.values():
            memory.pop("history")

    return mend


def failing_set(own: dimat.Agent, optimizer: Any) -> Callable[[], None]:
    fails = [True]

    def take(entries: Mapping[str, Tensor]) -> None:
        if fails[0]:
            raise AttributeError("no ema here")

    own.register("ema", lambda: {"0.bias": torch.zeros(8)}, take)
    return lambda: fails.clear() or fails.append(False)


def failing_model(own: dimat.Agent, optimizer: Any) -> Callable[[], None]:
    layer: Any = own.model[-1]  # type: ignore[index]
    layer.when = lambda own: True  # the graph is there already: it is recalibration that fails
    return lambda: setattr(layer, "when", lambda own: False)


FAULTS: list[tuple[Any, type[Exception], str]] = [
    (single_image, DataError, "a BatchNorm sees one value a channel, which has no variance"),
    (odd_optimizer, StructureError, "Odd: its memory would have to be forgotten, and no new one"),
    (
        failing_set,
        ModelError,
        "agent 1, the exchange after round 0 failed: AttributeError: no ema here; model, optimizer",
    ),
    (failing_model, ModelError, "agent 1, the exchange after round 0 failed: KeyError: 'a layer"),
]


@pytest.mark.parametrize(
    ("fault", "kind", "message"), FAULTS, ids=lambda x: getattr(x, "__name__", "")
)
def test_whatever_fails_in_an_exchange_nothing_has_changed_and_the_next_one_is_as_the_first(
    places: Path, fault: Any, kind: type[Exception], message: str
) -> None:
    models = [nn.Sequential(*model, Breaks()).train() for model in permuted()]  # type: ignore[misc]
    optimizers = [stepped(model, Odd(model.parameters(), 0.1, 2)) for model in models]
    name = f"fails-{fault.__name__}"

    def part(i: int) -> list[list[int]]:
        own = agent(places, name, i, models[i], 2, optimizer=optimizers[i], topology="full")
        with own:
            if i == 1:
                mend = fault(own, optimizers[i])
                before = everything(own, optimizers[i])
                with pytest.raises(kind, match=message):
                    own.exchange()
                assert_same(everything(own, optimizers[i]), before)
                mend()
                found = own.exchange()
                assert found.permutation is not None
            else:
                own.exchange()
                own.exchange()
            return [[*found.heard] for found in own.history]

    assert together([lambda: part(0), lambda: part(1)]) == [[[1], [1]], [[0]]]
    # Agent 0 used what agent 1 said the first time; the second exchange made them one.
    assert_close(state_of(models[0])["0.weight"], state_of(models[1])["0.weight"])


class TwoSteps(Method):
    """Says two things in a round, and one agent fails between them."""

    exchanges = "rounds"
    fails = True

    @property
    def tolerant(self) -> bool:
        return True

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        inbox = yield Step(dict.fromkeys(me.neighbors, me.state), me.neighbors)
        if me.agent == 1 and self.fails:
            raise ZeroDivisionError("by mistake")
        again = yield Step(dict.fromkeys(me.neighbors, me.state), me.neighbors)
        heard = {j: inbox[j] for j in again if j in inbox}
        merged = mix([me.state, *heard.values()], me.weights_of(heard))
        return RoundResult(merged, disagreement=0.0 if heard else None)


def test_nobody_waits_for_the_rest_of_what_a_failing_agent_would_have_said(places: Path) -> None:
    models, method = permuted(), TwoSteps()
    optimizers = [stepped(model, torch.optim.Adam(model.parameters())) for model in models]

    def part(i: int) -> list[list[int]]:
        own = agent(
            places, "midst", i, models[i], 2, topology="full", method=method, patience_s=500.0
        )
        with own:
            if i == 1:
                before = everything(own, optimizers[i])
                with pytest.raises(ModelError, match="failed: ZeroDivisionError: by mistake"):
                    own.exchange()
                assert_same(everything(own, optimizers[i]), before)
                method.fails = False
            else:
                own.exchange()
            own._neighborhood.await_neighbors([1 - i], 30)
            own.exchange()
            return [[*found.heard] for found in own.history]

    assert together([lambda: part(0), lambda: part(1)]) == [[[], [1]], [[0]]]


def test_what_is_registered_moves_with_the_units_and_the_permutation_is_told(places: Path) -> None:
    models = permuted()
    ema = copy.deepcopy(models[1])
    grads: dict[str, Tensor] = {}
    models[1](IMAGES).square().mean().backward()
    before = {"ema": state_of(ema)}
    before["grad"] = {
        k: p.grad.clone() for k, p in models[1].named_parameters() if p.grad is not None
    }

    def part(i: int) -> dimat.Agent:
        own = agent(places, "registered", i, models[i], 2, topology="full")
        with own:
            if i == 1:
                own.register("ema", ema.state_dict, ema.load_state_dict)
                own.register("grad", lambda: before["grad"], grads.update)
            own.exchange()
        return own

    stayed, moved = (own.history[0] for own in together([lambda: part(0), lambda: part(1)]))
    assert stayed.permutation is None
    assert stayed.symmetry is None
    assert moved.symmetry.groups
    assert moved.permutation.moved > 0
    expected = {k: moved.symmetry.apply(moved.permutation, v) for k, v in before.items()}
    assert_close(state_of(ema), expected["ema"], rtol=0, atol=0)
    assert_close(grads, expected["grad"], rtol=0, atol=0)


def test_what_is_none_of_the_models_or_registered_twice_is_refused(places: Path) -> None:
    with agent(places, "wrong", 0, net(0), 1) as own:
        own.register("ema", lambda: {"0.bias": torch.zeros(8)}, print)
        for name, entries, message in (
            ("ema", {}, "'ema' is registered already"),
            ("a", {"0.wait": torch.zeros(8)}, "'a' has an entry '0.wait' .* has no such entry"),
            ("b", {"0.bias": torch.zeros(9)}, r"'0.bias' of shape \(9,\), and the model has \(8,"),
        ):
            with pytest.raises(ConfigError, match=message):
                own.register(name, lambda entries=entries: entries, print)


class Frozen(nn.Sequential):
    """Its norm stays in eval mode, as for fine-tuning on small batches."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[1].eval()
        return self


@pytest.mark.parametrize(
    ("frozen", "recalibration", "kept"),
    [
        (True, "auto", True),
        (True, "batchnorm", True),
        (False, "none", True),
        (False, "auto", False),
        (False, "batchnorm", False),
    ],
)
def test_statistics_are_recomputed_as_asked_and_never_where_they_are_frozen(
    places: Path, frozen: bool, recalibration: str, kept: bool
) -> None:
    models = [(Frozen if frozen else nn.Sequential)(*net(0)).train() for _ in range(2)]
    name = f"frozen-{frozen}-{recalibration}"

    def part(i: int) -> None:
        more = {"recalibration": recalibration, "topology": "full"}
        with agent(places, name, i, models[i], 2, **more) as own:
            own.exchange()

    together([lambda: part(0), lambda: part(1)])
    # agent 1 comes into agent 0's order and mixes; agent 0 does so in the next round
    assert bool((models[1][1].running_mean == 0).all()) is kept


def test_an_edge_between_different_heads_names_the_first_entry_that_differs(places: Path) -> None:
    other = nn.Sequential(*net(0)[:-1], nn.Linear(8, 4))
    pair = [agent(places, "heads", i, model, 2) for i, model in enumerate((net(0), other))]
    for own in pair:
        own.close()
    ours, theirs = (own._handshake() for own in pair)
    with pytest.raises(
        StructureError, match=r"'model' is 3\.weight \(4, 8\) there and 3\.weight \(3, 8\) here"
    ):
        check_terms(ours, theirs, "agent 1")
    with pytest.raises(StructureError, match="'model' is nothing more there and d here"):
        check_terms({"model": "a\nd"}, {"model": "a"}, "agent 1")


class Halting(nn.Module):
    """No graph can be made of it: what it does depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x).relu()
        out: Tensor = self.fc2(hidden if hidden.sum() > 1 else 2 * hidden)
        return out


AXES = {"fc1.weight": ("h", None), "fc1.bias": ("h",), "fc2.weight": (None, "h")}


def test_agents_match_by_weights_under_a_symmetry_given_by_hand(places: Path) -> None:
    models = [copy.deepcopy(Halting()) for _ in range(2)]
    symmetry = dimat.Symmetry.from_axes(AXES, models[0].state_dict())
    state: State = state_of(models[0])
    order = symmetry.random(torch.Generator().manual_seed(0))
    models[1].load_state_dict(symmetry.apply(order, state))
    expected = models[0](IMAGES)

    def part(i: int) -> None:
        more = {"method": "wm", "symmetry": symmetry, "topology": "full"}
        with agent(places, "by-hand", i, models[i], 2, **more) as own:
            assert own.exchange().heard

    together([lambda: part(0), lambda: part(1)])
    for model in models:
        assert_close(model(IMAGES), expected)
    peers = peers_file(places, 1, "alone")
    given: dict[str, Any] = {"id": 0, "agents": 1, "peers": peers, "insecure": True}
    given["calibration"] = BATCHES
    with pytest.raises(ConfigError, match="'symmetry' is given by hand, .*: use wm or wa"):
        dimat.Agent(Halting(), None, symmetry=symmetry, **given)
    wrong = dimat.Symmetry.from_axes({"fc1.bias": ("h",)}, state)
    with pytest.raises(StructureError, match="outputs change in eval mode: not a symmetry of Hal"):
        dimat.Agent(Halting(), None, symmetry=wrong, method="wm", **given)


def test_a_wrapped_model_is_taken_out_of_its_wrapper(places: Path) -> None:
    model = net(0)
    with agent(places, "wrapped", 0, nn.DataParallel(model), 1) as own:
        assert own.model is model
        own.exchange()


def test_making_an_agent_changes_nothing_in_the_model_and_draws_no_random_numbers(
    places: Path,
) -> None:
    model = nn.Sequential(*net(0)[:3], nn.Dropout(0.5), nn.Linear(8, 3)).train()
    before = state_of(model)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with agent(places, "untouched", 0, model, 1):
        assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert_close(state_of(model), before, rtol=0, atol=0)


def test_an_unknown_recalibration_is_named(places: Path) -> None:
    with pytest.raises(ConfigError, match="'recalibration' is 'expected', which is unknown"):
        agent(places, "unknown", 0, net(0), 1, recalibration="expected")
