"""Fisher information: the closed form, what it weighs, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.merging.test_gram import normed, one_order, states_of
from tests.methods.agents import agents_of, merge
from torch import Tensor, nn
from torch.func import functional_call

import dimat
from dimat.checkpoints import recalibrates
from dimat.errors import ConfigError, ModelError, StructureError
from dimat.merging import COMBINERS, Fisher, combiner_for, mix
from dimat.methods import Dimat
from dimat.state import State, state_of
from dimat.tasks import TASKS, Regression, Segmentation


def softmax_line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3).double().eval()


def images(count: int, size: int = 4, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    scale = torch.rand(size, generator=random) + 0.5
    return (torch.randn(count, size, generator=random) * scale).double()


def by_definition(model: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> State:
    """The mean over images of every class's squared gradient, by its probability; of mean one."""
    own = {k: v.clone().requires_grad_() for k, v in state.items() if v.is_floating_point()}
    own = {k: v for k, v in own.items() if "running_" not in k}
    total = {k: torch.zeros_like(v) for k, v in own.items()}
    for image in x.split(1):
        said = functional_call(model, {**state, **own}, image, tie_weights=False).flatten(0, -2)
        for row in said.log_softmax(-1):
            for share in row:
                found = torch.autograd.grad(share, [*own.values()], retain_graph=True)
                for key, gradient in zip(own, found, strict=True):
                    total[key] += share.exp().detach() * gradient.square()
    mean = sum(v.sum() for v in total.values()) / sum(v.numel() for v in total.values())
    return {f"fisher/{k}": v / mean for k, v in total.items()}


def closed_form(state: Mapping[str, Tensor], x: Tensor) -> State:
    """By NumPy: the mean of x² p (1 - p) for every class and input, and of p (1 - p)."""
    logits = x.numpy() @ state["weight"].numpy().T + state["bias"].numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weight, bias = (p * (1 - p)).T @ np.square(x.numpy()), (p * (1 - p)).sum(0)
    mean = (weight.sum() + bias.sum()) / (weight.size + bias.size)
    found = {"fisher/weight": weight / mean, "fisher/bias": bias / mean}
    return {key: torch.from_numpy(value) for key, value in found.items()}


def test_a_linear_softmax_has_the_closed_form() -> None:
    model, x = softmax_line(), images(30)
    state = state_of(model)
    found = Fisher().statistics(analyze(model, (x[:2],)), state, x.split(1))
    torch.testing.assert_close(found, closed_form(state, x), rtol=1e-9, atol=0)


def test_the_merged_state_is_the_mean_weighted_by_it() -> None:
    model, weights = softmax_line(), [0.5, 0.2, 0.3]
    states, analysis = states_of(model, 3), analyze(model, (images(2),))
    owns = [
        Fisher().statistics(analysis, state, [images(40, seed=j)]) for j, state in enumerate(states)
    ]
    found = Fisher().fit(analysis, states, weights, owns)
    for key in ("weight", "bias"):
        says = [
            w * (own[f"fisher/{key}"].numpy() + 1e-6) for w, own in zip(weights, owns, strict=True)
        ]
        top = sum(say * s[key].numpy() for say, s in zip(says, states, strict=True))
        np.testing.assert_allclose(found[key].numpy(), top / sum(says), rtol=1e-10)
    back = Fisher().fit(analysis, states[::-1], weights[::-1], owns[::-1])
    torch.testing.assert_close(found, back)


