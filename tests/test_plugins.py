"""Methods and the like from another package: by --import, by entry points, as objects."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

import dimat
from dimat.cli import main
from dimat.errors import ConfigError
from dimat.experiment.config.config import CheckpointConfig
from dimat.experiment.config.methods import make_method
from dimat.experiment.config.parse import config_to_yaml, load_config
from dimat.experiment.config.validate import validate
from dimat.experiment.digests import pretrain_digest, run_digest
from dimat.experiment.recipe import LATER
from dimat.experiment.setup import make_setup
from dimat.methods import METHODS, Averaging, Consensus, DiLoCo, Dimat, Method
from dimat.topology import TOPOLOGIES

MODULE = '''
"""Everything of one's own, in one module."""
from dataclasses import dataclass

import networkx as nx

import dimat
from dimat.merging import mix
from dimat.methods import Method, RoundResult, setting
from dimat.methods.messages import distance_from, swap_states


@dimat.METHODS.register("lazy")
@dataclass(frozen=True)
class Lazy(Method):
    """Goes a part of the way to the average."""

    keep: float = 0.5
    order: str = setting("consensus.order", "combine")
    exchanges = "rounds"

    def merge(self, me):
        theirs = yield from swap_states(me)
        merged = mix([me.state, *theirs.values()], me.weights_of(theirs))
        kept = mix([me.state, merged], [self.keep, 1 - self.keep])
        return RoundResult(kept, disagreement=distance_from(me, me.state, theirs))


@dimat.TOPOLOGIES.register("line")
def line(agents):
    """Everyone but the ends has two neighbors."""
    return nx.path_graph(agents)
