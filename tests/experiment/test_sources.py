"""Data by the names in settings: tables of one file, or of one file for each agent."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError, DataError, StructureError
from dimat.experiment.config.access import typed, with_setting
from dimat.experiment.config.config import DataConfig
from dimat.experiment.config.parse import config_from, config_to_yaml, load_config
from dimat.experiment.digests import run_digest
from dimat.experiment.handshake import handshake
from dimat.experiment.setup import make_setup

pytest.importorskip("pyarrow")

COLUMNS = ("age", "color", "sick")
COLORS = "color=blue|green|red"


def rows(count: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """Patients of whom the old ones in red are sick."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        age, color = float(random.integers(20, 90)), str(random.choice(["red", "blue", "green"]))
        found.append((age, color, "yes" if age > 55 and color == "red" else "no"))
    return found


def write(path: Path, content: Sequence[Sequence[Any]], columns: Sequence[str] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *content])
    return path


def settings(source: str, **data: Any) -> RunConfig:
    chosen = {"target": ("sick",), "split": "iid", **data}
    return RunConfig(
        agents=3,
        rounds=1,
        pretrain_epochs=1,
        batch_size=8,
        controls=(),
        topology="full",  # type: ignore[arg-type]
        data=DataConfig(source=source, **chosen),
    )


def of_sites(folder: Path, **data: Any) -> RunConfig:
    """Settings of three sites, each with a file of its own."""
    for site, count in enumerate((30, 40, 50)):
        write(folder / f"site-{site}.csv", rows(count, site))
    own = {"split": "own", "classes": ("no", "yes"), "categories": (COLORS,), **data}
    return settings(f"csv:{folder}/site-{{agent}}.csv", **own)


def test_a_table_is_run_on_and_tested_on_a_share_of_it(tmp_path: Path) -> None:
    config = settings(f"csv:{write(tmp_path / 't.csv', rows(100))}")
    setup = make_setup(config)
    assert [len(own) for own in setup.parts.rounds] == [27, 27, 26]
    assert len(setup.test[1]) == 20
    assert (setup.num_outputs, setup.dataset.classes) == (2, ("no", "yes"))
    dimat.run(replace(config, out=str(tmp_path / "run")), progress=False)
    assert (tmp_path / "run" / "summary.json").exists()


def test_another_table_is_the_test_part_with_the_categories_of_the_first(tmp_path: Path) -> None:
    source = write(tmp_path / "t.csv", rows(60))
    red = [own for own in rows(40, 1) if own[1] == "red"]
    test = write(tmp_path / "test.csv", red)
    setup = make_setup(settings(f"csv:{source}", test_source=f"csv:{test}"))
    assert sum(len(own) for own in setup.parts.rounds) == 60
    assert len(setup.test[1]) == len(red)
    assert set(map(tuple, setup.test[0][:, 1:].tolist())) == {(0.0, 0.0, 1.0)}
    write(test, [(age, "black", sick) for age, _, sick in red])
    with pytest.raises(DataError, match="column 'color' has 'black' in row 1, which is none of"):
        make_setup(settings(f"csv:{source}", test_source=f"csv:{test}"))
    write(test, [(own[1], own[0], own[2]) for own in red], ("color", "age", "sick"))
    with pytest.raises(DataError, match="must be alike, in one order"):
        make_setup(settings(f"csv:{source}", test_source=f"csv:{test}"))