class Tied(nn.Module):
    """One matrix is the embedding of five words, and the head that says the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).tanh())


MODELS: Mapping[str, Any] = {
    "normed": (normed, lambda: torch.randn(12, 2, 4, 4).double()),
    "tied": (lambda: Tied().double().eval(), lambda: torch.randint(5, (12, 1))),
}


def of_one_table(table: Tensor, x: Tensor) -> State:
    """The same of ``Tied``: gradients of both uses of its table add before they are squared."""
    own, total = table.clone().requires_grad_(), torch.zeros_like(table)
    for word in x.flatten():
        for share in (own[word].tanh() @ own.T).log_softmax(-1):
            (gradient,) = torch.autograd.grad(share, own, retain_graph=True)
            total += share.exp().detach() * gradient.square()
    return {"fisher/embed.weight": total / total.mean()}


@pytest.mark.parametrize("name", MODELS)
def test_image_by_image_it_is_the_definition(name: str) -> None:
    torch.manual_seed(0)
    make, draw = MODELS[name]
    model, x = make(), draw()
    analysis, (state,) = analyze(model, (x[:2],)), states_of(model, 1)
    if name == "tied":
        state["head.weight"] = state["embed.weight"]
    found = Fisher().statistics(analysis, state, x.split(1))
    if name == "tied":
        expected = of_one_table(state["embed.weight"], x)
    else:
        expected = by_definition(model, state, x)
    torch.testing.assert_close(found, expected)


def test_tied_entries_stay_tied() -> None:
    torch.manual_seed(0)
    model, x = Tied().double().eval(), torch.randint(5, (30, 3))
    states = states_of(model, 2)
    for state in states:
        state["head.weight"] = state["embed.weight"]
    found = Fisher().combine(analyze(model, (x[:2],)), states, [0.5, 0.5], [x])
    assert torch.equal(found["head.weight"], found["embed.weight"])
    assert not torch.equal(found["embed.weight"], mix(states, [0.5, 0.5])["embed.weight"])


@pytest.mark.parametrize("classes", [10, 40], ids=["all columns", "random sums of columns"])
def test_images_that_share_a_pass_give_it_in_the_mean(classes: int) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, classes).double().eval(), images(3000)
    analysis, state = analyze(model, (x[:2],)), state_of(model)
    found, exact = Fisher().statistics(analysis, state, [x]), closed_form(state, x)
    for key in found:
        error = (found[key] - exact[key]).abs().mean() / exact[key].mean()
        assert 0 < error < 0.15  # 100 passes, or more, an entry


def test_numbers_have_the_squared_jacobian() -> None:
    model, x = softmax_line(), images(30)
    own = Fisher(Regression())
    found = own.statistics(analyze(model, (x[:2],)), state_of(model), x.split(1))
    squares = x.square().mean(0)
    mean = (3 * squares.sum() + 3) / 15
    torch.testing.assert_close(found["fisher/weight"], (squares / mean).expand(3, 4))
    torch.testing.assert_close(found["fisher/bias"], (1 / mean).expand(3))


def test_who_is_surer_has_no_less_say() -> None:
    """Logits ten times as large have squared gradients of another size, and the same mean."""
    model, x = softmax_line(), images(50)
    analysis, state = analyze(model, (x[:2],)), state_of(model)
    sure = {k: 10 * v for k, v in state.items()}
    for own in (state, sure):
        found = Fisher().statistics(analysis, own, [x])
        Fisher().check(found, "statistics")
        assert sum(float(v.sum()) for v in found.values()) == pytest.approx(15)


def test_where_no_output_depends_on_any_parameter_all_count_alike() -> None:
    class Deaf(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x)

    model, x = Deaf(4, 3).double().eval(), images(20)
    states, analysis = states_of(model, 2), analyze(model, (x[:2],))
    owns = [Fisher().statistics(analysis, state, [x]) for state in states]
    assert all(bool((v == 1).all()) for own in owns for v in own.values())
    found = Fisher().fit(analysis, states, [0.3, 0.7], owns)
    torch.testing.assert_close(found, mix(states, [0.3, 0.7]))


def test_a_graph_that_is_bound_to_a_batch_is_given_whole_batches() -> None:
    class Bound(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(6, 4))

    model, x = Bound(4, 3).double().eval(), images(18)
    analysis = analyze(model, (x[:6],))
    assert analysis.trace.batch_size == 6
    found = Fisher().statistics(analysis, state_of(model), x.split(6))
    Fisher().check(found, "statistics")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own["fisher/weight"][0].__setitem__(1, float("nan")), "NaN or infinite"),
        (lambda own: own["fisher/bias"].__setitem__(2, -0.1), "'fisher/bias' .* it is negative"),
        (lambda own: own["fisher/bias"].mul_(100), "has mean [0-9.]+: must be 1"),
    ],
)
def test_what_is_no_fisher_information_is_refused(change: Any, message: str) -> None:
    model, x = softmax_line(), images(20)
    found = Fisher().statistics(analyze(model, (x[:2],)), state_of(model), [x])
    Fisher().check(found, "statistics from agent 3")
    change(found)
    with pytest.raises(StructureError, match=f"statistics from agent 3.*{message}"):
        Fisher().check(found, "statistics from agent 3")


class Two(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        said = super().forward(x)
        return said, said.square()


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            nn.Conv2d(2, 3, 1),
            (4, 2, 3, 3),
            r"as Classification: outputs have shape \(\d, 3, 3, 3\)",
        ),
        (nn.Linear(4, 1), (6, 4), r"shape \(\d, 1\), and .*name the task .*merging.Fisher\(TASK\)"),
        (Two(4, 3), (6, 4), "needs one output, and this model's outputs are .*: use another"),
    ],
    ids=["an image", "one number", "two outputs"],
)
def test_outputs_that_are_no_logits_are_refused_with_the_way_out(
    model: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    model, x = model.double().eval(), torch.randn(*shape).double()
    analysis, state = analyze(model, (x,)), state_of(model)
    with pytest.raises(ModelError, match=message):
        Fisher().statistics(analysis, state, [x])


# --- of every task --------------------------------------------------------------------------------


class Pixels(nn.Conv2d):
    """Logits of three classes for each pixel."""

    def __init__(self) -> None:
        super().__init__(4, 3, 1)


class Next(nn.Module):
    """Logits of the next of five tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.embed.weight.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.embed(ids))
        return found


