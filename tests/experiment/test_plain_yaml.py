"""Files of settings that no one means: deep, endless, with a key twice; each refused in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dimat.errors import ConfigError, RecordError
from dimat.experiment.config.parse import load_config
from dimat.plain_yaml import load_yaml
from dimat.tools.compare.read import read_spec
from dimat.tools.records.files import read_yaml as read_record

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
REFUSED = {
    "brackets": (f"agents: {'[' * 10_000}{']' * 10_000}", 1, "more than 20 levels deep"),
    "braces": (f"topology: {'{a: ' * 10_000}1{'}' * 10_000}", 1, "more than 20 levels deep"),
    "blocks": ("\n".join(f"{' ' * k}a:" for k in range(1_000)), 20, "more than 20 levels deep"),
    "laughs": (LAUGHS, 6, "more than 1,000,000 values"),
    "itself": ("topology: &a\n  name: *a\n", 2, "an alias of what it is a part of"),
    "merges": ("a: &a {x: 1}\nb: &b {<<: *b}\n", 2, "an alias of what it is a part of"),
    "twice": ("agents: 3\nrounds: 1\nagents: 4\n", 3, "'agents' is given twice, in line 1 too"),
    "inside": ("topology:\n  name: ring\n  name: star\n", 3, "'name' is given twice, in line 2"),
    "quoted": ("agents: 3\n'agents': 4\n", 2, "'agents' is given twice, in line 1"),
    "on one line": ("topology: {name: ring, name: star}", 1, "'name' is given twice, in line 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_means_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    text, line, problem = REFUSED[name]
    path = tmp_path / "c.yaml"
    path.write_text(text)
    for read in (load_config, read_spec):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert str(caught.value).startswith(f"config file '{path}': broken YAML in line {line}: ")
        assert problem in str(caught.value)
    with pytest.raises(RecordError, match=rf"c\.yaml, line {line}: not settings as YAML"):
        read_record(path)


@pytest.mark.parametrize(
    "text", ['agents: !!int ""', "agents: 2026-99-99", "agents: !!bool x", f"agents: {'9' * 5_000}"]
)
def test_a_value_that_yaml_chokes_on_is_no_text_of_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="not YAML text: a value that cannot be read"):
        load_config(tmp_path / "c.yaml")


def test_a_file_of_settings_has_an_end(tmp_path: Path) -> None:
    with (tmp_path / "c.yaml").open("w") as file:
        file.truncate(10_000_001)
    with pytest.raises(ConfigError, match="longer than 10,000,000 characters"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("order", [1, -1])
def test_a_setting_and_the_same_in_its_group_are_given_twice(order: int, tmp_path: Path) -> None:
    lines = ["topology.name: star\n", "topology:\n  name: full\n"][::order]
    (tmp_path / "c.yaml").write_text("".join(lines))
    with pytest.raises(ConfigError, match=r"'topology\.name' is given twice, in the group"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 2]\nb: *a\nc: [*a, *a]",
        "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, z: 1}\nd: {<<: [*a, *b]}",
        "1: a\n'1': b",
        "a: 2026-01-01\nb: !!set {x, y}\nc: !!omap [x: 1]",
        "[]",
        "",
    ],
)
def test_all_other_yaml_is_read_as_pyyaml_reads_it(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)
