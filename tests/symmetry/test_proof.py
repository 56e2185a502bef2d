"""A comparison in which nothing could be seen proves nothing: what stays unproved is pinned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.symmetry.zoo import Lambda
from tests.symmetry.zoo_layers import lin, net
from torch import Tensor, nn
from torch.nn import functional

from dimat.errors import ModelError, StructureError
from dimat.symmetry import Symmetry, analyze, check_symmetry, find, find_symmetry
from dimat.symmetry.labels.operator_call import Call, Result
from dimat.symmetry.proof.evidence import close_to
from dimat.symmetry.proof.redraw import DRAWS, LEAST_DRAWS, LEVELS, draw, near, redraw
from dimat.symmetry.rules import RULES, Rule
from dimat.symmetry.rules.registry import pointwise


class HandMadeNorm(nn.Module):
    """Normalizes by a variance that is kept as (1, C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(1, 5, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x / self.variance.sqrt()  # type: ignore[operator, no-any-return]


def rolled(before: Callable[[Any, Tensor], Tensor], **layers: Any) -> nn.Module:
    """A model whose units have an order, which shows only behind ``before``."""
    own = {"a": lin(3, 5), "b": lin(5, 4), **layers}
    return net(lambda m, x: m.b(torch.roll(before(m, x), 1, -1)), **own)()


HIDDEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "log": lambda m, x: m.a(torch.log(x)),
    "sqrt": lambda m, x: m.a(torch.sqrt(x)).relu(),
    "pow": lambda m, x: m.a(x**0.3),
    "clamp": lambda m, x: m.a(x).clamp(1e9, 2e9),
    "saturated sigmoid": lambda m, x: torch.sigmoid(m.a(x) + 1e9),
    "dead relu": lambda m, x: (m.a(x) - 1e9).relu(),
    "hard threshold": lambda m, x: (m.a(x) > 1e9).to(x.dtype),
    "integer cast": lambda m, x: (m.a(x) * 1e-9).long().to(x.dtype),
    "equal logits": lambda m, x: (m.a(x) * 1e-30).softmax(-1),
    "never chosen": lambda m, x: torch.where(x.sum() < 1e9, x.mean(), m.a(x)),
    "norm": lambda m, x: m.norm(m.a(x)[..., None, None])[..., 0, 0],
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_wrong_rule_behind_what_hides_it_is_caught_or_pinned(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, "aten.roll", pointwise)
    monkeypatch.setattr(find, "_CACHE", {})
    model = rolled(HIDDEN[name], **({"norm": HandMadeNorm} if name == "norm" else {}))
    analysis = analyze(model, (torch.rand(3, 3) + 0.5,))
    assert analysis.symmetry.groups == ()
    assert analysis.distrusted


@pytest.mark.parametrize("name", ["log", "sqrt", "pow", "norm"])
def test_what_takes_positive_values_is_proved_on_positive_values(name: str) -> None:
    layers = {"norm": HandMadeNorm} if name == "norm" else {}
    model = net(lambda m, x: m.b(HIDDEN[name](m, x)), a=lin(3, 5), b=lin(5, 4), **layers)()
    analysis = analyze(model, (torch.rand(3, 3) + 0.5,))
    assert [(g.cells, g.size) for g in analysis.symmetry.groups] == [(1, 5)]
    assert analysis.distrusted == ()


def test_what_is_unproved_is_pinned_and_said() -> None:
    model = net(lambda m, x: m.b((m.a(x) - 1e9).relu()), a=lin(3, 5), b=lin(5, 4))()
    symmetry = find_symmetry(model, (torch.rand(3, 3),))
    (pin,) = symmetry.pinned
    assert (pin.operator, pin.why) == (
        "aten.relu",
        "unproved: it has the same finite values in every draw",
    )
    assert "unproved" in symmetry.explain("a.weight")


def test_what_cannot_be_otherwise_needs_no_draw() -> None:
    """Shrinking is exported with a product by zero, and a guard against NaN with a test for it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = functional.hardshrink(m.a(x), 0.1)
        return m.b(torch.where(y.isnan(), 0.0, y))  # type: ignore[no-any-return]

    analysis = analyze(net(forward, a=lin(3, 5), b=lin(5, 4))(), (torch.rand(3, 3),))
    assert [g.size for g in analysis.symmetry.groups] == [5]
    assert analysis.distrusted == ()


def test_a_mask_of_huge_numbers_hides_nothing_beside_it() -> None:
    expected = torch.tensor([1.0, 2.0, torch.finfo(torch.float32).min], dtype=torch.float64)
    found = torch.tensor([2.0, 1.0, torch.finfo(torch.float32).min], dtype=torch.float64)
    assert not close_to(expected, found)
    assert close_to(expected, expected * (1 + 1e-12))


def test_what_is_not_finite_is_close_only_to_itself() -> None:
    given = torch.tensor([1.0, torch.inf, torch.nan], dtype=torch.float64)
    assert close_to(given, given.clone())
    for k, other in ((0, 1.001), (1, 1.0), (1, -torch.inf), (2, 1.0), (0, torch.nan)):
        changed = given.clone()
        changed[k] = other
        assert not close_to(given, changed)
        assert not close_to(changed, given)


def first_of(call: Call) -> Result:
    """A sum whose second operand is forgotten."""
    return call.tensors()[0].labels


@pytest.mark.parametrize(
    ("operator", "wrong", "width"),
    [*(("add", first_of, n) for n in (2, 3, 4, 5)), *(("roll", pointwise, n) for n in (3, 4, 5))],
)
def test_a_wrong_rule_is_caught_at_every_width(
    operator: str, wrong: Rule, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All groups of two swap at once, and three units turn in a circle: that shows too little."""
    monkeypatch.setitem(RULES, f"aten.{operator}", wrong)
    monkeypatch.setattr(find, "_CACHE", {})
    model = net(
        lambda m, x: m.c(torch.roll(m.a(x), 1, -1) if operator == "roll" else m.a(x) + m.b(x)),
        a=lin(3, width), b=lin(3, width), c=lin(width, 4),
    )()  # fmt: skip
    assert [pin.operator for pin in analyze(model, (torch.randn(3, 3),)).distrusted] == [
        f"aten.{operator}"
    ]


def test_a_mask_made_by_dropout_of_a_constant_ties_what_shares_it() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        mask = functional.dropout(torch.ones(3, 5), 0.5, m.training)
        return m.c(m.a(x) * mask) + m.d(m.b(x) * mask)  # type: ignore[no-any-return]

    model = net(forward, a=lin(3, 5), b=lin(3, 5), c=lin(5, 4), d=lin(5, 4))()
    assert find_symmetry(model, (torch.randn(3, 3),)).groups == ()


def test_a_test_for_infinity_ties_what_it_masks() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.c(m.b(x).masked_fill(torch.exp(100 * m.a(x)).isinf(), 0.0))  # type: ignore[no-any-return]

    model = net(forward, a=lin(3, 5), b=lin(3, 5), c=lin(5, 4))()
    symmetry = find_symmetry(model, (torch.randn(3, 3),))
    assert all(
        {("a.weight", 0), ("b.weight", 0)} <= set(group.members) for group in symmetry.groups
    )


def test_rounding_of_many_layers_is_no_wrong_rule() -> None:
    names = [f"l{k}" for k in range(8)]

    def forward(m: Any, x: Tensor) -> Tensor:
        for name in names:
            x = torch.sin(30 * getattr(m, name)(x))
        return m.out(x)  # type: ignore[no-any-return]

    layers = {name: lin(3 if name == "l0" else 16, 16) for name in names}
    analysis = analyze(net(forward, **layers, out=lin(16, 2))(), (torch.randn(3, 3),))
    assert len(analysis.symmetry.groups) == 8
    assert analysis.distrusted == ()


def test_whole_numbers_become_as_wide_as_all_others() -> None:
    model = net(
        lambda m, x, near: m.b((near / near.sum(-1, keepdim=True)) @ m.a(x)),
        a=lin(3, 5), b=lin(5, 4),
    )()  # fmt: skip
    near = torch.randint(1, 3, (4, 4))
    assert [g.size for g in find_symmetry(model, (torch.randn(4, 3), near)).groups] == [5]


def test_masks_and_ids_that_show_nothing_are_redrawn() -> None:
    def forward(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        return m.b(torch.where(mask[..., None], m.a(x), m.token.weight[0]))  # type: ignore[no-any-return]

    model = net(forward, a=lin(3, 5), b=lin(5, 4), token=lambda: nn.Embedding(1, 5))()
    mask = torch.ones(3, 6, dtype=torch.bool)
    analysis = analyze(model, (torch.randn(3, 6, 3), mask))
    assert [g.size for g in analysis.symmetry.groups] == [5]


@pytest.mark.parametrize("masked", [0, 1])
def test_a_mask_of_padding_leaves_heads_free(masked: int) -> None:
    model = net(
        lambda m, x, mask: m.b(m.attention(m.a(x), m.a(x), m.a(x), key_padding_mask=mask)[0]),
        a=lin(3, 8), attention=lambda: nn.MultiheadAttention(8, 2, batch_first=True), b=lin(8, 4),
    )()  # fmt: skip
    mask = torch.arange(5).expand(3, 5) >= 5 - masked
    analysis = analyze(model, (torch.randn(3, 5, 3), mask))
    assert sorted((g.cells, g.size) for g in analysis.symmetry.groups) == [
        (1, 2), (1, 8), (1, 8), (2, 4), (2, 4)
    ]  # fmt: skip
    assert analysis.distrusted == ()


def test_a_further_draw_that_cannot_be_run_is_left_out() -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(3, 5)
            self.table = nn.Embedding(5, 4)
            self.register_buffer("row", torch.tensor(2.0))

        def forward(self, x: Tensor) -> Any:
            looked = self.table(self.row.abs().clamp(max=4.9).long())
            dead = (self.c(x) - 1e9).relu().sum()
            return self.b(self.a(x).relu()) + looked + dead

    symmetry = find_symmetry(Looked(), (torch.randn(3, 3),))
    assert [g.members[0][0] for g in symmetry.groups] == ["a.weight"]


def test_what_is_unproved_on_one_input_may_be_proved_on_another() -> None:
    model = net(
        lambda m, i: m.b((m.e(i).sum(1) - 40.0).relu()), e=lambda: nn.Embedding(7, 5), b=lin(5, 4)
    )()
    with torch.no_grad():
        model.e.weight[3:] = 100.0
    few, many = torch.zeros(3, 1, dtype=torch.long), torch.full((3, 1), 5)
    assert find_symmetry(model, (few[:, :1],)) is not None
    assert [g.size for g in find_symmetry(model, (many,)).groups] == [5]


def test_a_rule_that_does_not_fit_pins() -> None:
    model = net(lambda m, x: m.b(functional.avg_pool1d(m.a(x), 2)), a=lin(3, 6), b=lin(3, 4))()
    assert find_symmetry(model, (torch.randn(4, 3),)).groups == ()


# --- redrawing ----------------------------------------------------------------------------------


def test_near_values_keep_their_signs_and_infinities(random: torch.Generator) -> None:
    given = {
        "signed": torch.tensor([[1.0, -2.0], [0.0, 3.0]]),
        "positive": torch.tensor([[0.5, 0.0, 2.0]]),
        "zero": torch.zeros(2, 2),
        "mask": torch.tensor([0.0, -torch.inf]),
        "complex": torch.tensor([1 + 2j, -3j]),
        "count": torch.tensor(3),
    }
    found = near(given, random)
    known = given["signed"] != 0
    assert (found["signed"].sign() == given["signed"].sign())[known].all()
    assert ((found["signed"] / given["signed"])[known] - 1.25).abs().max() <= 0.75
    assert (found["positive"] > 0).all()
    assert (found["zero"] != 0).all()
    assert found["mask"][1] == -torch.inf
    assert found["mask"][0].isfinite()
    assert found["complex"].dtype == torch.complex128
    assert found["count"] == 3


def test_variances_stay_positive_in_every_shape(random: torch.Generator) -> None:
    found = redraw({"variance": torch.ones(1, 5, 1, 1), "weight": torch.randn(9, 9)}, random)
    assert (found["variance"] > 0).all()
    assert (found["weight"] < 0).any()


def test_a_draw_is_the_same_again_and_another_one_differs() -> None:
    state, inputs = {"w": torch.randn(3, 3)}, [torch.randn(2, 3), 4]
    draws = [draw(number, state, inputs) for number in (0, 0, 1)]
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    assert not torch.equal(draws[0][0]["w"], draws[2][0]["w"])
    assert draws[2][1][1] == 4


@pytest.mark.parametrize("number", range(LEAST_DRAWS))
def test_a_large_entry_is_the_same_again_and_never_drawn_over_what_is_read(number: int) -> None:
    """Its memory is used again, but not while a view of it is alive."""
    state = {f"w{k}": torch.randn(150, 200 + 7 * (k % 3)) for k in range(12)}
    drawn, _ = draw(number, state, [])
    views = {key: drawn[key].t()[1:] for key in state}
    copies = {key: own.clone() for key, own in views.items()}
    for key in (*reversed(state), *state):
        assert torch.equal(drawn[key].t()[1:], copies[key])
    assert all(torch.equal(views[key], copies[key]) for key in state)
    assert len({float(own.sum()) for own in copies.values()}) == len(state)


def test_few_zeros_of_a_large_entry_become_small_numbers() -> None:
    given = torch.randn(300, 100)
    given[::50, 3] = 0.0
    found = draw(0, {"w": given}, [])[0]["w"]
    small = found[given == 0]
    assert (small != 0).all()
    assert small.abs().max() < given.abs().mean()
    assert (found.sign() == given.sign())[given != 0].all()


def test_whole_numbers_are_redrawn_among_the_examples_own() -> None:
    table = torch.tensor([[0.0, 0.3], [2.0, 0.1], [5.0, -0.2]])
    for number in range(len(DRAWS)):
        ((drawn,),) = [draw(number, {}, [table], LEVELS[1])[1]]
        assert set(drawn[:, 0].tolist()) <= {0.0, 2.0, 5.0}
        assert not set(drawn[:, 1].tolist()) & set(table[:, 1].double().tolist())
        ((own,),) = [draw(number, {}, [table], LEVELS[2])[1]]
        assert set(own[:, 1].tolist()) <= set(table[:, 1].double().tolist())


def test_float_inputs_may_be_looked_up() -> None:
    """Calendar marks, as forecasting models take them: hour and weekday as numbers in a table."""

    def forward(m: Any, x: Tensor, marks: Tensor) -> Tensor:
        marks = marks.long()
        return m.b((m.a(x) + m.hour(marks[..., 0]) + m.day(marks[..., 1])).relu())  # type: ignore[no-any-return]

    model = net(
        forward, a=lin(3, 5), b=lin(5, 4), hour=lambda: nn.Embedding(24, 5),
        day=lambda: nn.Embedding(7, 5),
    )()  # fmt: skip
    marks = torch.stack([torch.randint(24, (3, 6)), torch.randint(7, (3, 6))], -1).float()
    analysis = analyze(model, (torch.randn(3, 6, 3), marks))
    assert [g.size for g in analysis.symmetry.groups] == [5]
    assert analysis.distrusted == ()


def test_a_model_that_takes_no_other_inputs_is_refused_in_words() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        row = 5 * (x[0] != 0).sum()  # 0 for the example alone
        return m.b(m.a(x) + m.table(row))  # type: ignore[no-any-return]

    model = net(forward, a=lin(3, 5), b=lin(5, 4), table=lambda: nn.Embedding(2, 5))()
    with pytest.raises(ModelError, match="cannot be run on redrawn inputs"):
        find_symmetry(model, (torch.tensor([[0.0], [9.0], [9.0]]).expand(3, 3),))


# --- symmetries given by hand -------------------------------------------------------------------


def by_hand(model: nn.Module, *, bias: bool) -> Symmetry:
    axes = {"a.weight": ("hidden", None), "b.weight": (None, "hidden")}
    own = {**axes, **({"a.bias": ("hidden",)} if bias else {})}
    return Symmetry.from_axes(own, model.state_dict())


@pytest.mark.parametrize("name", ["log", "sqrt", "pow"])
def test_a_wrong_symmetry_given_by_hand_is_seen_where_values_are_positive(name: str) -> None:
    model = net(lambda m, x: m.b(HIDDEN[name](m, x)), a=lin(3, 5), b=lin(5, 4))()
    inputs = (torch.rand(3, 3) + 0.5,)
    check_symmetry(by_hand(model, bias=True), model, inputs)
    with pytest.raises(StructureError, match="outputs change in eval mode"):
        check_symmetry(by_hand(model, bias=False), model, inputs)


@pytest.mark.parametrize("name", ["clamp", "saturated sigmoid", "dead relu", "hard threshold"])
def test_a_symmetry_given_by_hand_of_what_has_no_influence_is_refused(name: str) -> None:
    model = net(lambda m, x: m.b(HIDDEN[name](m, x)), a=lin(3, 5), b=lin(5, 4))()
    with pytest.raises(StructureError, match="nothing can be proved of 'a.weight'"):
        check_symmetry(by_hand(model, bias=False), model, (torch.rand(3, 3) + 0.5,))


def test_a_bias_that_shifts_all_logits_alike_is_seen_with_its_weight() -> None:
    model = Lambda(
        lambda m, x: m.out((m.q(x) @ m.k(x).mT).softmax(-1) @ x),
        q=nn.Linear(3, 5), k=nn.Linear(3, 5), out=nn.Linear(3, 4),
    )  # fmt: skip
    axes = {"q.weight": ("units", None), "k.weight": ("units", None), "q.bias": ("units",)}
    for bias in ({}, {"k.bias": ("units",)}):
        symmetry = Symmetry.from_axes({**axes, **bias}, model.state_dict())
        check_symmetry(symmetry, model, (torch.randn(3, 4, 3),))


@pytest.mark.parametrize("width", [2, 3, 5])
def test_groups_that_are_tied_or_in_order_are_refused_by_hand(width: int) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.c(m.a(x) + m.b(x)) + m.d(torch.roll(m.e(x), 1, -1))  # type: ignore[no-any-return]

    layers = {key: lin(3, width) for key in "abe"} | {key: lin(width, 4) for key in "cd"}
    model = net(forward, **layers)()
    state, inputs = model.state_dict(), (torch.randn(4, 3),)
    one = {"a.weight": ("p", None), "a.bias": ("p",), "c.weight": (None, "p")}
    both = {**one, "b.weight": ("p", None), "b.bias": ("p",)}
    untied = {**one, "b.weight": ("q", None), "b.bias": ("q",)}
    rolled = {"e.weight": ("r", None), "e.bias": ("r",), "d.weight": (None, "r")}
    check_symmetry(Symmetry.from_axes(both, state), model, inputs)
    for wrong in (untied, rolled)[: 1 + (width > 2)]:  # a roll of two is a swap
        with pytest.raises(StructureError, match="outputs change"):
            check_symmetry(Symmetry.from_axes(wrong, state), model, inputs)


def test_buffers_that_forward_writes_are_looked_at() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)
            self.register_buffer("e", torch.ones(5))

        def forward(self, x: Tensor) -> Any:
            h = self.a(x)
            if self.training:
                self.e.copy_(torch.roll(h.mean(0), 1, 0))
                return self.b(h)
            return self.b(h * self.e)

    model = Written()
    axes = {
        "a.weight": ("p", None), "a.bias": ("p",), "e": ("p",), "b.weight": (None, "p")
    }  # fmt: skip
    with pytest.raises(StructureError, match="outputs change in training mode"):
        check_symmetry(Symmetry.from_axes(axes, model.state_dict()), model, (torch.randn(4, 3),))


def test_looked_up_inputs_do_not_stop_a_proof_by_hand() -> None:
    model = Lambda(
        lambda m, x: m.b(m.a(m.table(x.long())).relu()),
        table=nn.Embedding(4, 3), a=nn.Linear(3, 5), b=nn.Linear(5, 4),
    )  # fmt: skip
    check_symmetry(by_hand(model, bias=True), model, (torch.tensor([[0.0], [3.0], [2.0]]),))
    with pytest.raises(StructureError, match="outputs change"):
        check_symmetry(by_hand(model, bias=False), model, (torch.tensor([[0.0], [3.0]]),))


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_an_operand_without_influence_is_pinned_though_the_value_varies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RULES, "aten.where", lambda call: call["self"].labels)
    monkeypatch.setattr(find, "_CACHE", {})
    model = net(
        lambda m, x: m.b(torch.where(x.sum(-1, keepdim=True) < 1e9, m.c(x), m.a(x))),
        a=lin(3, 5), b=lin(5, 4), c=lin(3, 5),
    )()  # fmt: skip
    assert find_symmetry(model, (torch.randn(3, 3),)).groups == ()