def spread_of(name: str, logits: Any) -> Any:
    """By NumPy: the variance of each target that is drawn from a prediction."""
    if name == "regression":
        return np.ones_like(logits)
    if name == "multilabel":
        p = 1 / (1 + np.exp(-logits))
    else:
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return p * (1 - p)


CASES: Mapping[str, Any] = {
    "regression": (lambda: nn.Linear(4, 2), (40, 4)),
    "multilabel": (lambda: nn.Linear(4, 3), (40, 4)),
    "segmentation": (Pixels, (40, 4, 1, 1)),
    "language-modeling": (Next, (40, 2)),
}


@pytest.mark.parametrize("task", CASES)
def test_a_linear_head_of_every_task_has_the_closed_form(task: str) -> None:
    torch.manual_seed(0)
    make, shape = CASES[task]
    model = make().double().eval()
    ids = task == "language-modeling"
    x = torch.randint(5, shape) if ids else torch.randn(shape).double()
    state = state_of(model)
    found = Fisher(TASKS[task]).statistics(analyze(model, (x[:2],)), state, x.split(1))  # type: ignore[arg-type]
    weight, bias = ("head.weight", "head.bias") if ids else ("weight", "bias")
    inputs = (
        state["embed.weight"][x[:, 0]] if ids else x.flatten(1)
    ).numpy()  # the last has no next
    logits = inputs @ state[weight].flatten(1).numpy().T + state[bias].numpy()
    spread = spread_of(task, logits)
    expected, own = spread.T @ np.square(inputs), spread.sum(0)
    got, alone = (
        found[f"fisher/{key}"].flatten(1 if key == weight else 0) for key in (weight, bias)
    )
    np.testing.assert_allclose(got / alone[0], expected / own[0], rtol=1e-9)
    np.testing.assert_allclose(alone / alone[0], own / own[0], rtol=1e-9)


def test_pixels_that_share_a_pass_give_it_in_the_mean() -> None:
    torch.manual_seed(0)
    model, x = Pixels().double().eval(), torch.randn(400, 4, 3, 3).double()
    state = state_of(model)
    own = Fisher(Segmentation())
    found = own.statistics(analyze(model, (x[:2],)), state, x.split(40))
    inputs = x.movedim(1, -1).flatten(0, -2).numpy()
    logits = inputs @ state["weight"].flatten(1).numpy().T + state["bias"].numpy()
    spread = spread_of("segmentation", logits)
    weight, bias = spread.T @ np.square(inputs), spread.sum(0)
    mean = (weight.sum() + bias.sum()) / (weight.size + bias.size)
    error = np.abs(found["fisher/weight"].flatten(1).numpy() - weight / mean).mean()
    assert 0 < error < 0.15


