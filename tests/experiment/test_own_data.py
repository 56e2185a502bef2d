"""An agent of a site that has only its own data: its setup, its handshake, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import sites
from tests.exchange.threads import peers_file

import dimat
from dimat.data import Dataset, load_dataset
from dimat.data.digits import digits
from dimat.errors import ConfigError, DataError, DimatError
from dimat.exchange.handshake import check_terms
from dimat.exchange.in_process import InProcess
from dimat.experiment.config.access import with_setting
from dimat.experiment.config.config import DataConfig, RunConfig
from dimat.experiment.config.methods import make_method
from dimat.experiment.config.parse import config_of, config_to_yaml, load_config, settings_parser
from dimat.experiment.config.validate import validate
from dimat.experiment.digests import data_digest, run_digest, shard_facts
from dimat.experiment.evaluation.evaluate import evaluated
from dimat.experiment.handshake import _OF_OWN_DATA, handshake
from dimat.experiment.running.pretrain import one_epoch
from dimat.experiment.setup import Setup, make_setup
from dimat.experiment.single_agent.run import AgentSite, run_agent
from dimat.losses import loss_of_counts
from dimat.training.round import merge_round
from dimat.training.trainer import LocalTrainer

OWN = DataConfig(split="own", classes=sites.CLASSES)
SMALL = RunConfig(
    agents=3,
    rounds=2,
    pretrain_epochs=2,
    controls=(),
    threads=1,
    width=0.25,
    topology="full",  # type: ignore[arg-type]
    data=OWN,
)
DEALT = replace(SMALL, data=DataConfig(split="by-class"))


def of_site(site: int, source: str, **data: Any) -> RunConfig:
    config = replace(SMALL, batch_size=sites.BATCH[site])
    return replace(config, data=replace(OWN, source=source, **data))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return sites.sources(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def setups(places: list[str]) -> list[Setup]:
    return [make_setup(of_site(i, source), agent=i) for i, source in enumerate(places)]


# --- the data ---------------------------------------------------------------------------------


def test_every_image_of_a_site_is_its_agents_and_labels_are_those_of_all_sites(
    setups: list[Setup],
) -> None:
    whole = digits()
    for i, setup in enumerate(setups):
        mine, agent = sites.images_of(i), setup.new_agent(i, pretraining=False)
        assert setup.dataset.num_classes == 10
        counts = np.bincount(whole.train_y[mine], minlength=10)
        expected = {"classes": 10, "agent": i, "pretrain": [counts.tolist()]}
        assert shard_facts(setup) == {**expected, "rounds": [counts.tolist()]}
        held = round(0.1 * sites.HAS[i])
        assert (len(agent.shard), len(agent.shard.validation()[1])) == (
            sites.HAS[i] - held,
            held,
        )
        assert setup.round_steps(i) == len(agent.shard) // sites.BATCH[i]
        assert setup.pretrain_steps(i) == 2 * setup.round_steps(i)
        assert agent.model(setup.test[0]).shape[1] == 10


def test_a_folder_is_the_same_site_as_an_archive_of_its_images(
    places: list[str], tmp_path: Path
) -> None:
    """Names of folders are found in the list of classes: a picture of a 7 is no class 0."""
    folder = sites.as_folder(tmp_path / "pictures", sites.images_of(2))
    pictures, archive = (
        load_dataset(x, classes=sites.CLASSES, needs=()) for x in (folder, places[2])
    )
    order = torch.argsort(archive.train_y, stable=True)
    assert torch.equal(pictures.train_x, archive.train_x[order])
    assert torch.equal(pictures.train_y, archive.train_y[order])
    other = load_dataset(folder, classes=sites.CLASSES[::-1], needs=())
    assert torch.equal(other.train_y, 9 - pictures.train_y)


def test_own_data_are_as_good_as_dealt_data() -> None:
    """Agents that load what they would be dealt are the agents of one process, bit for bit."""
    config = replace(DEALT, optimizer=replace(DEALT.optimizer, schedule="cosine"))
    dealt, whole = make_setup(config), digits()
    own = [
        make_setup(replace(config, data=OWN), dataset=whole.only(mine), agent=i)
        for i, mine in enumerate(dealt.parts.rounds)
    ]
    assert [x.config.merging.combine for x in own] == ["gram"] * 3

    def trained(setups: list[Setup]) -> list[LocalTrainer]:
        agents = [setup.new_agent(i, pretraining=False) for i, setup in enumerate(setups)]
        method = make_method(dealt.config, apart=True)
        for number in (1, 2):
            for agent in agents:
                one_epoch(agent)
            merge_round(agents, method, InProcess(range(3)), number)
        return agents

    for a, b in zip(trained(own), trained([dealt] * 3), strict=True):
        torch.testing.assert_close(a.state(), b.state(), rtol=0, atol=0)
        assert a.lr == b.lr < config.optimizer.lr


@pytest.mark.parametrize(
    "ask",
    [
        lambda setup: setup.shard(0, pretraining=True),
        lambda setup: setup.new_agent(2, pretraining=False),
        lambda setup: setup.round_steps(0),
        lambda setup: setup.pretrain_steps(2),
        lambda setup: setup.round_steps(1, together=True),
        lambda setup: setup.pretrain_steps(1, together=True),
        lambda setup: setup.new_agent(1, pretraining=False, together=True),
        lambda setup: setup.pooled(),
    ],
)
def test_what_depends_on_the_images_of_others_is_refused(
    setups: list[Setup], ask: Callable[[Setup], object]
) -> None:
    setup = setups[1]
    setup = replace(setup, config=with_setting(setup.config, "optimizer.schedule", "cosine"))
    with pytest.raises(DataError, match="'data.split' is 'own', and these are the .* agent 1 only"):
        ask(setup)


def test_what_auto_means_does_not_depend_on_the_site(setups: list[Setup]) -> None:
    """Nobody knows whether the shards differ in their classes, so all take it that they do."""
    alike = make_setup(SMALL, dataset=digits(), agent=0)  # of all classes
    images = torch.randn(6, 10)
    for setup, i in ((alike, 0), *((own, i) for i, own in enumerate(setups))):
        assert setup.config.merging.combine == "gram"
        agent, labels = setup.new_agent(i, pretraining=False), torch.tensor(sites.KNOWS[i])[:3]
        counts = agent.shard.class_counts(10)
        expected = loss_of_counts(counts, "adjusted")(images[:3], labels)
        assert agent.local_loss(images[:3], labels) == expected
    dealt = make_setup(replace(DEALT, data=DataConfig(split="iid")))
    assert dealt.config.merging.combine == "average"


# --- evaluation -------------------------------------------------------------------------------


def line(setup: Setup) -> dict[str, Any]:
    agent = setup.new_agent(setup.owner or 0, pretraining=True)
    for _ in range(2):
        one_epoch(agent)
    return evaluated(setup, agent, 0, "trained", {})[0]


def hits(agent: LocalTrainer, x: torch.Tensor, y: torch.Tensor) -> float:
    agent.model.eval()
    return float((agent.model(x).argmax(1) == y).double().mean())


def test_a_site_is_tested_on_its_own_test_images_or_else_on_those_it_holds_out(
    setups: list[Setup],
) -> None:
    whole = digits()
    known = torch.isin(whole.test_y, torch.tensor(sites.KNOWS[1]))
    assert torch.equal(setups[1].test[1], whole.test_y[known])
    for i in (0, 2):
        x, y = setups[i].shard(i, pretraining=False).validation()
        assert torch.equal(setups[i].test[0], x)
        assert torch.equal(setups[i].test[1], y)
        found = line(setups[i])
        assert found["test_accuracy"] == found["validation_accuracy"]
        assert "own_accuracy" not in found


@pytest.mark.parametrize("i", range(3))
def test_a_common_test_set_is_beside_a_sites_own(places: list[str], i: int) -> None:
    setup = make_setup(of_site(i, places[i], test_source="digits"), agent=i)
    assert torch.equal(setup.test[1], digits().test_y)
    agent = setup.new_agent(i, pretraining=True)
    for _ in range(2):
        one_epoch(agent)
    found, _ = evaluated(setup, agent, 0, "trained", {})
    assert found["test_accuracy"] == pytest.approx(hits(agent, *setup.test))
    alone = make_setup(of_site(i, places[i]), agent=i)
    assert found["own_accuracy"] == pytest.approx(hits(agent, *alone.test))
    assert found["own_accuracy"] > found["test_accuracy"]  # it knows but some of the classes


def test_a_test_source_is_for_dealt_data_too(tmp_path: Path) -> None:
    """Of the classes that the images are dealt by; no others, and nothing else is changed."""
    whole = digits()
    tests = {"test_x": whole.test_x[:7].numpy(), "test_y": whole.test_y[:7].numpy()}
    few = sites.as_archive(tmp_path / "few.npz", sites.images_of(0), **tests)
    config = replace(DEALT, data=replace(DEALT.data, test_source=few))
    setup, usual = make_setup(config), make_setup(DEALT)
    assert torch.equal(setup.test[1], whole.test_y[:7])
    assert data_digest(setup) == data_digest(usual)
    assert handshake(setup, matches=False) == handshake(usual, matches=False)
    assert torch.equal(setup.pooled().test[0], setup.test[0])
    found = line(setup)
    assert "own_accuracy" not in found


def test_a_source_of_test_images_alone_will_do(tmp_path: Path, places: list[str]) -> None:
    whole = digits()
    np.savez(tmp_path / "t.npz", test_x=whole.test_x[::3].numpy(), test_y=whole.test_y[::3].numpy())
    (tmp_path / "pictures").mkdir()
    sites.as_folder(tmp_path / "pictures", np.arange(40))
    (tmp_path / "pictures" / "train").rename(tmp_path / "pictures" / "val")
    for source, labels in (
        (f"npz:{tmp_path}/t.npz", whole.test_y[::3]),
        (f"folder:{tmp_path}/pictures", torch.sort(whole.train_y[:40]).values),
    ):
        setup = make_setup(of_site(0, places[0], test_source=source), agent=0)
        assert torch.equal(setup.test[1], labels)
        with pytest.raises(DataError, match="lacks train_x|has no folder train"):
            load_dataset(source)


# --- what neighbors compare -------------------------------------------------------------------


def test_sites_with_other_images_have_the_same_terms(setups: list[Setup]) -> None:
    first, second, third = (handshake(setup, matches=True) for setup in setups)
    assert first == second == third
    assert first["images"] == "8 x 8 x 1"
    assert not {"data", "data.source", "batch_size", "data.train_images"} & {*first}


OTHER: dict[str, Any] = {
    "data.train_images": 50,
    "data.validation": 0.5,
    "data.augment": True,
    "data.test_source": "digits",
    "data.source": "npz:elsewhere.npz",
    "batch_size": 7,
    "data.test_share": 0.3,
    "data.leave_out": ("id",),
    "data.fill": 0.0,
    "pretrain_epochs": 9,
    "local_epochs": 3,
    "local_steps": 11,
}


@pytest.mark.parametrize("name", ["data.source", "data.test_source", *_OF_OWN_DATA])
def test_what_a_site_does_with_its_own_images_is_its_own(setups: list[Setup], name: str) -> None:
    """With images that are dealt out it is not, but for where they lie."""
    where = name in ("data.source", "data.test_source")
    for setup, own in ((setups[0], True), (make_setup(DEALT), where)):
        other = replace(setup, config=with_setting(setup.config, name, OTHER[name]))
        assert (handshake(other, matches=False) == handshake(setup, matches=False)) == own


@pytest.mark.parametrize(
    ("name", "value"),
    [("rounds", 3), ("model", "cnn"), ("seed", 1), ("optimizer.lr", 0.5), ("data.split", "iid")],
)
def test_what_the_method_means_is_not(setups: list[Setup], name: str, value: Any) -> None:
    setup = setups[0]
    other = replace(setup, config=with_setting(setup.config, name, value))
    ours, theirs = handshake(setup, matches=False), handshake(other, matches=False)
    assert {key for key in ours if ours[key] != theirs[key]} == {name}


def test_other_classes_and_other_images_are_said_by_name(
    places: list[str], setups: list[Setup], tmp_path: Path
) -> None:
    ours = handshake(setups[0], matches=False)
    for classes, said in (
        ((*sites.CLASSES[:8], "9", "8"), "'data.classes' is 9 there and 8 here"),
        ((*sites.CLASSES, "ten"), "'data.classes' is ten there and nothing more here"),
    ):
        other = make_setup(of_site(1, places[1], classes=classes), agent=1)
        with pytest.raises(DimatError, match=said):
            check_terms(ours, handshake(other, matches=False), "agent 1")
    whole = digits()
    color = whole.train_x[sites.images_of(2)].expand(-1, -1, -1, 3)
    source = sites.as_archive(tmp_path / "c.npz", sites.images_of(2), train_x=color.numpy())
    other = make_setup(of_site(2, source), agent=2)
    with pytest.raises(DimatError, match="'images' is 8 x 8 x 3 there and 8 x 8 x 1 here"):
        check_terms(ours, handshake(other, matches=False), "agent 2")


def test_a_site_with_its_own_data_and_one_that_is_dealt_its_do_not_talk(
    setups: list[Setup],
) -> None:
    ours, theirs = handshake(setups[0], matches=False), handshake(make_setup(DEALT), matches=False)
    assert {"data.split", "data", "images"} <= {
        name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)
    }


def test_digests_are_of_the_own_images(places: list[str], tmp_path: Path) -> None:
    setup = make_setup(of_site(2, places[2]), agent=2)
    images = digits().train_x[sites.images_of(2)].numpy()
    images[11, 3, 3] ^= 1
    source = sites.as_archive(tmp_path / "other.npz", sites.images_of(2), train_x=images)
    other = replace(make_setup(of_site(2, source), agent=2), config=setup.config)
    assert handshake(setup, matches=False) == handshake(other, matches=False)
    assert data_digest(setup) != data_digest(other)
    assert run_digest(setup, setup.config) != run_digest(other, setup.config)


# --- what is refused ---------------------------------------------------------------------------

ELSEWHERE = "must be iid or by-class or dirichlet or iid-then-by-class: only with 'dimat agent'"


def test_only_an_agent_by_itself_has_its_own_data(tmp_path: Path) -> None:
    validate(SMALL, apart=True)
    for refuses in (validate, dimat.run):
        with pytest.raises(ConfigError, match=f"'data.split' is 'own': {ELSEWHERE}"):
            refuses(SMALL)
    with pytest.raises(ConfigError, match="'data.split' is 'own': only with 'dimat agent'"):
        make_setup(SMALL)


@pytest.mark.parametrize("words", [("run",), ("estimate",), ("compare",)])
def test_commands_of_all_agents_refuse_it(
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dimat.cli import main

    monkeypatch.chdir(tmp_path)
    own = ["--data.split", "own", "--data.classes", "0,1"]
    if words == ("compare",):
        (tmp_path / "c.yaml").write_text(
            "data: {split: own, classes: [0, 1]}\ncompare: {seeds: [0, 1]}"
        )
        own = ["c.yaml"]
    assert main([*words, *own]) == 2
    assert ELSEWHERE in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.classes", (), r"'data.classes' is \(\): must be the names of all classes with"),
        ("data.classes", ("cat", "dog", "cat"), "'data.classes' has 'cat' twice"),
        ("topology.mixing", "shard-size", "as no agent knows how many images others have"),
        ("data.test_source", "digit", "'data.test_source' is 'digit', which is unknown"),
        ("data.source", "npz:none.npz", "none.npz: no such file"),
    ],
)
def test_settings_that_own_data_cannot_have_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    config = replace(with_setting(SMALL, name, value), out=str(tmp_path / "out"))
    site = AgentSite(peers_file(tmp_path, SMALL.agents), insecure=True)
    with pytest.raises(DimatError, match=message):
        run_agent(config, 0, site)
    assert not (tmp_path / "out").exists()


def cut(folder: Path, count: int) -> str:
    return sites.as_archive(folder / "few.npz", sites.images_of(1)[:count])


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (
            lambda f: cut(f, 15),
            {},
            "agent 1 has 15 training samples of its own: .* batch of 16; use",
        ),
        (lambda f: cut(f, 16), {}, "agent 1 has nothing to be tested on: npz:.* no test images"),
        (lambda f: cut(f, 90), {"validation": 0.0}, "nothing to be tested on"),
        (lambda f: cut(f, 90), {"train_images": 91}, "there are only 90"),
        (
            lambda f: cut(f, 90),
            {"classes": ("a", "b", "c", "d")},
            r"train has label 4, which is none of the 4 classes \(a, b, c, d\); name",
        ),
        (
            lambda f: sites.as_folder(f / "own", sites.images_of(1)),
            {"classes": sites.CLASSES[:6]},
            r"train has class '6', which is none of the 6 classes \(0, 1, 2, 3, 4, …\)",
        ),
        (
            lambda f: cut(f, 90),
            {"test_source": "few"},
            "lacks test_x, test_y",
        ),
    ],
)
def test_data_that_a_site_cannot_use_are_refused(
    tmp_path: Path, make: Callable[[Path], str], data: dict[str, Any], message: str
) -> None:
    source = make(tmp_path)
    data = {name: source if value == "few" else value for name, value in data.items()}
    with pytest.raises(DataError, match=message):
        make_setup(of_site(1, source, **data), agent=1)


def test_test_images_of_another_shape_are_refused(tmp_path: Path, places: list[str]) -> None:
    np.savez(tmp_path / "wide.npz", test_x=np.zeros((4, 8, 9), np.uint8), test_y=np.zeros(4, int))
    with pytest.raises(DataError, match="are 8 x 9 x 1, and those of data.source .* 8 x 8 x 1"):
        make_setup(of_site(0, places[0], test_source=f"npz:{tmp_path}/wide.npz"), agent=0)


def test_what_a_run_of_all_agents_needs_of_a_source_it_still_needs(places: list[str]) -> None:
    for source, message in (
        (places[0], "has no folder test or val; looked for"),
        (places[2], "lacks test_x, test_y"),
        (places[1], "and no 0: classes are counted from 0 on"),
    ):
        with pytest.raises(DataError, match=message):
            make_setup(replace(DEALT, data=DataConfig(source=source)))


# --- settings ----------------------------------------------------------------------------------


def test_classes_that_are_numbers_are_names_wherever_they_are_given(tmp_path: Path) -> None:
    expected = ("0", "1", "cat")
    for text in ("[0, 1, cat]", "0,1,cat", "\n  - 0\n  - 1\n  - cat"):
        (tmp_path / "c.yaml").write_text(f"data:\n  split: own\n  classes: {text}\n")
        assert load_config(tmp_path / "c.yaml").data.classes == expected
    for words in (["--data.classes", "0,1,cat"], ["--data.classes=[0,1,cat]"]):
        assert config_of(settings_parser().parse_args(words)).data.classes == expected
    config = RunConfig(data={"classes": [0, 1, "cat"]})  # type: ignore[arg-type]
    assert config.data.classes == expected
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_a_label_beyond_the_names_is_no_other_class() -> None:
    """Labels count from the front whichever classes have images, and -1 is none of them."""
    x = torch.zeros(3, 2, 2, 1, dtype=torch.uint8)
    named = Dataset(
        "s", x, torch.tensor([0, 2, 2]), x[:0], torch.tensor([]).long(), ("b", "x", "a")
    )
    assert named.with_classes(("a", "b"), "s").train_y.tolist() == [1, 0, 0]
    with pytest.raises(DataError, match="s: train has class 'a'"):
        named.with_classes(("b", "x"), "s")
