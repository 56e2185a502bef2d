"""The package of docs/extending.md: written down, checked, run, foreseen."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import dimat
from dimat.cli import main
from dimat.experiment.config.parse import load_config
from dimat.models import build_model
from dimat.registry import Registry

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
TABLES: list[Registry[Any]] = [
    *(dimat.METHODS, dimat.TOPOLOGIES, dimat.MATCHERS),
    *(dimat.COMBINERS, dimat.SOURCES, dimat.SPLITS, dimat.TASKS),
]
SMALL = "--rounds 1 --pretrain_epochs 1 --local_epochs 1 --threads 1"  # and else as it is there


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in re.findall(r"```python title=(\S+)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = [dict(table._things) for table in TABLES]
    yield tmp_path
    for table, things in zip(TABLES, before, strict=True):
        table._things = things
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


@pytest.mark.slow  # of each kind one more: tests/test_testing.py
def test_all_of_the_package_keeps_the_laws(package: Path) -> None:
    importlib.import_module("mypackage.checks").test_ours_keep_the_laws_of_dimat()
    added = [table.added for table in TABLES]
    assert [len(names) for names in added] == [2, 2, 1, 1, 1, 1, 1]


def test_the_commands_of_the_page_do_what_it_says(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0].replace("\\\n", " ")
    run, estimate = (shlex.split(line)[1:] for line in block.splitlines())
    assert main([*run, *SMALL.split(), "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "lazy" in out
    assert "adapt-then-combine" in out
    config = load_config(package / "run" / "config.yaml")
    assert (config.data.split, config.topology.name) == ("growing", "line")
    assert main([*estimate, *SMALL.split(), "--no-calibrate"]) == 0
    assert "lazy" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["run", "--import", "mypackage.methods", "--help"])
    assert "; also adapt-then-combine, lazy" in capsys.readouterr().out


def test_matcher_and_combiner_merge_checkpoints(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = build_model("mlp", in_channels=1, num_classes=10, image_size=(8, 8))
        save_file(model.state_dict(), package / f"{name}.safetensors")
    files = "merge a.safetensors b.safetensors --out c.safetensors --model mlp --data digits"
    ours = "--import mypackage.matchers,mypackage.combiners --method nearest --combine as-long"
    assert main(f"{files} {ours} --threads 1".split()) == 0
    assert (package / "c.safetensors").exists()


def test_the_file_of_the_page_is_the_command(package: Path) -> None:
    text = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[-1]
    (package / "lazy.yaml").write_text(text)
    config = load_config(package / "lazy.yaml")
    assert (config.imports, config.method) == (("mypackage.methods",), "lazy")
    assert config.method_options == ("keep=0.25",)


def test_the_entry_points_of_the_page_name_what_is_there(package: Path) -> None:
    points = re.findall(r'^\S+ = "(mypackage\S+)"$', PAGE, re.MULTILINE)
    assert len(points) == 2
    for value in points:
        assert callable(EntryPoint("own", value, "dimat.methods").load())


def test_the_groups_of_the_page_are_those_of_the_registries() -> None:
    for table in TABLES:
        assert f"`{table.group}`" in PAGE
