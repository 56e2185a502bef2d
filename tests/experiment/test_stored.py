"""Data larger than memory: samples that are read by index train as those that are in memory do."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

import dimat
from dimat.data import SourceOptions, StoredTensor
from dimat.data.stored import seeded
from dimat.errors import ConfigError, DataError, Stopped
from dimat.experiment.given import source_of, storage
from dimat.experiment.given.by_index import by_index
from dimat.experiment.given.data import dataset_of
from dimat.tasks import TASKS

SMALL: dict[str, Any] = {
    "agents": 2,
    "rounds": 2,
    "pretrain_epochs": 1,
    "batch_size": 8,
    "threads": 1,
    "controls": (),
    "progress": False,
}
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(90, 4)).astype(np.float32)
LABELS = np.arange(90) % 3
PIXELS = RANDOM.integers(0, 256, (90, 8, 8, 3)).astype(np.uint8)
TOKENS = RANDOM.integers(0, 11, (90, 6))


class Counted(Dataset[Any]):
    """Samples that count how often they are read, by number."""

    def __init__(self, x: Any, y: Any, *, named: bool = False) -> None:
        self.x, self.y, self.named = x, y, named
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        self.read.append(i)
        x, y = torch.as_tensor(self.x[i]), torch.as_tensor(self.y[i])
        return {"image": x, "label": y} if self.named else (x, y)


class Noisy(Counted):
    """Samples with a random transform that draws from all three generators."""

    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        noise = torch.randn(4) + torch.from_numpy(np.random.normal(size=4)).float()
        return x + 0.1 * random.random() * noise, y


def data_of(given: Any, task: str = "classification", where: Any = "source") -> Any:
    return dataset_of(given, SourceOptions(task=TASKS[task]), storage=where)[0]


def run(data: Any, where: str = "source", out: Path | None = None, **own: Any) -> Any:
    settings = {"data.split": "iid", "data.storage": where, **SMALL, **own}
    return dimat.run(data=data, out=None if out is None else str(out), **settings)


def states(result: Any) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files = sorted((result.folder / "states").glob("*.safetensors"))
    return {f"{file.stem} {k}": v for file in files for k, v in load_file(file).items()}


def check_same(found: Any, expected: Any) -> None:
    assert found.main.agents == expected.main.agents
    own, other = states(found), states(expected)
    assert own.keys() == other.keys()
    assert own
    assert all(torch.equal(own[name], other[name]) for name in own)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a table": ((X, LABELS), {"model": "mlp"}),
    "images, augmented": ((PIXELS, LABELS), {"model": "cnn", "data.augment": True}),
    "stacks": ((X, LABELS), {"model": "mlp", "vectorize": 2}),
    "numbers": ((X, X[:, :1]), {"model": "mlp", "task": "regression"}),
}


@pytest.mark.parametrize("case", CASES)
def test_samples_by_index_train_to_the_bits_of_those_in_memory(case: str, tmp_path: Path) -> None:
    (x, y), own = CASES[case]
    there = run(Counted(x, y), "memory", tmp_path / "memory", local_steps=5, **own)
    stored = run(Counted(x, y, named=True), "source", tmp_path / "source", local_steps=5, **own)
    check_same(stored, there)


@pytest.mark.parametrize("targets_stay", [False, True])
def test_texts_are_their_own_targets_in_memory_or_not(
    targets_stay: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"task": "language-modeling", "model": "transformer", "width": 0.25}
    texts = TensorDataset(torch.from_numpy(TOKENS))
    there = run(texts, "memory", tmp_path / "memory", **own)
    if targets_stay:
        monkeypatch.setattr(storage, "MOST_BYTES", 100)
        assert isinstance(data_of(texts, "language-modeling").train_y, StoredTensor)
    stored = run(texts, "source", tmp_path / "source", **own)
    check_same(stored, there)


def test_each_agent_may_have_a_data_set_of_its_own(tmp_path: Path) -> None:
    own = {"model": "mlp", "data.classes": ("0", "1", "2")}
    settings = {**SMALL, **own}
    settings.pop("agents")
    sites: list[Any] = [Counted(X[:50], LABELS[:50]), (X[50:], LABELS[50:])]
    there = dimat.run(data=sites, out=str(tmp_path / "a"), **settings)
    settings["data.storage"] = "source"
    stored = dimat.run(data=sites, out=str(tmp_path / "b"), **settings)
    check_same(stored, there)


def test_a_run_with_random_transforms_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Each round takes 5 of the 7 steps of an epoch, so a run goes on amid epochs."""
    own = {"model": "mlp", "local_steps": 5, "rounds": 3}
    whole = run(Noisy(X, LABELS), out=tmp_path / "whole", **own)
    with pytest.raises(Stopped):
        run(Noisy(X, LABELS), out=tmp_path / "parts", max_wall_s=1e-9, **own)
    for _ in range(9):
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        data = Noisy(X, LABELS)
        try:
            parts = dimat.resume(tmp_path / "parts", False, data=data, max_wall_s=1e-9)
        except Stopped:
            continue
        break
    check_same(parts, whole)


