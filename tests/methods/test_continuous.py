"""``dimat`` with matrices: neighbors that compute one function in other frames are turned to it."""

from __future__ import annotations

import pytest
import torch
from tests.symmetry.test_continuous import MODELS

from dimat.errors import ConfigError
from dimat.matching.procrustes import turned_to
from dimat.methods import Dimat
from dimat.symmetry import analyze
from dimat.symmetry.continuous import find_continuous_symmetry
from dimat.symmetry.proof.redraw import redraw


@pytest.mark.parametrize("name", ["layer norm", "attention", "low rank"])
def test_neighbors_are_turned_to_this_agent(name: str) -> None:
    build, inputs, _ = MODELS[name]
    torch.manual_seed(0)
    model = build()
    analysis, symmetry = analyze(model, (inputs,)), find_continuous_symmetry(model, inputs)
    random = torch.Generator().manual_seed(1)
    own = redraw(model.state_dict(), random)
    theirs = {j: symmetry.apply(symmetry.random(random), own) for j in (4, 7)}
    found = turned_to(analysis, own, theirs, [inputs])
    assert list(found) == [4, 7]
    for state in found.values():
        torch.testing.assert_close(state, own, rtol=1e-3, atol=1e-3)


def test_of_a_part_of_the_state_only_what_is_in_it_is_turned() -> None:
    """Agents that exchange adapters turn the factors, whatever the frozen base is."""
    build, inputs, _ = MODELS["low rank"]
    torch.manual_seed(0)
    model = build()
    model.base.requires_grad_(False)  # type: ignore[union-attr, operator]
    frozen = {k: v for k, v in model.state_dict().items() if k.startswith("base")}
    analysis = analyze(model, (inputs,), frozen=frozen)
    state = redraw(model.state_dict(), torch.Generator().manual_seed(1))
    own = {k: v for k, v in state.items() if k not in frozen}
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    theirs = {"a.weight": turn @ own["a.weight"], "b.weight": own["b.weight"] @ turn.T}
    found = turned_to(analysis, own, {1: theirs}, [inputs])
    torch.testing.assert_close(found[1], own, rtol=1e-4, atol=1e-4)


def test_a_neighbor_with_a_gain_of_zero_is_left_as_it_is() -> None:
    build, inputs, _ = MODELS["layer norm"]
    model = build()
    own = redraw(model.state_dict(), torch.Generator().manual_seed(0))
    theirs = {**own, "norms.0.weight": torch.zeros(8)}
    found = turned_to(analyze(model, (inputs,)), own, {1: theirs}, [inputs])
    torch.testing.assert_close(found[1], theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixing.steps", {"mixing_steps": 2}),
        ("mixing.final_steps", {"final_steps": 3}),
        ("optimizer.on_merge", {"mix_memory": True}),
        ("merging.combine", {"combine": "gram"}),
    ],
)
def test_what_needs_one_frame_for_all_is_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"'matching.continuous' is true.*'{name}'"):
        Dimat(continuous=True, **settings)  # type: ignore[arg-type]