def test_the_two_outputs_of_a_regression_are_no_logits() -> None:
    """As logits that are far apart they would be certain, and no parameter would count."""
    model, x = nn.Linear(4, 2).double().eval(), images(30)
    state = {**state_of(model), "bias": torch.tensor([0.0, 60.0]).double()}
    squares = x.square().mean(0)
    own = combiner_for("fisher", Regression())
    assert isinstance(own, Fisher)
    found = own.statistics(analyze(model, (x[:2],)), state, x.split(1))
    torch.testing.assert_close(found["fisher/weight"], found["fisher/bias"][:, None] * squares)


class Bare:
    """A task that says nothing of how likely targets are."""

    metrics, has_classes = Regression.metrics, False
    targets = num_outputs = output_shape = loss = totals = measure = pooled = Regression.loss


def test_a_task_without_a_likelihood_is_refused() -> None:
    with pytest.raises(ConfigError, match="Bare has no 'predictions' and 'information_root'"):
        combiner_for("fisher", Bare())  # type: ignore[arg-type]
    assert combiner_for("gram", Bare()) is COMBINERS["gram"]  # type: ignore[arg-type]


def test_statistics_of_another_task_do_not_fit(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    states, x = states_of(model, 2), [images(60).float()]
    owns = [dimat.statistics(model, own, x, combine=Fisher(Regression())) for own in states]
    assert owns[0].combiner == "Fisher of Regression"
    with pytest.raises(StructureError, match="are for 'Fisher of Regression', and the merge is by"):
        dimat.merge(model, states, x, combine="fisher", statistics=owns)
    dimat.merge(model, states, x, combine=Fisher(Regression()), statistics=owns)


def test_where_it_is_not_finite_the_parameter_is_named() -> None:
    model, x = softmax_line(), images(20)
    analysis = analyze(model, (x[:2],))
    x[3, 1] = float("inf")
    with pytest.raises(StructureError, match="the Fisher information of 'weight' is not finite"):
        Fisher().statistics(analysis, state_of(model), [x])


# --- in a merge -----------------------------------------------------------------------------------


def test_only_combiners_that_fit_running_statistics_go_without_recalibration() -> None:
    again = {name: recalibrates("auto", own) for name, own in COMBINERS.items()}
    expected = dict.fromkeys(("repair", "regression", "gram"), False)
    assert again == {**again, "average": True, "fisher": True, **expected}


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_agents_send_it_and_recompute_running_statistics(network: str) -> None:
    own, graph = agents_of(network), nx.complete_graph(3)
    them = own.members(own.perturbed(3), graph, gauges=one_order(own, graph))
    alike = [replace(me, batches=them[0].batches) for me in them]
    found, traffic = merge(Dimat("spread", combine="fisher"), alike)
    plain, few = merge(Dimat("spread"), alike)
    assert not any(result.calibrated for result in found)
    assert few[0].sent_bytes * 1.5 < traffic[0].sent_bytes < few[0].sent_bytes * 2.1
    key = next(k for k in found[0].state if k.endswith("weight"))
    assert not torch.allclose(found[0].state[key], plain[0].state[key])
    torch.testing.assert_close(found[0].state, found[1].state)  # all say the same on this graph


def test_owners_send_it_in_files(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    states, files, owns = states_of(model, 2), [], []
    for j, state in enumerate(states):
        measured = dimat.statistics(model, state, [images(60, seed=j).float()], combine="fisher")
        Fisher().check(measured.values, "statistics")
        files.append(tmp_path / f"{j}.safetensors")
        measured.save(files[-1])
        owns.append(measured.values)
    x = [images(60).float()]
    merged = dimat.merge(model, states, x, combine="fisher", method="identity", statistics=files)
    expected = Fisher().fit(analyze(model, (x[0][:2],)), states, [0.5, 0.5], owns)
    torch.testing.assert_close(merged.state, expected)
