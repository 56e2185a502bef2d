"""``dimat compare`` on the command line: what it prints, what it refuses and how, its exit codes.

Nothing here trains: a fake takes the place of the runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dimat import RunConfig
from dimat.cli import main
from dimat.errors import DataError
from dimat.experiment.record.run_folder import RunFolder

GROUP = {"methods": ["dimat", "wa"], "seeds": "0..2", "grid": {"topology.name": ["ring", "star"]}}


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(yaml.safe_dump({"agents": 3, "compare": GROUP}, sort_keys=False))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Configs of the runs that were asked for."""
    configs: list[RunConfig] = []

    def run(config: RunConfig, observer: object = None, *, pretrained: Path) -> None:
        assert config.out is not None
        configs.append(config)
        folder = RunFolder.open(Path(config.out), config, config.method)
        if config.batch_size == 13:
            raise DataError("thirteen images are unlucky")
        if config.batch_size == 14:
            raise KeyboardInterrupt
        for own in (folder, *map(folder.control, config.controls)):
            line = {"round": 0, "agent": 0, "phase": "trained", "test_accuracy": 0.5}
            own.append(line | {"sent_bytes": 8})
            own.write_json("summary", {"test_accuracy_mean": 0.5 + config.seed / 10})

    monkeypatch.setattr("dimat.experiment.run.run_or_resume", run)
    return configs


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The message that ``argv`` is refused with: one line, exit code 2, nothing written."""
    before = sorted(Path().rglob("*"))
    assert main(["compare", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dimat: error: ")
    assert len(err.splitlines()) == 1
    assert sorted(Path().rglob("*")) == before
    return err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "setting 'base' is missing, as in: dimat compare FILE.yaml"),
        ("none.yaml", "config file 'none.yaml': cannot be read: No such file or directory"),
        ("base.yaml --sedes 3", "unknown setting 'sedes': did you mean 'seeds'?"),
        ("base.yaml --method wa", "'method' is set for each cell: methods are given by --methods"),
        ("base.yaml --agens 3", "unknown setting 'agens': did you mean 'agents'?"),
        ("base.yaml --agents x", "setting 'agents' is 'x': must be a whole number"),
        ("base.yaml --agents 0", "cell 'topology.name=ring,seed=0': setting 'agents' is 0: must"),
        ("base.yaml --agents", "setting 'agents' has no value: write --agents VALUE"),
        ("base.yaml --agents --yes", "setting 'agents' has no value: write --agents VALUE"),
        ("base.yaml --topology ring", "varies: give its values by --grid.topology.name"),
        ("base.yaml --matching x", "setting 'matching' is 'x': must be set by its parts"),
        ("base.yaml --topology.name full", "varies: give its values by --grid.topology.name"),
        ("base.yaml --grid.topology.nam x", "'topology.nam': did you mean 'topology.name'?"),
        ("base.yaml --grid.matching x", "'matching' is 'x': must be set by its parts"),
        ("base.yaml --grid.topology.name rnig", "is 'rnig', which is unknown: did you mean 'ring'"),
        ("base.yaml --grid.agents 3,x", "setting 'agents' is 'x': must be a whole number"),
        ("base.yaml --grid.agents=", "'grid.agents' has no values, which makes 0 cells"),
        ("base.yaml --grid.agents 3,3", "setting 'grid.agents' has '3' twice"),
        ("base.yaml --grid.seed 1,2", "'grid.seed' is set for each cell: seeds are given by --see"),
        ("base.yaml --seeds 4..1", "setting 'seeds' is '4..1': must be such as 0..4"),
        ("base.yaml --seeds 0..600", "that makes 1,202 cells: add --yes if they are wanted"),
        ("base.yaml --methods dimat,locl", "'locl', which is unknown: did you mean 'local'?"),
        ("base.yaml --methods=", "'methods' has no values, which makes 0 cells"),
        ("base.yaml --jobs 0", "setting 'jobs' is 0: must be >= 1"),
        ("base.yaml --jobs two", "setting 'jobs' is 'two': must be a whole number"),
        ("base.yaml other.yaml", "unexpected 'other.yaml'"),
        ("base.yaml --out base.yaml", "'base.yaml' is a file: give a folder by --out"),
    ],
)
def test_a_bad_command_is_refused(
    capsys: pytest.CaptureFixture[str], argv: str, message: str
) -> None:
    assert message in refusal(capsys, *argv.split())


def test_the_file_alone_is_enough_and_the_tables_are_printed(
    ran: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "base.yaml"]) == 0
    out = capsys.readouterr().out
    assert [(c.topology.name, c.seed, c.method, c.controls) for c in ran] == [
        (topology, seed, "dimat", ("wa",)) for topology in ("ring", "star") for seed in range(3)
    ]
    assert out.count("60.0 ± 10.0") == 4
    assert "topology.name=star · n = 3" in out
    assert out.splitlines()[-1] == "comparison: runs/compare-base"
    assert Path("runs/compare-base/comparison.txt").read_text().strip() in out


def test_options_override_the_file_wherever_they_stand(ran: list[RunConfig]) -> None:
    options = "--seeds 5 --batch_size=8 base.yaml --grid.topology.name full --out here"
    assert main(["compare", *options.split(), "--methods", "wa"]) == 0
    assert [(c.seed, c.batch_size, c.topology.name, c.method, c.controls) for c in ran] == [
        (5, 8, "full", "wa", ())
    ]
    assert Path("here/comparison.csv").exists()


def test_a_comparison_is_gone_on_with_by_its_own_file(ran: list[RunConfig]) -> None:
    assert main(["compare", "base.yaml", "--out", "here"]) == 0
    Path("here/cells/topology.name=star,seed=1/summary.json").unlink()
    ran.clear()
    assert main(["compare", "here/comparison.yaml"]) == 0
    assert [(c.topology.name, c.seed) for c in ran] == [("star", 1)]


def test_a_failing_cell_is_told_at_the_end_in_one_line(
    ran: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "base.yaml", "--seeds=0", "--grid.batch_size=13,16"]
    assert main([*argv, "--grid.topology.name=ring"]) == 1
    out, err = capsys.readouterr()
    assert "n = 0 of 1 seeds · unfinished: seed 0" in out
    last = err.splitlines()[-1]
    assert last.startswith("dimat: error: 1 of 2 cells failed, and the same command tries again")
    assert last.endswith(
        "cell 'topology.name=ring,batch_size=13,seed=0': thirteen images are unlucky"
    )


def test_an_interrupted_comparison_says_that_the_same_command_goes_on(
    ran: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "base.yaml", "--batch_size", "14"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "recorded is kept in runs/compare-base: the same command goes on" in err
    assert "Traceback" not in err


def test_help_names_every_option_and_needs_no_torch() -> None:
    script = (
        "import sys\nfrom dimat.cli import main\n"
        "try: main(['compare', '--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    options = set(re.findall(r"--[a-z]+", done.stdout))
    assert options >= {"--methods", "--seeds", "--grid", "--jobs", "--out", "--yes"}
    assert "--given" not in options


def test_what_is_read_again_is_what_was_written(ran: list[RunConfig]) -> None:
    assert main(["compare", "base.yaml", "--out=a"]) == 0
    assert main(["compare", "a/comparison.yaml", "--out=b"]) == 0
    assert Path("a/comparison.yaml").read_bytes() == Path("b/comparison.yaml").read_bytes()
    content = yaml.safe_load(Path("a/comparison.yaml").read_text())
    assert list(content) == ["digest", "base", "methods", "seeds", "grid"]
    assert json.dumps(content["grid"]) == '{"topology.name": ["ring", "star"]}'
