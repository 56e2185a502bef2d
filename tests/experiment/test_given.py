"""Runs of models and data that are objects: what is taken, how they go on, what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import dimat
from dimat.cli import main
from dimat.data import Dataset as OurDataset
from dimat.data import SourceOptions, load_dataset
from dimat.data.stored import StoredTensor
from dimat.errors import ConfigError, DataError, DimatError, Stopped
from dimat.experiment.config.parse import load_config
from dimat.experiment.given import way_to_resume
from dimat.experiment.given.data import dataset_of
from dimat.tasks import TASKS

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(120, 4)).astype(np.float32)
Y = (X[:, 0] - X[:, 1]).astype(np.float32)
HOLED = X.copy()
HOLED[7, 2], HOLED[9, 0] = np.inf, np.nan
SMALL: dict[str, Any] = {
    "agents": 3,
    "rounds": 2,
    "pretrain_epochs": 2,
    "batch_size": 8,
    "threads": 1,
    "controls": (),
    "task": "regression",
    "optimizer": {"lr": 1e-2},
    "progress": False,
}


class Rows(Dataset[Any]):
    """A map-style data set, of dicts or pairs."""

    def __init__(self, x: Any, y: Any, *, named: bool = False) -> None:
        self.x, self.y, self.named = torch.as_tensor(x), torch.as_tensor(y), named

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        pair = self.x[i], self.y[i]
        return {"x": pair[0], "label": pair[1]} if self.named else pair


REGRESSION = SourceOptions(task=TASKS["regression"])


def net(in_features: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, 16), nn.ReLU(), nn.Linear(16, num_outputs))


def given(data: Any, task: str = "regression") -> OurDataset:
    return dataset_of(data, SourceOptions(task=TASKS[task]))[0]


@pytest.mark.parametrize(
    "data",
    [
        ((X[:96], Y[:96]), (X[96:], Y[96:])),
        ((torch.from_numpy(X[:96]), torch.from_numpy(Y[:96])), (X[96:], Y[96:])),
        (TensorDataset(*map(torch.from_numpy, (X[:96], Y[:96]))), Rows(X[96:], Y[96:])),
        (Rows(X[:96], Y[:96], named=True), DataLoader(Rows(X[96:], Y[96:]), batch_size=7)),
        (list(zip(X[:96], Y[:96], strict=True)), Rows(X[96:].astype(np.float64), Y[96:])),
        ({"x": X[:96], "y": Y[:96]}, {"inputs": X[96:].tolist(), "targets": Y[96:].tolist()}),
        {"test": (X[96:], Y[96:]), "train": {"y": Y[:96], "x": X[:96]}},
    ],
    ids=[
        *("arrays", "tensors", "data sets", "dicts and a loader", "a list of samples"),
        *("dicts", "a dict of parts"),
    ],
)
def test_samples_come_in_many_forms_and_are_the_same(data: Any) -> None:
    found = given(data)
    torch.testing.assert_close(found.train_x, torch.from_numpy(X[:96]), rtol=0, atol=0)
    torch.testing.assert_close(found.test_x, torch.from_numpy(X[96:]), rtol=0, atol=0)
    torch.testing.assert_close(found.train_y[:, 0], torch.from_numpy(Y[:96]), rtol=0, atol=0)
    assert not found.images


def test_a_hugging_face_data_set_is_read_by_its_columns() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"features": X[:20].tolist(), "label": Y[:20].tolist()})
    found = given((rows, rows))
    torch.testing.assert_close(found.train_x, torch.from_numpy(X[:20]))
    torch.testing.assert_close(found.test_y[:, 0], torch.from_numpy(Y[:20]))


def test_a_loader_may_pad_what_does_not_stack() -> None:
    texts = [torch.arange(1, n) for n in (3, 5, 4)]

    def padded(batch: Any) -> Tensor:
        return nn.utils.rnn.pad_sequence(batch, batch_first=True)

    with pytest.raises(DataError, match="of 'data' do not stack: .*DataLoader with a collate_fn"):
        given(Unlabeled(texts), "language-modeling")
    found = given(DataLoader(Unlabeled(texts * 5), 15, collate_fn=padded), "language-modeling")
    assert found.train_x.shape[1:] == (4,)
    assert torch.equal(found.train_x, found.train_y)


class Unlabeled(Dataset[Any]):
    """Samples without targets."""

    def __init__(self, samples: list[Tensor]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Tensor:
        return self.samples[i]


def test_data_without_a_test_part_give_a_fifth_of_each_class() -> None:
    labels = np.arange(100) % 4
    found = given((X[:100], labels), "classification")
    assert torch.bincount(found.test_y).tolist() == [5] * 4
    assert len(found.train_y) == 80
    both = torch.cat([found.train_x, found.test_x])
    assert len(torch.unique(both, dim=0)) == 100
    again = given((X[:100], labels), "classification")
    assert torch.equal(found.test_x, again.test_x)
    with pytest.raises(DataError, match="data: train_y has 4 labels from 1 to 4, and no 0"):
        given((X[:100], labels + 1), "classification")
    half = SourceOptions(task=TASKS["classification"], test_share=0.5)
    assert len(dataset_of((X[:100], labels), half)[0].test_y) == 50


def test_bytes_are_images_and_floats_are_what_models_get() -> None:
    pixels, labels = RANDOM.integers(0, 256, (20, 5, 6, 3)).astype(np.uint8), np.arange(20) % 2
    assert given((pixels, labels), "classification").input_shape == (3, 5, 6)
    floats = torch.randn(20, 3, 5, 6)
    found = given((floats, torch.as_tensor(labels)), "classification")
    assert not found.images
    assert found.input_shape == (3, 5, 6)
    with pytest.raises(DataError, match="np.transpose"):
        given((pixels.transpose(0, 3, 1, 2), labels), "classification")


def test_a_run_of_objects_is_recorded_and_goes_on(tmp_path: Path) -> None:
    data = ((X[:96], Y[:96]), (X[96:], Y[96:]))

    def build(in_features: int, num_outputs: int) -> nn.Module:
        return net(in_features, num_outputs)

    own = {**SMALL, "model": build, "data": data}
    whole = dimat.run(out=str(tmp_path / "whole"), **own)
    on = rf"dimat.resume\('{tmp_path}/run', model=…, data=…\)"
    with pytest.raises(Stopped, match=f"; {on} goes on"):
        dimat.run(out=str(tmp_path / "run"), max_wall_s=1e-3, **own)
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.model, config.data.split) == ("given:build", "iid")
    assert re.fullmatch("given:96x4-[0-9a-f]{12}", config.data.source)
    for lacking in ({}, {"model": build}, {"data": data}):
        with pytest.raises(ConfigError, match=f"begun from Python.*, in Python {on}$"):
            dimat.resume(tmp_path / "run", progress=False, **lacking)
    other = ((X[:96], Y[:96] + 1), data[1])
    with pytest.raises(
        ConfigError, match=r"'data' is given:96x4-\w+, and the run was begun with given:96x4-"
    ):
        dimat.resume(tmp_path / "run", progress=False, model=build, data=other)
    for _ in range(2):  # goes on, then reads what is done
        on = dimat.resume(tmp_path / "run", progress=False, model=build, data=data)
        assert on.main.agents == whole.main.agents
    with pytest.raises(ConfigError, match="'data' is given:96x4-"):
        dimat.resume(tmp_path / "run", progress=False, model=build, data=other)
    with pytest.raises(DimatError, match="a state of another model: "):
        dimat.resume(tmp_path / "run", progress=False, model=nn.Linear(4, 1), data=data)


def test_a_command_that_goes_on_without_the_objects_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ((X[:96], Y[:96]), (X[96:], Y[96:]))
    out, on = tmp_path / "run", f"dimat.resume('{tmp_path}/run', data=…)"
    with pytest.raises(Stopped, match=re.escape(f"{on} goes on")):
        dimat.run(out=str(out), max_wall_s=1e-3, data=data, **SMALL)
    assert main(["resume", str(out)]) == 2
    assert on in capsys.readouterr().err
    config = load_config(out / "config.yaml")
    assert way_to_resume(out, config, ("symmetry",)) == on.replace("data=…", "data=…, symmetry=…")
    plain = replace(config, data=replace(config.data, source="digits"))
    assert way_to_resume(out, plain) == f"'dimat resume {out}'"


def test_a_symmetry_given_by_hand_is_named_with_what_goes_on(tmp_path: Path) -> None:
    symmetry = dimat.find_symmetry(net(4, 1), (torch.from_numpy(X[:2]),))
    own = {**SMALL, "method": "wm", "model": net, "out": str(tmp_path / "run"), "max_wall_s": 1e-9}
    with pytest.raises(Stopped, match=r"; dimat.resume\('.*/run', data=…, symmetry=…\) goes on"):
        dimat.run(data=((X, Y), (X, Y)), symmetry=symmetry, **own)


def test_each_agent_may_have_data_of_its_own(tmp_path: Path) -> None:
    sizes = (30, 50, 16)
    ends = np.cumsum((0, *sizes))
    data = [(X[a:b], Y[a:b]) for a, b in pairwise(ends)]
    seen: list[Any] = []

    def build(in_features: int, num_outputs: int) -> nn.Module:
        seen.append((in_features, num_outputs))
        return net(in_features, num_outputs)

    own = {k: v for k, v in SMALL.items() if k != "agents"}
    result = dimat.run(out=str(tmp_path / "run"), data=data, model=build, **own)
    assert set(seen) == {(4, 1)}
    assert result.config.agents == 3
    shards = (tmp_path / "run" / "shards.json").read_text()
    assert '"rounds": [[24], [40], [13]]' in shards  # a fifth of each is for the common test
    again = dimat.resume(tmp_path / "run", progress=False, data=data, model=build)
    assert again.main.agents == result.main.agents
    for other in (data[0], (X[:96], Y[:96])):
        with pytest.raises(ConfigError, match="the run was begun with given:77x4"):
            dimat.resume(tmp_path / "run", progress=False, data=other, model=build)
    with pytest.raises(ConfigError, match="'agents' is 2, and 'data' is a list of 3"):
        dimat.run(data=data, model=build, **{**own, "agents": 2})
    with pytest.raises(DataError, match="agent 2 3 training samples: it needs a full batch"):
        dimat.run(data=[*data[:2], (X[:4], Y[:4])], model=build, **own)
    with pytest.raises(DataError, match=r"data\[0\] has samples .*, and data\[2\] "):
        dimat.run(data=[*data[:2], (X[:, :3], Y)], model=build, **own)


def test_a_module_is_where_every_agent_begins() -> None:
    start = net(4, 1)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    first: list[Any] = []

    class Noting:
        def started(self, *args: Any) -> None: ...

        def measured(self, method: str, line: Any) -> None:
            if line["round"] == 0:
                first.append(line["test_loss"])

        def finished(self, *args: Any) -> None: ...

    own = {**SMALL, "pretrain_epochs": 0, "rounds": 1}
    dimat.run(model=start, data=((X, Y), (X, Y)), callbacks=[Noting()], **own)
    torch.testing.assert_close(start.state_dict(), before, rtol=0, atol=0)
    with torch.no_grad():
        expected = float((start(torch.from_numpy(X))[:, 0] - torch.from_numpy(Y)).square().mean())
    assert first == pytest.approx([expected] * 3, rel=1e-5)


def test_dicts_of_arrays_are_data_of_all_agents_or_of_each(tmp_path: Path) -> None:
    """And dicts of settings stay settings."""
    tuples = dimat.run(data=(X, Y), out=str(tmp_path / "tuples"), **SMALL)
    dicts = dimat.run(data={"x": X, "y": Y}, out=str(tmp_path / "dicts"), **SMALL)
    assert dicts.config.data == tuples.config.data
    assert dicts.main.agents == tuples.main.agents
    each = [{"x": X[k::3], "y": Y[k::3]} for k in range(3)]
    assert dimat.run(data=each, out=str(tmp_path / "each"), **SMALL).config.data.split == "given"
    parts = {"train": (X, Y), "test": (X, Y)}
    assert dataset_of(parts, SourceOptions(task=TASKS["regression"]))[0].divided
    with pytest.raises(ConfigError, match="unknown setting 'data.sorce': did you mean 'source'"):
        dimat.run(data={"sorce": "digits"})
    for wrong in ({"x": X, "y": Y}, {"train": (X, Y)}):
        with pytest.raises(ConfigError, match=r"samples are given to dimat.run\(data=…\)"):
            dimat.run({"data": wrong})


def test_a_function_that_a_name_leads_to_is_its_name(tmp_path: Path) -> None:
    from tests.tasks.models import Next

    texts = RANDOM.integers(0, 5, (60, 6))
    own = {**SMALL, "task": "language-modeling", "out": str(tmp_path / "run")}
    result = dimat.run(model=Next, data=texts, **own)
    assert result.config.model == "tests.tasks.models:Next"


def test_a_data_set_of_ours_is_taken_as_it_is(tmp_path: Path) -> None:
    data = load_dataset("digits")
    own = {**SMALL, "task": "classification", "pretrain_epochs": 1, "rounds": 1}
    config = {"data": {"split": "by-class", "train_images": 200}}
    result = dimat.run(config, data=data, out=str(tmp_path / "run"), **own)
    assert result.config.data.split == "by-class"


class Table:
    """Columns by name, as a DataFrame of pandas has them."""

    def __init__(self, **columns: list[float]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["a"])

    def __getitem__(self, name: str) -> list[float]:
        return self.columns[name]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "'data' is 3: must be arrays"),
        ([], "empty list"),
        ([{"a": X, "b": Y}] * 9, r"'data\[0\]' has none of x, .*it has a, b"),
        ({"a": X, "y": Y}, "'data' has none of x, .*it has a, y"),
        ({"x": X, "inputs": X, "y": Y}, "'data' has both x and inputs"),
        ((X, np.asarray(0.5)), "targets are one number: must be one for each input"),
        ({"x": [[1.0], [1.0, 2.0]], "y": [1, 2]}, "the samples of 'data' do not stack"),
        ({"train": (X, Y), "valid": (X, Y)}, "has the parts train, valid: must have train and te"),
        (Unlabeled([torch.zeros(3), torch.zeros(4)]), "do not stack"),
        (Unlabeled([]), "has no samples"),
        (iter([1]), "must be arrays"),
        (Table(a=[0.5], b=[1.0]), r"a Table of which .*KeyError.*a table is arrays, as"),
        ((X, Y[:5]), "train_x has 120 inputs, train_y 5 targets"),
        (((X, Y), (X[:, :2], Y)), r"training inputs are \(4,\).*test inputs \(2,\)"),
        ((X, np.full(120, np.nan)), r"train_y has nan in row 0 \(counted from 0\).*in 120 places"),
        ((HOLED, Y), r"data: x has inf in row 7, column 2 \(.*, and values .* in 2 places: fill"),
        ([(X, Y), (HOLED, Y)], r"data\[1\]: x has inf in row 7, column 2 "),
        (Rows(HOLED, Y), "data: x has inf in row 7, column 2 "),
        ((np.stack([HOLED] * 2, 1), Y), r"data: x has inf at \[7, 0, 2\]"),
    ],
)
def test_data_that_cannot_be_used_are_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        given(data)


def test_a_dict_without_known_names_says_which_are_known() -> None:
    class Odd(Rows):
        def __getitem__(self, i: int) -> Any:
            return {"a": self.x[i], "b": self.y[i]}

    with pytest.raises(DataError, match="has none of x, input, .*it has a, b"):
        given(Odd(X, Y))


def test_what_a_config_cannot_hold_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match=r"objects are given to dimat.run\(data=…\)"):
        dimat.RunConfig(data=Rows(X, Y))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"objects are given to dimat.run\(model=…\)"):
        dimat.RunConfig(model=net)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'model' is 3: must be a name, a function or class"):
        dimat.run(model=3, **SMALL)
    with pytest.raises(ConfigError, match="'data' is digits: must be the object of the run"):
        dimat.resume(".", data="digits")


def test_own_data_are_dealt_out_evenly_unless_another_split_is_named(tmp_path: Path) -> None:
    """The split of the demo, by class after a half, is for digits."""
    x, y = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
    small = {"agents": 2, "rounds": 1, "pretrain_epochs": 1, "batch_size": 4, "controls": ()}
    for named, split in ({}, "iid"), ({"data.split": "by-class"}, "by-class"):
        out = str(tmp_path / split)
        found = dimat.run(data=(x, y), out=out, progress=False, **small, **named)  # type: ignore[arg-type]
        assert load_config(found.folder / "config.yaml").data.split == split


def test_data_of_each_agent_are_not_dealt_out() -> None:
    x, y = np.zeros((40, 4), np.float32), np.arange(40) % 2
    with pytest.raises(ConfigError, match=r"'data.split' is 'by-class', and 'data' is a list"):
        dimat.run(data=[(x, y), (x, y)], **{"data.split": "by-class"})  # type: ignore[arg-type]


def test_names_of_classes_are_refused_with_the_way_to_count_them() -> None:
    x, y = np.zeros((40, 4), np.float32), np.array(["no", "yes"] * 20)
    with pytest.raises(DataError, match=r"targets are <U3: must be numbers; of classes by name"):
        dimat.run(data=(x, y))


def test_a_run_does_not_go_on_with_another_model(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
    small = {"agents": 2, "rounds": 3, "pretrain_epochs": 1, "batch_size": 4, "controls": ()}
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        dimat.run(
            data=(x, y),
            model=nn.Linear(4, 3),
            out=str(out),
            progress=False,
            max_wall_s=1e-9,
            **small,
        )  # type: ignore[arg-type]
    other = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(DimatError, match="a state of another model: "):
        dimat.resume(out, progress=False, data=(x, y), model=other)


def test_a_model_that_settings_name_is_not_given_as_an_object(tmp_path: Path) -> None:
    data, out = ((X[:96], Y[:96]), (X[96:], Y[96:])), tmp_path / "run"
    dimat.run(out=str(out), data=data, **SMALL)
    with pytest.raises(ConfigError, match=r"'model' is tests.*:net, and .* with mlp, .*: leave"):
        dimat.resume(out, progress=False, data=data, model=net)


@pytest.mark.parametrize("more", [{}, {"drop_last": True}, {"num_workers": 1}])
def test_a_loader_that_shuffles_is_read_in_the_order_of_its_data_set(more: Any) -> None:
    """Else another run would have other samples to test on, and none could go on."""
    expected, _ = dataset_of(Rows(X, Y), REGRESSION)
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found, _ = dataset_of(DataLoader(Rows(X, Y), 32, shuffle=True, **more), REGRESSION)
        for name in ("train_x", "train_y", "test_x", "test_y"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
        assert torch.equal(before, torch.get_rng_state())


class Drawn(Rows):
    """Samples with noise that is drawn whenever one is read."""

    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        return x + 0.01 * torch.randn_like(x), y


def test_samples_that_differ_each_time_are_drawn_anew_and_the_same_in_each_run() -> None:
    """By default they were read once: a run had one draw, and another run another."""
    found = []
    for _ in range(2):
        before = torch.get_rng_state()
        data, _ = dataset_of(Drawn(X, Y), REGRESSION)
        assert isinstance(data.train_x, StoredTensor)
        found.append([data.train_x.read(torch.arange(9), seed) for seed in (3, 4)])
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][0], found[0][1])
    in_memory = [dataset_of(Drawn(X, Y), REGRESSION, storage="memory")[0] for _ in range(2)]
    assert torch.equal(*(own.train_x for own in in_memory))  # type: ignore[arg-type]
    assert not isinstance(dataset_of(Rows(X, Y), REGRESSION)[0].train_x, StoredTensor)


@pytest.mark.parametrize("way", ["settings", "config", "file"])
def test_own_data_have_one_default_split_in_whatever_form_settings_are(
    tmp_path: Path, way: str
) -> None:
    labels = (X @ RANDOM.normal(size=(4, 3)).astype(np.float32)).argmax(1)
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 3\n")
    own: Any = {"settings": {"seed": 3}, "config": dimat.RunConfig(seed=3), "file": file}[way]
    small = {**SMALL, "task": "classification", "rounds": 0, "out": str(tmp_path / "run")}
    found = dimat.run(own, model=net, data=(X, labels), **small)
    assert found.config.data.split == "iid"
    file.write_text("data: {split: iid-then-by-class}\n")
    said: Any = {"settings": {"data.split": "iid-then-by-class"}, "file": file}
    if way in said:  # of a config nobody knows whether it was said
        small |= {"pretrain_epochs": 0, "overwrite": True, "batch_size": 2}
        found = dimat.run(said[way], model=net, data=(X, labels), **small)
        assert found.config.data.split == "iid-then-by-class"


def test_a_data_set_with_a_generator_of_its_own_is_read_once() -> None:
    """By index it would be another each time, as nobody can seed it."""

    class Own(Rows):
        def __init__(self) -> None:
            super().__init__(X, Y)
            self.random = np.random.default_rng(0)

        def __getitem__(self, i: int) -> Any:
            x, y = super().__getitem__(i)
            return x + float(self.random.normal()), y

    found = [dataset_of(Own(), REGRESSION)[0].train_x for _ in range(2)]
    assert torch.equal(*found)  # type: ignore[arg-type]


def test_parts_by_name_are_looked_at_too() -> None:
    data, _ = dataset_of({"train": Drawn(X, Y), "test": Rows(X, Y)}, REGRESSION)
    assert isinstance(data.train_x, StoredTensor)


def test_missing_numbers_are_no_draws() -> None:
    holed = X.copy()
    holed[::3, 1] = np.nan
    with pytest.raises(DataError, match="nan in row 0"):
        dataset_of(Rows(holed, Y), REGRESSION)


def test_what_a_loader_of_another_kind_does_is_kept() -> None:
    class Doubled(DataLoader[Any]):
        def __iter__(self) -> Any:
            return ([2 * x, y] for x, y in super().__iter__())

    found, _ = dataset_of(Doubled(Rows(X, Y), 32, shuffle=True), REGRESSION)
    assert {*found.train_x[:, 0].tolist()} <= {*(2 * X[:, 0]).tolist()}  # type: ignore[index]


def test_a_loader_that_draws_with_a_generator_of_its_own_is_the_same_again() -> None:
    own = torch.Generator()
    sampler = RandomSampler(Rows(X, Y), replacement=True, generator=own)
    loader = DataLoader(Rows(X, Y), 32, sampler=sampler)
    first, _ = dataset_of(loader, REGRESSION)
    own.manual_seed(7)  # as it may be in another process
    before = own.get_state()
    second, _ = dataset_of(loader, REGRESSION)
    assert torch.equal(first.train_x, second.train_x)  # type: ignore[arg-type]
    assert torch.equal(before, own.get_state())


def test_auto_is_no_split_that_was_asked_for(tmp_path: Path) -> None:
    labels = (X @ np.ones((4, 3), np.float32)).argmax(1)
    small = {**SMALL, "task": "classification", "rounds": 0, "pretrain_epochs": 0}
    ways: list[Any] = [{"data.split": "auto"}, {"data": {"split": "auto"}}]
    for way in ways:
        small |= {"out": str(tmp_path / "run"), "overwrite": True}
        assert dimat.run(way, model=net, data=(X, labels), **small).config.data.split == "iid"