def test_every_agent_has_the_rows_of_its_own_file(tmp_path: Path) -> None:
    """Whether they run in one process, or each in its own."""
    config = of_sites(tmp_path)
    together = make_setup(config)
    for agent in range(3):
        alone = make_setup(config, agent=agent)
        for pretraining in (True, False):
            one, other = (
                setup.shard(agent, pretraining=pretraining) for setup in (together, alone)
            )
            for a, b in zip(one.validation(), other.validation(), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
            for (a, _), (b, _) in zip(one.in_order(64), other.in_order(64), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert together.round_steps(agent) == alone.round_steps(agent)
        assert len(alone.test[1]) == (6, 8, 10)[agent]
        assert alone.config.merging.combine == together.config.merging.combine == "gram"
    assert len(together.test[1]) == 24
    dimat.run(replace(config, out=str(tmp_path / "run")), progress=False)


def test_a_source_of_each_agents_own_is_not_dealt_out_unless_it_is_said() -> None:
    source = "csv:site-{agent}.csv"
    by_default = RunConfig(data=DataConfig(source=source))
    assert by_default.data.split == "own"
    for given in (None, {}, RunConfig(), by_default):
        assert config_from(given, {"data": {"source": source}}).data.split == "own"
        assert config_from(given, {"data": source}).data.split == "own"
        assert config_from(given, {"data.source": source}).data.split == "own"
        own = config_from(given, {"task": "regression", "data": {"source": source}})
        assert own.data.split == "own"
        assert config_from(own, {"data": {"source": "csv:t.csv"}}).data.split == "iid"
        said = {"source": source, "split": "iid-then-by-class"}
        assert config_from(given, {"data": said}).data.split == "iid-then-by-class"
    assert with_setting(RunConfig(), "data.source", source).data.split == "own"
    assert with_setting(by_default, "data.source", "digits").data.split == "iid-then-by-class"
    iid = RunConfig(data=DataConfig(split="iid"))
    assert with_setting(iid, "data.source", source).data.split == "iid"


def test_a_site_may_have_one_class_and_few_categories_only(tmp_path: Path) -> None:
    config = of_sites(tmp_path)
    write(tmp_path / "site-1.csv", [(age, "red", "yes") for age, *_ in rows(40)])
    assert make_setup(config).shard(1, pretraining=False).class_counts(2).tolist()[0] == 0


@pytest.mark.parametrize(
    ("columns", "content", "message"),
    [
        (
            (*COLUMNS, "id"),
            [(*own, i) for i, own in enumerate(rows(20))],
            "agent 1 have a column 'id', which agent 0 has not: leave it out",
        ),
        (
            ("age", "sick"),
            [(own[0], own[2]) for own in rows(20)],
            "data.categories has 'color', which is no input",
        ),
        (
            ("color", "sick"),
            [own[1:] for own in rows(20)],
            "agent 1 have no column 'age', which agent 0 has: add it",
        ),
        (
            ("color", "age", "sick"),
            [(own[1], own[0], own[2]) for own in rows(20)],
            "agent 1 have 'color=blue|green|red' where agent 0 has 'age'",
        ),
        (
            COLUMNS,
            [("old" if own[0] > 50 else "young", *own[1:]) for own in rows(20)],
            "agent 1 have 'age=old|young' where agent 0 has 'age': list its categories",
        ),
        (
            COLUMNS,
            [(*own[:2], "perhaps") for own in rows(20)],
            "has class 'perhaps', which",
        ),
        (COLUMNS, rows(6), "agent 1 has 5 training samples of its own: it needs a full batch of 8"),
        (COLUMNS, [], "site-1.csv: has a header (age, color, sick), and no row"),
    ],
)
def test_a_site_that_differs_is_named_with_the_column_and_the_way_out(
    tmp_path: Path, columns: Sequence[str], content: Any, message: str
) -> None:
    config = of_sites(tmp_path)
    write(tmp_path / "site-1.csv", content, columns)
    with pytest.raises(DataError) as error:
        make_setup(config)
    assert message in str(error.value)


def test_categories_that_nobody_listed_differ_where_a_site_lacks_one(tmp_path: Path) -> None:
    config = of_sites(tmp_path, categories=())
    write(tmp_path / "site-2.csv", [own for own in rows(60) if own[1] != "green"])
    with pytest.raises(DataError, match=r"agent 2 have 'color=blue\|red' where agent 0 has"):
        make_setup(config)


def test_agents_at_their_sites_refuse_other_columns_when_they_meet(tmp_path: Path) -> None:
    from dimat.exchange.handshake import check_terms

    config = of_sites(tmp_path, categories=())
    write(tmp_path / "site-2.csv", [own for own in rows(60) if own[1] != "green"])
    ours, theirs = (handshake(make_setup(config, agent=i), matches=False) for i in (0, 2))
    with pytest.raises(StructureError, match=r"'columns' is color=blue\|red there"):
        check_terms(ours, theirs, "agent 2")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"split": "iid"},
            r"'data.split' is 'iid': must be own with a data.source that",
        ),
        ({"test_source": "csv:a-{agent}.csv"}, "'data.test_source' is .* must be one source, the"),
        ({"classes": ()}, "'data.classes' is .*the names of all classes"),
    ],
)
def test_settings_of_own_sources_that_do_not_fit_are_refused(
    tmp_path: Path, data: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dimat.run(of_sites(tmp_path, **data), progress=False)


def test_settings_of_tables_are_a_part_of_a_run_and_others_leave_its_digest(
    tmp_path: Path,
) -> None:
    config = settings(f"csv:{write(tmp_path / 't.csv', rows(60))}", fill=0.5, text=None)
    (tmp_path / "c.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config
    setup = make_setup(config)
    digest = run_digest(setup, setup.config)
    for data in ({"fill": None}, {"target": ()}, {"test_share": 0.3}, {"max_length": 3}):
        other = replace(setup.config, data=replace(setup.config.data, **data))
        assert run_digest(replace(setup, config=other), other) != digest


def test_classes_called_yes_and_no_are_text_and_not_true_and_false(tmp_path: Path) -> None:
    assert typed("data.classes", "no,yes,On,3") == ("no", "yes", "On", "3")
    path = tmp_path / "c.yaml"
    path.write_text('data: {classes: ["no", "yes"]}')
    assert load_config(path).data.classes == ("no", "yes")
    assert config_to_yaml(load_config(path)).count("'no'") == 1
    path.write_text("data: {classes: [no, yes]}")
    with pytest.raises(ConfigError, match="'data.classes' has true or false, which YAML makes of"):
        load_config(path)