def test_transforms_differ_from_epoch_to_epoch_but_not_where_nothing_is_trained() -> None:
    shard = dimat.data.Shard(*_parts(Noisy(X, LABELS)), images=False)
    seen = []
    for key in (1, 2):
        batches = shard.epoch(8, dimat.data.generator(key))
        seen.append(torch.cat([x for x, _ in batches]).sort(0).values)
    assert not torch.equal(seen[0], seen[1])
    first, second = (torch.cat([x for x, _ in shard.in_order(16)]) for _ in range(2))
    assert torch.equal(first, second)


def _parts(given: Any) -> tuple[Any, Any]:
    data = data_of(given)
    return data.train_x, data.train_y


@pytest.mark.parametrize("augment", [False, True])
def test_batches_that_are_skipped_change_nothing_after_them_and_are_not_read(augment: bool) -> None:
    given = Counted(PIXELS, LABELS)
    shard = dimat.data.Shard(*_parts(given))
    whole = [*shard.epoch(8, dimat.data.generator(1), augment)]
    given.read.clear()
    rest = [*shard.epoch(8, dimat.data.generator(1), augment, 6)]
    assert len(given.read) == 8 * len(rest)
    for (x, y), (other, labels) in zip(rest, whole[6:], strict=True):
        assert torch.equal(x, other)
        assert torch.equal(y, labels)


# --- memory ---------------------------------------------------------------------------------------

SAMPLE = (64, 1024)  # 256 KiB of float32
MANY = 1200  # 300 MiB


class Computed(Dataset[Any]):
    """Samples that are computed from their number, and look at what else is in memory."""

    def __init__(self) -> None:
        self.targets = [i % 2 for i in range(MANY)]
        self.most, self.reads = 0, 0

    def __len__(self) -> int:
        return MANY

    def __getitem__(self, i: int) -> Any:
        self.reads += 1
        if self.reads % 100 == 0:
            self.most = max(self.most, live_bytes())
        return torch.full(SAMPLE, (i % 2) - 0.5 + i / MANY), self.targets[i]


def live_bytes() -> int:
    """Bytes of all tensors that Python holds, each storage once."""
    there = [own for own in gc.get_objects() if type(own) in (Tensor, nn.Parameter)]
    storages = {own.untyped_storage().data_ptr(): own.untyped_storage().nbytes() for own in there}
    return sum(storages.values())


