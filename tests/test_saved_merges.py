"""A saved merge is what it was: irregular ones, damaged ones, and full disks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.experiment.file_faults import disk, full, no_file_longer_than
from tests.test_partial_merges import Net, batches, trained
from torch import Tensor, nn

import dimat
from dimat import Merge
from dimat.errors import ConfigError, StructureError, WriteError
from dimat.state import State, state_of


def alike(ours: Any, theirs: Any) -> None:
    """Two values are the same to the bit, in type too, and states in the order of their entries."""
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(ours, theirs)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(ours, Mapping):
        assert ours.keys() == theirs.keys()
        if any(isinstance(own, Tensor) for own in ours.values()):
            assert list(ours) == list(theirs)
        for key in ours:
            alike(ours[key], theirs[key])
    elif isinstance(ours, (tuple, list)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            alike(a, b)
    elif isinstance(ours, dimat.Symmetry):
        assert ours.to_json() == theirs.to_json()
    elif hasattr(ours, "__dataclass_fields__"):
        for own in fields(ours):
            alike(getattr(ours, own.name), getattr(theirs, own.name))
    else:
        assert ours == theirs


class Tied(nn.Module):
    """Tied embeddings in half precision, attention, a buffer of integers and an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("none", torch.empty(0, 2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


class Counting(nn.Linear):
    """A layer with a state of its own that is no tensor."""

    def get_extra_state(self) -> Any:
        return {"calls": [1, 2.5, None], "name": "é"}

    def set_extra_state(self, state: Any) -> None:
        pass


def tied() -> Merge:
    torch.manual_seed(0)
    states = [
        {k: v.bfloat16() if v.is_floating_point() else v for k, v in own.items()}
        for own in (Tied().state_dict() for _ in range(3))
    ]
    return dimat.merge(Tied(), states, [torch.randint(11, (20, 4))], [0.5, 0.3, 0.2])


def extra() -> Merge:
    model = nn.Sequential(Counting(4, 6), nn.Tanh(), nn.Linear(6, 2))
    prefixed = {f"module.{key}": value for key, value in model.state_dict().items()}
    return dimat.merge(model, [model, prefixed], [torch.randn(9, 4)])


def partial() -> Merge:
    return dimat.merge(Net(), [trained(1), trained(2)], batches(), only="stem.*")


def heads() -> Merge:
    return dimat.merge(Net(), [trained(1), trained(2, 5)], batches(), heads="keep")


def by_hand() -> Merge:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    axes = {"0.weight": ("h/i", None), "0.bias": ("h/i",), "2.weight": (None, "h/i")}
    symmetry = dimat.Symmetry.from_axes(axes, model)
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    return dimat.merge(model, [model, other], method="weights", symmetry=symmetry)


def complex_() -> Merge:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 5, dtype=torch.cfloat), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x.to(torch.cfloat)).abs())

    return dimat.merge(Wave(), [Wave(), Wave()], [torch.randn(30, 3)])


def rigid() -> Merge:
    """Nothing can be permuted, and an extra state is a tensor."""

    class Marked(nn.Linear):
        def get_extra_state(self) -> Any:
            return torch.tensor([3, 1])

        def set_extra_state(self, state: Any) -> None:
            pass

    model = nn.Sequential(Marked(3, 2))
    return dimat.merge(model, [model, Marked(3, 2).state_dict(prefix="0.")], [torch.randn(9, 3)])


MERGES: list[Callable[[], Merge]] = [tied, extra, partial, heads, by_hand, complex_, rigid]


@pytest.mark.parametrize("make", MERGES, ids=lambda own: own.__name__.strip("_"))
def test_a_merge_that_is_saved_and_loaded_is_the_same(
    tmp_path: Path, make: Callable[[], Merge]
) -> None:
    merged = make()
    merged.save(tmp_path / "merged")
    alike(dimat.load(tmp_path / "merged"), merged)
    dimat.load(tmp_path / "merged").save(tmp_path / "again")
    for file in (tmp_path / "merged").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert {own.suffix for own in (tmp_path / "merged").iterdir()} == {".safetensors", ".json"}


def test_what_was_loaded_moves_other_states_as_before(tmp_path: Path) -> None:
    merged = tied()
    merged.save(str(tmp_path / "merged"))
    found = dimat.load(str(tmp_path / "merged"))
    moved = found.symmetry.apply(found.matchings[2].permutation, merged.aligned[2])
    alike(moved, merged.symmetry.apply(merged.matchings[2].permutation, merged.aligned[2]))
    assert found.settings["combine"] == "average"
    assert found.settings["weights"] == [0.5, 0.3, 0.2]


def test_a_saved_merge_is_a_checkpoint_as_well(tmp_path: Path) -> None:
    merged = partial()
    merged.save(tmp_path / "merged")
    again = dimat.merge(Net(), [tmp_path / "merged"], batches(), recalibration="none")
    alike(again.state, merged.state)
    alike(dimat.load(tmp_path / "merged").aligned[1], merged.aligned[1])
    plain = load_file(tmp_path / "merged" / "aligned-001.safetensors")
    _ = Net().load_state_dict(plain)


