"""What a comparison asks for: the file, the command line, the grid, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dimat import RunConfig
from dimat.errors import ConfigError
from dimat.experiment.config.access import flat, point_name, typed, with_setting
from dimat.experiment.config.config import DataConfig, RecalibrationConfig, TopologyConfig
from dimat.experiment.config.parse import config_to_yaml
from dimat.tools.compare.folder import spec_to_yaml
from dimat.tools.compare.read import Overrides, parse_seeds, read_out, read_spec
from dimat.tools.compare.spec import Spec, canonical, difference, digest, expand

GRID = {"topology.name": ("ring", "full"), "optimizer.lr": (0.1, 0.01, 0.001)}
SPEC = Spec(RunConfig(agents=3), ("dimat", "wa", "local"), (0, 1), GRID)


def written(path: Path, **content: object) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_cells_are_the_product_in_the_order_given_with_seeds_fastest() -> None:
    found = [(*cell.point.values(), cell.seed) for cell in expand(SPEC)]
    assert found == list(product(*GRID.values(), (0, 1)))
    assert len(found) == SPEC.num_cells
    assert expand(SPEC)[1].name == "topology.name=ring,optimizer.lr=0.1,seed=1"


def test_a_cell_has_the_base_but_for_its_point_seed_and_methods() -> None:
    cell = expand(SPEC)[-1]
    assert cell.config == replace(
        SPEC.base,
        method="dimat",
        controls=("wa", "local"),
        seed=1,
        topology=TopologyConfig("full"),
        optimizer=replace(SPEC.base.optimizer, lr=0.001),
    )


def test_without_a_grid_there_is_a_cell_for_every_seed() -> None:
    cells = expand(replace(SPEC, grid={}))
    assert [cell.name for cell in cells] == ["seed=0", "seed=1"]


TEXT = st.text(st.characters(exclude_categories=("C",)), max_size=8)


@given(a=TEXT, b=TEXT, c=TEXT, d=TEXT)
def test_different_points_have_different_names_that_are_names_of_folders(
    a: str, b: str, c: str, d: str
) -> None:
    first, second = {"model": a, "data.source": b}, {"model": c, "data.source": d}
    assert (point_name(first) == point_name(second)) == (first == second)
    assert "/" not in point_name(first)


def test_a_point_with_long_values_has_a_name_that_file_systems_take() -> None:
    names = {point_name({"model": "x" * 300 + end, "seed": 1}) for end in "ab"}
    assert len(names) == 2
    assert max(map(len, names)) < 220


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("agents", "5", 5),
        ("optimizer.lr", "1e-3", 0.001),
        ("optimizer.lr", 1, 1.0),
        ("local_steps", "null", None),
        ("local_steps", None, None),
        ("data.augment", "true", True),
        ("model", "5", "5"),
        ("recalibration.methods", "dimat,wa", ("dimat", "wa")),
        ("recalibration.methods", ["wa"], ("wa",)),
    ],
)
def test_a_value_has_the_type_of_its_setting(name: str, text: object, value: object) -> None:
    found = typed(name, text)
    assert (found, type(found)) == (value, type(value))
    assert flat(with_setting(RunConfig(), name, found))[name] == (
        list(value) if isinstance(value, tuple) else value
    )


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0..4", (0, 1, 2, 3, 4)), ("0,2,5", (0, 2, 5)), ("3", (3,)), (7, (7,)), ("1..1", (1,))],
)
def test_seeds_are_a_range_a_list_or_a_number(text: object, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "4..0", "0..", "a", "-1", "0...3", "1.5", True, None, "0,,1"])
def test_other_seeds_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match=r"setting 'seeds' is .*: must be such as 0\.\.4"):
        parse_seeds(text)


def test_a_range_of_seeds_without_end_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="'seeds' is '0..999999999999'"):
        parse_seeds("0..999999999999")


def test_the_file_alone_can_say_everything(tmp_path: Path) -> None:
    group = {"methods": ["wa", "dimat"], "seeds": "1..2", "grid": {"topology.name": ["ring"]}}
    path = written(tmp_path / "c.yaml", agents=3, topology={"mixing": "uniform"}, compare=group)
    topology = TopologyConfig(mixing="uniform")
    expected = Spec(
        RunConfig(agents=3, topology=topology),
        ("wa", "dimat"),
        (1, 2),
        {"topology.name": ("ring",)},
    )
    assert read_spec(path) == expected


def test_a_file_of_a_run_is_compared_as_it_is(tmp_path: Path) -> None:
    config = RunConfig(method="wa", controls=("local", "wa", "dimat"), seed=4)
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert read_spec(path) == Spec(config, ("wa", "local", "dimat"), (4,), {})


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    group = {"methods": "wa", "seeds": 1, "grid": {"topology.name": "ring", "agents": [3, 4]}}
    path = written(tmp_path / "c.yaml", batch_size=8, compare=group)
    wishes = Overrides("dimat,local", "5", {"topology.name": "full,star"}, {"batch_size": "16"})
    spec = read_spec(path, wishes)
    assert spec.base.batch_size == 16
    assert (spec.methods, spec.seeds) == (("dimat", "local"), (5,))
    assert spec.grid == {"topology.name": ("full", "star"), "agents": (3, 4)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"agens": 3}, "unknown setting 'agens': did you mean 'agents'?"),
        ({"topology": {"nam": "x"}}, "unknown setting 'topology.nam': did you mean 'topology.name"),
        ({"agents": "five"}, "setting 'agents' is 'five': must be a whole number"),
        ({"matching": "x"}, "setting 'matching' is 'x': must be set by its parts"),
        ({"compare": {"sedes": 1}}, "unknown setting 'compare.sedes': did you mean 'seeds'?"),
        ({"compare": 3}, "setting 'compare' is 3: must be set by its parts: methods, seeds, grid"),
        ({"compare": {"methods": 3}}, "setting 'methods' is 3: must be names of methods"),
        ({"compare": {"grid": ["agents"]}}, "setting 'grid' is ['agents']: must be settings with"),
        ({"compare": {"grid": {"agens": [3]}}}, "unknown setting 'agens': did you mean 'agents'?"),
        ({"compare": {"grid": {"agents": [3, "x"]}}}, "setting 'agents' is 'x': must be a whole"),
        ({"compare": {"grid": {"topology": {"name": ["ring"]}}}}, "must be set by its parts"),
        ({"compare": {"grid": {"seed": [1]}}}, "'grid.seed' is set for each cell: seeds are given"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_of_the_file(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_spec(written(tmp_path / "c.yaml", **content))
    assert str(caught.value).startswith(f"config file '{tmp_path / 'c.yaml'}': ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("seed", "--seeds"),
        ("method", "--methods"),
        ("controls", "--methods"),
        ("out", "--out"),
        ("overwrite", "--out"),
    ],
)
def test_what_a_comparison_sets_itself_is_refused_with_the_way_out(
    tmp_path: Path, name: str, way_out: str
) -> None:
    path = written(tmp_path / "c.yaml", agents=3)
    for wishes in (Overrides(grid={name: "1,2"}), Overrides(settings={name: "1"})):
        with pytest.raises(ConfigError, match=f"{name}' is set for each cell: .*{way_out}"):
            read_spec(path, wishes)
    with pytest.raises(ConfigError, match=f"'grid.{name}' is set for each cell"):
        Spec(RunConfig(), ("dimat",), (0,), {name: ("1",)})


def test_a_setting_of_the_grid_cannot_be_one_value_as_well(tmp_path: Path) -> None:
    path = written(tmp_path / "c.yaml", compare={"grid": {"agents": [3, 4]}})
    with pytest.raises(ConfigError, match=r"'agents' varies: give its values by --grid\.agents"):
        read_spec(path, Overrides(settings={"agents": "5"}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"methods": ()}, "'methods' has no values, which makes 0 cells"),
        ({"seeds": ()}, "'seeds' has no values, which makes 0 cells"),
        ({"grid": {"agents": ()}}, "'grid.agents' has no values, which makes 0 cells"),
        ({"methods": ("wa", "wa")}, "'methods' has 'wa' twice"),
        ({"seeds": (1, 2, 1)}, "'seeds' has '1' twice"),
        ({"grid": {"local_steps": (None, 3, None)}}, "'grid.local_steps' has 'null' twice"),
        ({"grid": {"agens": (1,)}}, "unknown setting 'agens': did you mean 'agents'?"),
    ],
)
def test_nothing_to_compare_and_everything_twice_are_refused(
    changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(SPEC, **changed)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_the_digest_is_of_what_is_computed_and_of_nothing_else() -> None:
    other = RunConfig(agents=3, method="local", controls=(), seed=9, out="x", overwrite=True)
    other = replace(other, topology=TopologyConfig("star"))
    assert digest(replace(SPEC, base=other)) == digest(SPEC)
    assert difference(SPEC, replace(SPEC, base=other)) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"base": RunConfig(agents=4)}, "'agents' is 3, there 4"),
        (
            {"base": RunConfig(agents=3, data=DataConfig(train_images=10))},
            "'data.train_images' is null, there 10",
        ),
        (
            {"base": RunConfig(agents=3, recalibration=RecalibrationConfig(("wa",)))},
            "'recalibration.methods' is",
        ),
        (
            {"methods": ("dimat", "local", "wa")},
            "'methods' is dimat,wa,local, there dimat,local,wa",
        ),
        ({"seeds": (0,)}, "'seeds' is 0,1, there 0"),
        ({"grid": {"topology.name": ("ring", "full")}}, "'grid.optimizer.lr' is"),
        ({"grid": dict(reversed(GRID.items()))}, "in another order"),
        ({"grid": GRID | {"topology.name": ("ring",)}}, "'grid.topology.name' is ring,full, there"),
    ],
)
def test_another_comparison_has_another_digest_and_a_first_difference(
    changed: dict[str, object], said: str
) -> None:
    other = replace(SPEC, **changed)  # type: ignore[arg-type]
    assert digest(other) != digest(SPEC)
    found = difference(SPEC, other)
    assert found is not None
    assert said in found


def test_a_comparison_survives_its_yaml(tmp_path: Path) -> None:
    grid = GRID | {"recalibration.methods": (("dimat",), ()), "local_steps": (None, 3)}
    spec = replace(SPEC, grid=grid)
    path = tmp_path / "comparison.yaml"
    path.write_text(spec_to_yaml(spec))
    again = read_spec(path)
    assert canonical(again) == canonical(spec)
    assert yaml.safe_load(path.read_text())["digest"] == digest(spec)
    assert read_out(path) == tmp_path


def test_the_folder_is_named_after_the_file() -> None:
    assert read_out(Path("configs/small/ring-by-class.yaml")) == Path("runs/compare-ring-by-class")
