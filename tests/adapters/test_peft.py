"""Adapters of PEFT itself: as agents exchange them, and as folders."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.nets import AdaptedNet
from torch import nn
from torch.testing import assert_close

from dimat.cli import main
from dimat.merging.adapters import find_factors, product
from dimat.state import state_of
from dimat.symmetry import analyze
from dimat.training.exchanged import frozen_entries, trained_keys

pytestmark = pytest.mark.filterwarnings("ignore")  # of another package, while it is imported
X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft", exc_type=ImportError)


class Net(nn.Module):
    """A convolution, two layers and a head, as a base."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3)
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.conv(x[:, None]).flatten(1))
        found: torch.Tensor = self.classifier(
            torch.relu(self.second(torch.relu(self.first(hidden))))
        )
        return found


def base() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def adapted(peft: Any, seed: int, **more: Any) -> Any:
    settings = {"r": 2, "lora_alpha": 6, **more}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            target_modules=["conv", "first", "second"], modules_to_save=["classifier"], **settings
        )
        model = peft.get_peft_model(base(), config)
        for name, value in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(value)
    return model.eval()


def test_agents_exchange_factors_and_what_is_trained_as_a_whole(peft: Any) -> None:
    model = adapted(peft, 1)
    keys = trained_keys(model, (X,))
    pairs = find_factors(keys)
    assert [own.module.rpartition(".")[2] for own in sorted(pairs, key=lambda own: own.module)] == [
        *("conv", "first", "second"),
    ]
    assert {key.rpartition("classifier.")[2] for key in keys if "lora" not in key} == {
        *("modules_to_save.default.weight", "modules_to_save.default.bias"),
    }


def test_ranks_of_peft_are_free_and_its_base_is_pinned(peft: Any) -> None:
    model = adapted(peft, 1)
    keys = trained_keys(model, (X,))
    found = analyze(model, (X[:2],), frozen=frozen_entries(model, keys)).symmetry
    members = {frozenset(key for key, _ in group.members) for group in found.groups}
    assert members == {frozenset({own.a, own.b}) for own in find_factors(keys)}
    state = state_of(model, keys)
    moved = found.apply(found.random(torch.Generator().manual_seed(0)), state)
    twin = copy.deepcopy(model)
    twin.load_state_dict({**twin.state_dict(), **moved})
    assert_close(twin(X), model(X))


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("way", ["product", "stacked"])
def test_a_merged_folder_adds_what_the_average_adds(
    peft: Any, tmp_path: Path, way: str, root: bool
) -> None:
    """Loaded by PEFT on the base, and merged into it."""
    models = [
        adapted(peft, 1, use_rslora=root),
        adapted(peft, 2, r=3, alpha_pattern={"first": 9}, use_rslora=root),
    ]
    folders = [tmp_path / f"{k}" for k in range(2)]
    for model, folder in zip(models, folders, strict=True):
        model.save_pretrained(folder)
    words = ["--rank", "5"] if way == "product" else []
    assert main(["merge", "--adapters", *map(str, folders), "--out", str(tmp_path / "out"),
                 "--combine", way, *words]) == 0  # fmt: skip
    whole = [model.merge_and_unload().state_dict() for model in models]
    merged = peft.PeftModel.from_pretrained(base(), tmp_path / "out").merge_and_unload()
    mean = {key: (whole[0][key] + whole[1][key]) / 2 for key in whole[0]}
    assert_close(dict(merged.state_dict()), mean, rtol=1e-4, atol=1e-5)


def test_a_loaded_product_is_the_pure_function_of_its_factors(peft: Any) -> None:
    models = [adapted(peft, seed) for seed in (1, 2)]
    states = [state_of(model) for model in models]
    pairs = find_factors(states[0])
    found = product([pairs[0].read(state) for state in states], [0.5, 0.5])
    assert found.rank == 2


def test_hand_written_adapters_have_the_same_names() -> None:
    assert len(find_factors(state_of(AdaptedNet()))) == 2