class Pooled(nn.Module):
    """A model that looks at the mean of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.hidden(x.mean(2))))
        return logits


def test_300_mib_of_samples_train_in_a_fifth_of_that() -> None:
    data, before = Computed(), live_bytes()
    own = {"model": Pooled, "matching": {"images": 32}, "recalibration": {"images": 32}}
    found = run(data, rounds=1, local_steps=4, **own)
    assert data.reads > MANY
    assert data.most > before
    assert data.most - before < MANY * 2**18 / 5
    assert found.main.summary["test_accuracy_mean"] >= 0.5


def test_a_mapped_file_is_read_by_index(tmp_path: Path) -> None:
    """220 MiB of zeros that take no room on disk, with content in a few places."""
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(880, *SAMPLE))
    x[::3] = 1.0
    np.save(tmp_path / "y.npy", (np.arange(880) % 3 == 0).astype(np.int64))
    x.flush()
    x = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    y = np.load(tmp_path / "y.npy", mmap_mode="r")
    data = data_of((x, y))
    assert isinstance(data.train_x, StoredTensor)
    assert data.test_x[:3].read().shape == (3, *SAMPLE)
    places = torch.tensor([0, 5, 9])
    read = data.train_x.read(places)
    assert torch.equal(read[:, 0, 0] > 0, data.train_y[places] == 1)
    assert not isinstance(data_of((x[:8], y[:8]), where="auto").train_x, StoredTensor)


# --- targets, and the rule of size ----------------------------------------------------------------


class Labeled(Counted):
    """Samples with their labels aside, as data sets of torchvision have them."""

    def __init__(self, x: Any, y: Any, *, told: Any = None) -> None:
        super().__init__(x, y)
        self.targets = [*map(int, y)] if told is None else told


@pytest.mark.parametrize("kind", ["whole", "subset", "joined"])
def test_labels_are_taken_from_where_they_are_known(kind: str) -> None:
    given = Labeled(X, LABELS)
    every = np.arange(90)
    data, numbers = {
        "whole": (given, every),
        "subset": (Subset(given, [*range(5, 80)]), every[5:80]),
        "joined": (ConcatDataset([given, Subset(given, range(9))]), np.r_[every, every[:9]]),
    }[kind]
    found = data_of(data)
    assert len(given.read) < 20
    both = torch.cat([found.train_y, found.test_y])
    assert torch.equal(both.sort().values, torch.from_numpy(np.sort(LABELS[numbers])))
    assert torch.equal(found.train_x.read(), torch.from_numpy(X[numbers][found.train_x.index]))
    assert torch.equal(found.train_y, torch.from_numpy(LABELS[numbers][found.train_x.index]))


@pytest.mark.parametrize("told", [[9] * 90, ["a"] * 90, [0] * 7, None])
def test_labels_that_samples_have_otherwise_are_read_in_one_pass(told: Any) -> None:
    given = Labeled(X, LABELS, told=told or {"by": "name"})
    found = data_of(given)
    assert len(given.read) <= 90 + 20
    assert torch.equal(found.train_y, torch.from_numpy(LABELS[found.train_x.index]))


def test_a_hugging_face_data_set_is_read_by_rows_and_its_labels_by_column(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"features": X.tolist(), "label": LABELS.tolist()})
    there = run(rows, "memory", tmp_path / "memory", model="mlp")
    check_same(run(rows, "source", tmp_path / "source", model="mlp"), there)
    twice = rows.with_transform(lambda own: {**own, "features": 2 * torch.tensor(own["features"])})
    found = data_of(twice)
    assert torch.equal(found.train_x.read(), 2 * torch.from_numpy(X[found.train_x.index]))


def test_samples_stay_where_they_are_beyond_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is that of all parts and all agents together, by the first sample of each."""
    given, one = Counted(X, LABELS), X.nbytes + LABELS.nbytes
    many: list[Any] = [given, DataLoader(given), (given, (X, LABELS)), [given, given]]
    for data, parts in zip(many, (1, 1, 1, 2), strict=True):
        for bound, stored in ((parts * one, False), (parts * one - 1, True)):
            monkeypatch.setattr(storage, "MOST_BYTES", bound)
            assert isinstance(data_of(data, where="auto").train_x, StoredTensor) == stored
        assert not isinstance(data_of(data, where="memory").train_x, StoredTensor)


# --- loaders, and what is refused -----------------------------------------------------------------