'''
SMALL = dimat.RunConfig(
    agents=3,
    rounds=2,
    pretrain_epochs=1,
    local_steps=2,
    topology="full",
    data={"train_images": 150, "split": "iid"},
    controls=(),
)
SMALL_WORDS = (
    "--agents=3 --rounds=2 --pretrain_epochs=1 --local_steps=2 --data.train_images=150 "
    "--data.split=iid --controls=wa --threads=1"
)


def command(line: str) -> int:
    return main(line.split())


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a test registers is gone after it."""
    tables: list[Any] = [METHODS, TOPOLOGIES]
    before = [dict(table._things) for table in tables]
    yield
    for table, things in zip(tables, before, strict=True):
        table._things = things
    sys.modules.pop("mymethods", None)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mymethods.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_module_is_imported_by_the_command_line_and_a_run_goes_on_without_it(
    module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = "run --import mymethods --method lazy --topology line --out run"
    assert command(f"{named} --method-options keep=0.25 {SMALL_WORDS}") == 0
    assert "lazy" in capsys.readouterr().out
    config = load_config(module / "run" / "config.yaml")
    assert (config.imports, config.method_options) == (("mymethods",), ("keep=0.25",))
    del METHODS["lazy"], TOPOLOGIES["line"], sys.modules["mymethods"]  # as in a new process
    assert main(["resume", "run"]) == 0
    assert vars(make_method(config))["keep"] == 0.25


def test_a_parameter_makes_another_run(module: Path) -> None:
    found = []
    for options in ((), ("keep=1.0",)):
        config = replace(SMALL, method="lazy", imports=("mymethods",), method_options=options)
        result = dimat.run(config, out=str(module / f"run{len(found)}"), progress=False)
        found.append(result.main.summary["test_accuracy_mean"])
    assert found[0] != found[1]


def test_what_is_imported_is_compared_and_is_in_the_help(
    module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(config_to_yaml(replace(SMALL, imports=("mymethods",))))
    (module / "small.yaml").write_text(
        yaml.safe_dump({**settings, "method_options": {"keep": 0.25}})
    )
    assert (
        main(["compare", "small.yaml", "--methods", "wa,lazy", "--seeds", "0", "--out", "all"]) == 0
    )
    assert "lazy" in capsys.readouterr().out
    assert command("report all --out page") == 0
    assert "lazy" in (module / "page" / "index.html").read_text()
    for words in ("--help", "--help all"):
        with pytest.raises(SystemExit):
            main(f"run --import mymethods {words}".split())
        out = " ".join(capsys.readouterr().out.split())
        assert "also lazy" in out
        assert "also line" in out


def test_a_graph_of_ones_own_is_printed(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("topology line --agents 4 --import mymethods --model mlp") == 0
    assert "edges 3" in " ".join(capsys.readouterr().out.split())


def test_what_a_package_adds_is_a_method_without_any_import(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(module))
    point = EntryPoint("lazier", "mymethods:Lazy", "dimat.methods")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point])
    monkeypatch.delitem(vars(METHODS), "_outside", raising=False)
    try:
        config = replace(SMALL, method="lazier")
        validate(config)
        assert "lazier" in METHODS
        assert type(make_method(config)).__name__ == "Lazy"
        assert "lazier" in METHODS.added
    finally:
        vars(METHODS).pop("_outside", None)


def test_a_module_that_cannot_be_imported_ends_the_command(
    module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (module / "mymethods.py").write_text("this is no Python")
    assert main(["run", "--import", "mymethods"]) == 2
    err = capsys.readouterr().err
    assert "setting 'imports' has 'mymethods', which cannot be imported: SyntaxError" in err
    assert "PYTHONPATH" not in err  # it is there
    assert main(["run", "--import", "./mymethods.py"]) == 2
    assert "must be the name of a module, such as mymethods for that file" in (
        capsys.readouterr().err
    )


# --- methods as objects ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Own(Method):
    """With parameters of every kind."""

    share: float = 0.5
    end: int | None = None
    eager: bool = False
    way: str = "up"


def test_an_object_is_its_name_and_its_parameters(tmp_path: Path) -> None:
    METHODS.register("own", Own)
    method = Own(share=0.25, end=3, eager=True, way="down")
    config = replace(SMALL, method=method)  # type: ignore[arg-type]
    assert config.method == "own"
    assert make_method(config) == method
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Consensus("adapt"), {"method": "cdsgd", "consensus.order": "adapt"}),
        (DiLoCo(momentum=0.5), {"method": "diloco", "outer.momentum": 0.5}),
        (Dimat("pairwise"), {"method": "dimat", "matching.gauge": "pairwise"}),
        (Dimat(), {"method": "dimat", "matching.gauge": "auto"}),
        (Averaging(mix_memory=True), {"method": "wa", "optimizer.on_merge": "mix"}),
    ],
)
def test_an_object_of_dimats_is_its_settings(method: Any, settings: dict[str, object]) -> None:
    from dimat.experiment.config.access import flat

    found = flat(dimat.RunConfig(method=method))
    assert {name: found[name] for name in settings} == settings
    if method != Dimat():  # whose gauge is left to the settings
        assert make_method(dimat.RunConfig(method=method)) == method


def test_an_object_and_a_setting_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'outer.lr' is 0.1, and 'method' is DiLoCo.lr=0.2"):
        dimat.RunConfig(method=DiLoCo(0.2), outer={"lr": 0.1})  # type: ignore[arg-type]


def test_an_object_of_a_class_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="class that is not registered.*METHODS.register"):
        dimat.RunConfig(method=Own())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["shar=1"], "has 'shar=1', and no method of this run .own. .* did you mean 'share'"),
        (["share=much"], "has 'share=much': of method 'own' it must be a number"),
        (["end=0.5"], "must be a whole number or null"),
        (["eager=yes"], "must be true or false"),
        (["share"], "has 'share': must be NAME=VALUE"),
        (["share=1", "share=2"], "has 'share' twice"),
    ],
)
def test_an_option_that_no_method_can_use_is_refused(options: list[str], message: str) -> None:
    METHODS.register("own", Own)
    with pytest.raises(ConfigError, match=message):
        validate(replace(SMALL, method="own", method_options=tuple(options)))


def test_a_method_that_refuses_its_parameters_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Picky(Method):
        share: float = 0.5

        def __post_init__(self) -> None:
            if self.share > 1:
                raise ValueError("a share is at most 1")

    monkeypatch.setitem(METHODS, "picky", Picky)
    with pytest.raises(ConfigError, match="making method 'picky' failed.*a share is at most 1"):
        validate(replace(SMALL, method="picky", method_options=("share=2",)))


def test_what_is_no_method_is_not_registered() -> None:
    @dataclass(frozen=True)
    class Bare(Method):
        share: float

    for thing, rule in ((Own(), "must be a class"), (int, "must be a class"), (Bare, "no default")):
        with pytest.raises(ConfigError, match=rule):
            METHODS.register("bare", thing)


def test_a_parameter_of_a_setting_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dimat.methods import setting

    @dataclass(frozen=True)
    class Lost(Method):
        order: str = setting("consensus.oder", "combine")

    monkeypatch.setitem(METHODS, "lost", Lost)
    with pytest.raises(ConfigError, match="'lost': parameter 'order': .*did you mean 'consensus"):
        validate(replace(SMALL, method="lost"))


def test_a_run_that_was_begun_before_there_were_options_goes_on() -> None:
    """Its digest is that of the settings that there were then."""
    setup = make_setup(SMALL)
    first = replace(SMALL, max_wall_s=None, vectorize=1, checkpoint=CheckpointConfig(every=1))
    then = yaml.safe_load(config_to_yaml(first))
    for name, value in LATER.items():
        group, _, last = name.rpartition(".")
        assert (then[group] if group else then).pop(last) == value
    before = yaml.safe_dump(then, sort_keys=False, allow_unicode=True)
    assert "imports" not in before
    digest = hashlib.sha256((before + pretrain_digest(setup)).encode())
    for indices in setup.parts.rounds:
        digest.update(indices.tobytes())
    assert run_digest(setup, SMALL) == digest.hexdigest()
    other = replace(SMALL, method_options=("keep=1",))
    assert run_digest(setup, other) != run_digest(setup, SMALL)


def test_a_comparison_may_vary_an_option(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (module / "small.yaml").write_text(config_to_yaml(replace(SMALL, imports=("mymethods",))))
    grid = "--grid.method_options=[[keep=0.25],[keep=0.75]]"
    assert command(f"compare small.yaml --methods lazy --seeds 0 --out all {grid}") == 0
    out = capsys.readouterr().out
    assert "keep=0.25" in out
    assert "keep=0.75" in out


def test_a_run_records_what_it_was_made_of(tmp_path: Path) -> None:
    METHODS.register("own", Own)
    dimat.run(SMALL, method=Own(share=0.75), out=str(tmp_path / "run"), progress=False)
    record = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert record["method"] == "own"
    assert load_config(tmp_path / "run" / "config.yaml").method_options == ("share=0.75",)
