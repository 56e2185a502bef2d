"""Agents of sites that have only their own data, each in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import sites
from tests.distributed.cluster import Cluster

from dimat.data import partition
from dimat.data.digits import digits

Make = Callable[..., Cluster]
TRIANGLE = ((0, 1), (1, 2), (2, 0))
NAMED = {
    "data__split": "own",
    "data__classes": ",".join(sites.CLASSES),
    "data__train_images": "null",
}


def start(cluster: Cluster, sources: Sequence[str], batch: Sequence[int]) -> None:
    """Start the agents, each with its own images and batches."""
    for i, (source, size) in enumerate(zip(sources, batch, strict=True)):
        cluster.start(i, settings={"data.source": source, "batch_size": size})


def dealt(folder: Path) -> list[str]:
    """What a split by class deals to each of three agents, as archives of their own."""
    labels = digits().train_y
    parts = partition("by-class", labels, 3, seed=0, alpha=0.5, batch_size=16).rounds
    return [sites.as_archive(folder / f"{i}.npz", own) for i, own in enumerate(parts)]


def test_agents_with_own_data_end_as_one_process_that_has_all_of_them(
    cluster: Make, tmp_path: Path
) -> None:
    """Bit for bit, though none of them loads an image of another."""
    own = cluster(TRIANGLE, rounds=3, pretrain_epochs=2, **NAMED)
    start(own, dealt(tmp_path), [16, 16, 16])
    assert set(own.finish().values()) == {0}
    whole = own.reference(data__split="by-class", data__classes="none")
    for i in range(3):
        assert [own.exchanged(i, j) for j in range(3) if j != i] == [3, 3]
        expected = load_file(whole / "states" / f"agent-{i:03d}.safetensors")
        torch.testing.assert_close(own.state(i), expected, rtol=0, atol=0)
        shards = json.loads((own.path(i) / "shards.json").read_text())
        assert (shards["agent"], len(shards["rounds"])) == (i, 1)


def test_a_site_whose_data_were_changed_does_not_go_on(cluster: Make, tmp_path: Path) -> None:
    own = cluster(((0, 1),), rounds=2, pretrain_epochs=1, **NAMED)
    places = sites.sources(tmp_path)[1:]
    start(own, places, [16, 16])
    assert set(own.finish().values()) == {0}
    before = (own.path(1) / "shards.json").read_text()
    pixel = digits().train_x[sites.images_of(2)].numpy()
    pixel[5, 3, 3] ^= 1
    for number, changes in enumerate(({"train_x": pixel}, {"indices": sites.images_of(2)[1:]}), 1):
        given = {"indices": sites.images_of(2), **changes}
        sites.as_archive(tmp_path / "third.npz", **given)
        own.start(1, settings={"data.source": places[1]})
        assert own.finish([1]) == {1: 2}
        said = own.log(1).read_text()
        assert said.count("are of other settings or other data than this agent's") == number
    assert (own.path(1) / "shards.json").read_text() == before


@pytest.mark.slow
def test_sites_that_know_some_classes_each_know_all_of_them_together(
    cluster: Make, tmp_path: Path
) -> None:
    """Far beyond what its own images tell any of them, on a test set of all classes.

    They are 0.3, 0.4 and 0.3 of the test images, and with three seeds a site was right on 0.31 or
    less, 0.40 and 0.30 of all by itself, and on 0.81 or more after the last merge.
    """
    length = {"rounds": 20, "pretrain_epochs": 10, "local_steps": 8}
    own = cluster(TRIANGLE, width=1.0, data__test_source="digits", **length, **NAMED)
    start(own, sites.sources(tmp_path), sites.BATCH)
    assert set(own.finish().values()) == {0}
    for i, known in enumerate(sites.KNOWS):
        alone, merged = own.lines(i)[0], own.merged(i)[20]
        assert (alone["round"], alone["phase"]) == (0, "trained")
        share = float(torch.isin(digits().test_y, torch.tensor(known)).double().mean())
        assert alone["test_accuracy"] < share + 0.1
        assert merged["test_accuracy"] > share + 0.2
        assert alone["own_accuracy"] > 0.7