def test_settings_say_how_it_was_merged() -> None:
    settings = heads().settings
    assert settings["kept"] == ["fc.bias", "fc.weight"]
    assert settings["heads"] == "keep"
    assert by_hand().settings["symmetry"] == "given"
    own = dimat.merge(Net(), [trained(1)], batches(), method=dimat.MATCHERS["cosine"])
    assert own.settings["method"] == "cosine"


def test_an_extra_state_that_is_no_json_is_refused(tmp_path: Path) -> None:
    merged = extra()
    for bad in (object(), {1: 2}, float("nan"), (1, 2)):
        state: Any = {**merged.state, "0._extra_state": bad}
        with pytest.raises(StructureError, match="'0._extra_state' is .* neither a tensor nor"):
            replace(merged, state=state).save(tmp_path / "merged")
        assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    merged = by_hand()
    for name in ("file", "folder"):
        where = tmp_path / name
        if name == "folder":
            where.mkdir()
        (where if name == "file" else where / "a").write_text("mine")
        with pytest.raises(ConfigError, match="which exists: must be a new or an empty folder"):
            merged.save(where)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    merged.save(tmp_path / "empty")
    alike(dimat.load(tmp_path / "empty"), merged)
    with pytest.raises(WriteError, match="cannot be written: No such file"):
        merged.save(tmp_path / "nowhere" / "merged")


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    merged = by_hand()
    with no_file_longer_than(100), pytest.raises(WriteError, match="too large"):
        merged.save(tmp_path / "merged")
    assert not list(tmp_path.iterdir())
    with disk(tmp_path, 3, full), pytest.raises(WriteError, match="No space"):
        merged.save(tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merged.save(tmp_path / "merged")  # whatever a process that was killed has left
    alike(dimat.load(tmp_path / "merged"), merged)


# --- damage ------------------------------------------------------------------------------------


def change(folder: Path, **facts: object) -> None:
    path = folder / "merge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def tensors(folder: Path, name: str, edit: Callable[[State], object]) -> None:
    found = load_file(folder / name)
    edit(found)
    save_file(found, folder / name)


SLOTS, SCORES = "1/slots/stem.0", "1/similarities/stem.0"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no json": (lambda f: (f / "merge.json").unlink(), "holds no merge"),
    "broken json": (lambda f: (f / "merge.json").write_text("{"), "holds no merge"),
    "nested json": (lambda f: (f / "merge.json").write_text("[" * 99999), "holds no merge"),
    "list": (lambda f: (f / "merge.json").write_text("[]"), "'format' is None"),
    "other format": (lambda f: change(f, format="dimat-merge-9"), "'format' is dimat-merge-9"),
    "no symmetry": (lambda f: change(f, symmetry={}), "not a dimat symmetry"),
    "parents": (lambda f: change(f, parents=3), "aligned-002.safetensors cannot be read"),
    "many parents": (lambda f: change(f, parents=10**12), "aligned-002.safetensors"),
    "text": (lambda f: change(f, parents="2"), "not as dimat wrote it: TypeError"),
    "entries": (lambda f: change(f, entries=3), "not as dimat wrote it: TypeError"),
    "extras": (lambda f: change(f, extras=[]), "not as dimat wrote it: AttributeError"),
    "no state": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "no parent": (lambda f: (f / "aligned-001.safetensors").unlink(), "aligned-001.safetensors"),
    "cut": (lambda f: (f / "matchings.safetensors").write_bytes(b"x" * 50), "cannot be read"),
    "entry": (
        lambda f: tensors(f, "aligned-000.safetensors", lambda x: x.pop("fc.bias")),
        "aligned-000.safetensors lacks 'fc.bias'",
    ),
    "no permutation": (
        lambda f: tensors(f, "matchings.safetensors", lambda x: x[SLOTS].zero_()),
        "parent 1 has no permutation of group 'stem.0', 1 x 7 units",
    ),
    "types": (
        lambda f: tensors(f, "matchings.safetensors", lambda x: x.update({SLOTS: x[SLOTS].int()})),
        "parent 1 has no permutation of group 'stem.0'",
    ),
    "scores": (
        lambda f: tensors(
            f, "matchings.safetensors", lambda x: x.update({SCORES: torch.zeros(2, 7)})
        ),
        r"similarities of group 'stem.0' of parent 1 have shape \(2, 7\), expected \(7,\)",
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "merged"
    partial().save(folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_name(saved: Path, tmp_path: Path, damage: str) -> None:
    apply, message = DAMAGES[damage]
    folder = tmp_path / "merged"
    shutil.copytree(saved, folder)
    apply(folder)
    with pytest.raises(StructureError, match=message) as error:
        dimat.load(folder)
    assert str(folder) in str(error.value)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="holds no merge, as Merge.save writes it"):
        dimat.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="'path' is 3: must be the path of a folder"):
        dimat.load(3)  # type: ignore[arg-type]


def test_the_state_is_of_the_model(saved: Path) -> None:
    assert dimat.load(saved).state.keys() == state_of(Net()).keys()