def test_a_loader_is_its_data_set_and_how_it_collates() -> None:
    def doubled(samples: list[Any]) -> Any:
        return {"x": 2 * torch.stack([x for x, _ in samples]), "y": [int(y) for _, y in samples]}

    for loader, count in (
        (DataLoader(Counted(X, LABELS), 7, collate_fn=doubled), 90),
        (DataLoader(Counted(X, LABELS), 7, shuffle=True, collate_fn=doubled), 90),
        (DataLoader(Counted(X, LABELS), 7, drop_last=True, collate_fn=doubled), 84),
    ):
        found = data_of(loader)
        assert len(found.train_x) + len(found.test_x) == count
        assert torch.equal(found.train_x.read(), 2 * torch.from_numpy(X[found.train_x.index]))
    drawn = DataLoader(Counted(X, LABELS), 7, sampler=WeightedRandomSampler([1.0] * 90, 90))
    assert by_index(drawn, "data") is None
    with pytest.raises(DataError, match=r"'data.storage' is 'source', and of 'data', a DataLoader"):
        data_of(drawn)


class Stream(IterableDataset[Any]):
    """Samples that come one after another."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(torch.from_numpy(X), torch.from_numpy(LABELS), strict=True)


def test_a_stream_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"is a Stream, an iterable data set.*give a map-style"):
        data_of(Stream(), where="auto")
    with pytest.raises(DataError, match="'data.storage' is 'source', and of 'data', a Stream"):
        data_of(Stream())
    assert len(data_of((DataLoader(Stream(), 9), (X, LABELS)), where="auto").train_y) == 90
    monkeypatch.setattr("dimat.experiment.given.data.MOST_BYTES", 100)
    with pytest.raises(DataError, match="more than 0 MiB of batches.*data.storage to memory"):
        data_of(DataLoader(Stream(), 9), where="auto")
    assert len(data_of((DataLoader(Stream(), 9), (X, LABELS)), where="memory").train_y) == 90


def test_samples_of_another_shape_are_refused_when_they_are_read() -> None:
    ragged = [(torch.zeros(4 + (i == 50)), i % 2) for i in range(90)]
    data = data_of((Labeled(*zip(*ragged, strict=True)), (X, LABELS % 2)))
    with pytest.raises(DataError, match=r"are \(5,\) torch.float32, and the first is \(4,\)"):
        data.train_x.read(torch.tensor([50]))
    with pytest.raises(DataError, match="do not stack"):
        data.train_x.read(torch.tensor([49, 50]))


def test_named_sources_are_not_read_by_index() -> None:
    with pytest.raises(ConfigError, match="'data.storage' is 'source': must be auto or memory"):
        dimat.run(**{"data.storage": "source"})


def test_other_data_are_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(Labeled(X, LABELS), out=tmp_path / "run", model="mlp", max_wall_s=1e-9)
    for other in (Labeled(X + 1, LABELS), Labeled(X, 2 - LABELS), Labeled(X[:81], LABELS[:81])):
        with pytest.raises(ConfigError, match="'data' is given:.*begun with given:72x4"):
            dimat.resume(tmp_path / "run", False, data=other)
    assert dimat.resume(tmp_path / "run", False, data=Labeled(X, LABELS)).main.agents


def test_a_digest_reads_64_samples_of_a_part_once() -> None:
    x = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    given = Labeled(x, np.arange(1000) % 2)
    data = data_of(given)
    given.read.clear()
    told = source_of(data)
    assert len(given.read) == len(set(given.read)) == 128  # of training and of test samples
    assert source_of(data) == told
    assert len(given.read) == 128
    x[given.read[5]] += 1
    assert source_of(data_of(Labeled(x, np.arange(1000) % 2))) != told


def test_reading_leaves_the_generators_as_they_were() -> None:
    def draws() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draws()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with seeded(7):
        first = draws()
    with seeded(7):
        assert draws() == first
    with pytest.raises(ZeroDivisionError), seeded(7):
        _ = 1 / 0
    assert draws() == expected
